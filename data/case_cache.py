"""Whole volumes kept ready to be cut: in memory, or as plain arrays on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor

from mixseg.data.threads import in_threads

IMAGE_DTYPES = {"float16": torch.float16, "float32": torch.float32}

_META = "case.json"


@dataclass(frozen=True)
class CachedCase:
    """One case after its deterministic transforms.

    Attributes:
        case_id: its name.
        supervision: full, partial, noisy or none.
        channels: of the image.
        shape: spatial sizes (H, W, D).
        maps: image (channels, H, W, D) and integer maps (1, H, W, D) in memory; empty on disk.
        folder: where the maps lie as ``<key>.npy``; None in memory.
        keys: the maps that the case has.
    """

    case_id: str
    supervision: str
    channels: int
    shape: tuple[int, int, int]
    keys: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    folder: Path | None = None

    def read(self, key: str, box: tuple[slice, slice, slice]) -> Tensor | None:
        """The part of a map inside ``box``, all channels; None where the case has no such map.

        In memory a view of the cached tensor; from disk a copy.
        """
        if key not in self.keys:
            return None
        if self.folder is None:
            return self.maps[key][(slice(None), *box)]
        return torch.from_numpy(_read_rows(self.folder / f"{key}.npy", box[0], box[1])[..., box[2]])


@dataclass(frozen=True)
class _Rules:
    """What a cached case is made of."""

    num_classes: int
    label_keys: tuple[str, ...]
    image_dtype: str


def load_cases(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    *,
    num_classes: int,
    label_keys: Sequence[str],
    image_dtype: str,
    device: torch.device,
    cache_dir: str | os.PathLike[str] | None,
    num_workers: int | None,
    progress: bool,
) -> list[CachedCase]:
    """Run the transforms once on every case and keep the results in compact types.

    With ``cache_dir`` each case is a folder of plain ``.npy`` files there, named after the case
    and a hash of its item, the sizes and times of its files, the transforms and the types; a later
    run with the same ones reads it. Folders are written under a temporary name and renamed, so
    that processes may share a cache and an interrupted run leaves none half written.

    Raises:
        ValueError: an image with NaN or infinite values, of wrong rank or too large for its type;
            a label of another shape or with values outside 0…C; transforms that cannot be pickled
            though ``cache_dir`` is given. The message names the case.
        RuntimeError: the transforms fail on a case; the message names it and the cause.
    """
    rules = _Rules(num_classes, tuple(label_keys), image_dtype)
    root = None if cache_dir is None else Path(cache_dir)
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)

    # Before the first call: loaders change their state when they are used.
    recipe = b"" if root is None else _recipe(transform, rules)

    def load(index: int) -> CachedCase:
        original = data[index]
        if root is None:
            case = _make(original, index, transform, rules)
            maps = {key: value.to(device) for key, value in case.maps.items()}
            return replace(case, maps=maps)
        name = re.sub(r"[^\w.-]+", "_", case_id_of(original, original, index))[-80:]
        folder = root / f"{name}-{_fingerprint(original, recipe)[:32]}"
        case_on_disk = _open(folder)
        if case_on_disk is None:
            _write(_make(original, index, transform, rules), folder)
            case_on_disk = _open(folder)
        if case_on_disk is None:
            raise OSError(f"{folder} was written and cannot be read")
        return case_on_disk

    return in_threads(load, range(len(data)), "loading volumes", progress, num_workers)


def _make(original: Mapping[str, Any], index: int, transform: Compose, rules: _Rules) -> CachedCase:
    """One case in memory, on the CPU."""
    case_id = case_id_of(original, original, index)
    try:
        # `threading` copies the transforms that keep state between calls.
        item = transform(dict(original), threading=True)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise RuntimeError(f"{case_id}: the transforms fail: {cause}") from error
    image = plain_tensor(item["image"])
    if image.ndim != 4 or not image.numel():
        raise ValueError(
            f"{case_id}: the image has shape {tuple(image.shape)} after the transforms; "
            "(channels, H, W, D) is expected"
        )
    check_finite(image, case_id)
    dtype = IMAGE_DTYPES[rules.image_dtype]
    if float(image.abs().max()) > torch.finfo(dtype).max:
        raise ValueError(
            f"{case_id}: the image reaches {float(image.abs().max()):g}, more than "
            f"{rules.image_dtype} holds ({torch.finfo(dtype).max:g}); normalize it, or set "
            "image_dtype to 'float32'"
        )
    maps = {"image": _compact(image, dtype)}
    for key in rules.label_keys:
        if key in item:
            maps[key] = _compact_label(plain_tensor(item[key]), key, image, case_id, rules)
    kind = supervision_kind(item, maps.get(rules.label_keys[0]), rules.num_classes)
    height, width, depth = image.shape[1:]
    return CachedCase(case_id, kind, len(image), (height, width, depth), tuple(maps), maps)


def _compact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy of its own: a view would hold on to the larger array behind it."""
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _compact_label(label: Tensor, key: str, image: Tensor, case_id: str, rules: _Rules) -> Tensor:
    expected = (1, *image.shape[1:])
    if tuple(label.shape) != expected:
        raise ValueError(
            f"{case_id}: {key} has shape {tuple(label.shape)}, the image asks for {expected}"
        )
    compact = _compact(label, torch.uint8)
    wrong = (compact != label) | (compact > rules.num_classes)
    if wrong.any():
        raise ValueError(
            f"{case_id}: {key} holds {torch.unique(label[wrong])[:10].tolist()}; classes are "
            f"0 to {rules.num_classes - 1}, and {rules.num_classes} is unlabeled"
        )
    return compact


def _recipe(transform: Compose, rules: _Rules) -> bytes:
    """What turns files into cached maps, but the code of the transforms."""
    versions = tuple(version(name) for name in ("mixseg", "monai"))
    # The list, not the Compose, which holds a random state of its own.
    return _pickled((versions, rules, list(transform.flatten().transforms)), "transforms")


def _fingerprint(original: Mapping[str, Any], recipe: bytes) -> str:
    """Hash of everything that a cached case depends on."""
    files = []
    for value in original.values():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, (str, os.PathLike)) or not os.path.exists(path):
                continue
            # Of a DICOM series each slice counts.
            parts = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
            for part in parts:
                status = part.stat()
                files.append((os.fspath(part), status.st_size, status.st_mtime_ns))
    item = sorted(original.items(), key=lambda pair: str(pair[0]))
    return hashlib.sha256(recipe + _pickled((item, files), "items")).hexdigest()


def _pickled(content: Any, what: str) -> bytes:
    try:
        return pickle.dumps(content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"cache_dir needs {what} that can be pickled ({error}); use classes or functions of a "
            "module, or leave cache_dir out"
        ) from error


def _write(case: CachedCase, folder: Path) -> None:
    """Store a case; another process that was faster keeps its own."""
    meta = {
        "case_id": case.case_id,
        "supervision": case.supervision,
        "keys": list(case.maps),
    }
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[-40:]}."))
    try:
        for key, tensor in case.maps.items():
            with open(temporary / f"{key}.npy", "wb") as stream:
                np.save(stream, tensor.numpy(), allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
        (temporary / _META).write_text(json.dumps(meta), encoding="utf-8")
        # A folder cannot be renamed onto one that is filled: that one is as good.
        with contextlib.suppress(OSError):
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_rows(path: Path, rows: slice, columns: slice) -> np.ndarray:
    """``array[:, rows, columns]`` of a stored (channels, H, W, D) array, one read a row.

    A row's columns lie together in the file. Reading them is several times faster than touching
    the same part of a memory map, which faults page by page.
    """
    with open(path, "rb", buffering=0) as stream:
        np.lib.format.read_magic(stream)
        (channels, height, width, depth), _, dtype = np.lib.format.read_array_header_1_0(stream)
        origin = stream.tell()
        count = columns.stop - columns.start
        out = np.empty((channels, rows.stop - rows.start, count, depth), dtype)
        for channel in range(channels):
            for place, row in enumerate(range(rows.start, rows.stop)):
                first = ((channel * height + row) * width + columns.start) * depth
                stream.seek(origin + first * dtype.itemsize)
                wanted = out[channel, place]
                if stream.readinto(wanted.data) != wanted.nbytes:
                    raise OSError(f"{path} is shorter than it was; remove its folder")
    return out


def _open(folder: Path) -> CachedCase | None:
    """The case stored in ``folder``; None, and the folder gone, where there is no whole one."""
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        keys = tuple(meta["keys"])
        # Opening a map compares the file's size with its header; no voxel is read.
        shapes = [np.load(folder / f"{key}.npy", mmap_mode="r").shape for key in keys]
        channels, height, width, depth = shapes[keys.index("image")]
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return CachedCase(
        meta["case_id"],
        meta["supervision"],
        channels,
        (height, width, depth),
        keys,
        folder=folder,
    )


def case_id_of(item: Mapping[str, Any], original: Mapping[str, Any], index: int) -> str:
    """The case's name; without ``case_id`` the image's file, or the position in the list."""
    return str(item.get("case_id", original.get("image", index)))


def plain_tensor(array: Any) -> Tensor:
    """A NumPy array, tensor or MetaTensor as a plain tensor, without a copy."""
    return torch.as_tensor(array).as_subclass(Tensor)


def check_finite(image: Tensor, case_id: str) -> None:
    """Refuse an image with NaN or infinite values."""
    if not torch.isfinite(image).all():
        raise ValueError(f"{case_id}: the image holds NaN or infinite values")


def unlabeled_map(shape: tuple[int, ...], num_classes: int) -> Tensor:
    """The label of a case that has none: C everywhere, uint8."""
    return torch.full(shape, num_classes, dtype=torch.uint8)


def supervision_kind(item: Mapping[str, Any], label: Tensor | None, num_classes: int) -> str:
    """The declared ``supervision``; absent, what the values of ``label`` show."""
    declared = item.get("supervision")
    if declared:
        return str(declared)
    if "label" not in item or label is None:
        return "none"
    return "partial" if bool((label == num_classes).any()) else "full"
