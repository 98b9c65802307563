"""Comparison on resume: settings, wiring, and the content of the data must not change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mixseg.configuration.loading import as_parsed
from mixseg.files.provenance import sha256_of

#: Entries, at whatever depth, that cannot change the result of a training that goes as far, or
#: that only say how far it goes. The data's places are free because their content is compared.
FREE = frozenset(
    {
        "bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir",
        "device", "num_workers", "progress", "resume", "overwrite", "init_weights",
        "max_epochs", "val_interval", "checkpoint_interval", "patience",
    }
)  # fmt: skip
#: Entries at the top that say what is run, not how it is trained.
_WORKFLOW = frozenset({"imports", "initialize", "run", "training", "finalize", "_meta_"})

_SPLITS = ("training", "validation")
_WORKERS = min(8, (os.cpu_count() or 1) + 2)
_SHOWN = 20
_ABSENT = "nothing"


def config_differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """A line for each entry that can change the result and is not what it was."""
    one, other = (
        {k: v for k, v in config.items() if k not in _WORKFLOW} for config in (recorded, present)
    )
    return [
        f"{place}: recorded {_shown(before)}, now {_shown(now)}"
        for place, before, now in _pairs(one, other)
    ]


def fingerprint(
    cases: Mapping[str, Sequence[Mapping[str, Any]]], progress: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Fingerprint of the cases of each split: their entries, and the content of their files.

    Every file is read. Sizes and dates would be faster, and miss a mask that was edited by a tool
    that keeps both.

    Args:
        cases: split → cases, in their order, as :func:`mixseg.data.select_cases` returns them.

    Returns:
        Split → cases; in place of a file its name and the SHA-256 of its content.
    """
    files = {
        str(value)
        for items in cases.values()
        for item in items
        for values in item.values()
        # Several files may be the channels of one image.
        for value in (values if isinstance(values, list) else [values])
        if _is_file(value)
    }
    with ThreadPoolExecutor(_WORKERS) as pool:
        done = tqdm(
            pool.map(_digest, sorted(files)),
            total=len(files),
            desc="hashing the data",
            unit="file",
            delay=2,  # seconds: a bar for few data would come and go
            disable=not progress,
        )
        digests = dict(zip(sorted(files), done, strict=True))

    def described(value: Any) -> Any:
        if isinstance(value, list):
            return [described(each) for each in value]
        if not _is_file(value):
            return value
        return {"file": Path(value).name, "sha256": digests[str(value)]}

    return {
        split: [{key: described(value) for key, value in item.items()} for item in items]
        for split, items in cases.items()
    }


def data_differences(
    recorded: Mapping[str, Sequence[Mapping[str, Any]]],
    present: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[str]:
    """A line for each case that is not what it was, and for an order that has changed."""
    before, now = _by_case(recorded), _by_case(present)
    lines = []
    for case in [*before, *(case for case in now if case not in before)]:
        if case not in now:
            lines.append(f"case '{case}' is missing, it was in the {before[case][0]} split")
        elif case not in before:
            lines.append(f"case '{case}' is new, in the {now[case][0]} split")
        elif before[case][0] != now[case][0]:
            (was, _), (is_now, _) = before[case], now[case]
            lines.append(f"case '{case}' is in the {is_now} split now, was in {was}")
        else:
            lines += _case_differences(case, before[case][1], now[case][1])
    if not lines:
        for split in _SPLITS:
            orders = [[_name(item) for item in data.get(split, ())] for data in (recorded, present)]
            if orders[0] != orders[1]:
                lines.append(f"the {split} cases are the same, in another order")
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"… and {more} more cases"] if more > 0 else [])]


def _case_differences(
    case: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    for key in dict.fromkeys([*before, *now]):
        one, other = before.get(key), now.get(key)
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs = list(zip(one, other, strict=True))  # a file a channel
        else:
            pairs = [(one, other)]
        if all(_is_hashed(first) and _is_hashed(second) for first, second in pairs):
            for first, second in pairs:
                if first["sha256"] != second["sha256"]:
                    yield f"case '{case}': the content of its {key} ({second['file']}) has changed"
        elif one != other:
            yield f"case '{case}', {key}: recorded {_shown(one)}, now {_shown(other)}"


def _is_hashed(value: Any) -> bool:
    return isinstance(value, dict) and "sha256" in value


def _by_case(
    data: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {_name(item): (split, item) for split, items in data.items() for item in items}


def _name(item: Mapping[str, Any]) -> str:
    """A case's id; MONAI Label's own cases have none, their image tells them apart."""
    image = item.get("image")
    return str(item.get("case_id", image["file"] if isinstance(image, dict) else image))


def _pairs(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            if key not in FREE:
                inner = f"{place}#{key}" if place else str(key)
                yield from _pairs(one.get(key, _ABSENT), other.get(key, _ABSENT), inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        if all(not isinstance(item, dict | list) for item in (*one, *other)):
            if as_parsed(one) != as_parsed(other):
                yield place, one, other
        else:
            for index, (first, second) in enumerate(zip(one, other, strict=True)):
                yield from _pairs(first, second, f"{place}#{index}")
    elif as_parsed(one) != as_parsed(other):
        yield place, one, other


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and os.path.exists(value)


def _parts(path: Path) -> list[Path]:
    """The file itself, or the files of a folder, such as a DICOM series."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _digest(path: str) -> str:
    parts = [sha256_of(part) for part in _parts(Path(path))]
    return parts[0] if len(parts) == 1 else " ".join(parts)
