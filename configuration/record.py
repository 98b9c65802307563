"""The record of a training: its whole configuration, written so that its folder is a bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from mixseg.configuration.loading import as_parsed, load
from mixseg.configuration.yaml_text import set_values, with_keys, without_keys
from mixseg.files.atomic import strict_json, write_text_atomic

#: File of a run's folder that tells what it learned from and where; it marks the folder as a run.
RECORD_NAME = "record.json"

#: Handlers of one process or machine, which are not part of a method.
_TRANSIENT = frozenset({"CheckpointLoader", "MLFlowHandler", "TrainingStatus"})
#: What ``--tracking mlflow`` adds at the top.
_TRACKING = frozenset(DEFAULT_MLFLOW_SETTINGS["configs"])
#: Settings of the one who trains, here and now.
_OF_MACHINE = ("device", "progress")
#: What a workflow alone reads, in its own file.
_WORKFLOW = frozenset({"initialize", "run", "training", "finalize"})
#: Entries of train.yaml that inference.yaml says in its own way.
_OWN = _WORKFLOW | {"imports", "handlers", "network", "dataset_dir", "output_dir", "checkpoint"}
#: Where the parts of train.yaml stand in inference.yaml.
_ELSEWHERE = {"validate#inferer": "inferer"}
_MULTI_GPU = "multi_gpu_train.yaml"
_FOLDER = "$from mixseg.configuration import bundle_folder"
_PLACES = {
    "bundle_root": "$bundle_folder()",
    "output_dir": "$@bundle_root",
    "ckpt_dir": "$@output_dir + '/models'",
    "resume": False,
}
#: Settings that say where data is, and what is imported.
_PLACES_OF_DATA = ("dataset_dir", "datalist", "imports")
_COPIED = ("LICENSE", "docs/README.md", "docs/data_license.txt")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training that recorded its configuration."""
    return (folder / RECORD_NAME).is_file() and (folder / "configs" / "train.yaml").is_file()


def read_record(folder: Path, *needed: str) -> dict[str, Any]:
    """Record of a run: its bundle and its data.

    Raises:
        ValueError: the file cannot be read or lacks one of them; names it.
    """
    path = folder / RECORD_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read as a run's record: {error}") from error
    if not isinstance(content, dict) or not {*needed} <= set(content):
        raise ValueError(
            f"'{path}' is not a run's record: put the file of the training back, or train again"
        )
    return content


def bundle_name(folder: Path) -> str:
    """The name of a bundle; of a run, the one of the bundle that it trained."""
    return str(read_record(folder, "bundle")["bundle"]) if is_run(folder) else folder.resolve().name


def own_configuration(config: Mapping[str, Any], configs: Path) -> dict[str, Any]:
    """A training's configuration without what only its processes and its machine need.

    Left out are the entries of ``multi_gpu_train.yaml``, the handlers that a launcher adds, and
    values that no file can hold.
    """
    base = _base(configs)
    left_out = {"_meta_", "overwrite"} | (_TRACKING - base.keys())
    own = deepcopy({k: v for k, v in config.items() if k not in left_out})
    if {"processes", "local_rank"} & own.keys() and (configs / _MULTI_GPU).is_file():
        for key in load(configs / _MULTI_GPU):
            _restore(own, base, key.removeprefix("+").replace("::", "#").split("#"))
    for part in ("train", "validate"):
        handlers = own[part].get("handlers") if isinstance(own.get(part), dict) else None
        if isinstance(handlers, list):
            own[part]["handlers"] = _lasting(handlers)
    own |= {name: base[name] for name in _OF_MACHINE if name in own and name in base}
    plain: dict[str, Any] = _plain(own)
    return plain


def changed_settings(own: Mapping[str, Any], configs: Path) -> dict[str, list[Any]]:
    """Settings that differ from the bundle's: id → the bundle's value, and the configuration's.

    Where the bundle is itself a run, the values of the bundle that this one was trained from are
    compared. Places of files, the device, and what a workflow alone reads are left out.
    """
    base, left_out = _base(configs), {*_PLACES, *_OF_MACHINE, *_WORKFLOW, *_PLACES_OF_DATA}
    wanted = {name: value for name, value in own.items() if name not in left_out}
    found = {
        place.replace("#", "::"): [_at(base, place), value]
        for place, value in _changes(base, wanted).items()
    }
    found |= {name: [None, value] for name, value in wanted.items() if name not in base}
    return _since_the_bundle(found, configs.parent)


def bundle_facts(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name and version of the bundle that is evaluated, and what differs from it.

    Returns:
        ``bundle``, ``version``, and ``changed_settings`` as of :func:`changed_settings`.
    """
    configs = folder / "configs"
    base: dict[str, Any] = {}
    for name in ("train.yaml", "evaluate.yaml"):
        if (configs / name).is_file():
            base |= load(configs / name)
    metadata = load(configs / "metadata.json") if (configs / "metadata.json").is_file() else {}
    found = {
        name: [base[name], value]
        for name, value in settings.items()
        if name in base and not _is_expression(base[name]) and not _same(base[name], value)
    }
    return {
        "bundle": bundle_name(folder),
        "version": str(metadata.get("version", "")),
        "changed_settings": _since_the_bundle(found, folder),
    }


def _since_the_bundle(found: Mapping[str, list[Any]], folder: Path) -> dict[str, list[Any]]:
    """Changes after those that the folder of a run records, as changes of its bundle."""
    earlier: dict[str, Any] = {}
    if is_run(folder):
        earlier = read_record(folder).get("changed_settings", {})
    first = {name: [earlier.get(name, pair)[0], pair[1]] for name, pair in found.items()}
    return {name: pair for name, pair in (earlier | first).items() if not _same(*pair)}


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@"))


def _at(config: Any, place: str) -> Any:
    for part in place.split("#"):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def write_record(
    folder: Path,
    configs: Path,
    own: Mapping[str, Any],
    dataset_dir: str,
    datalist: str | None,
    branch: str | None,
    facts: Mapping[str, Any],
) -> None:
    """Make a training's output folder a bundle of its own.

    ``configs/`` gets the files of the bundle with this run's values, the text and the comments of
    the originals kept; ``evaluate.yaml`` becomes complete. No path is absolute but those of the
    data. ``record.json`` is written last.

    Args:
        datalist: the datalist's file, or None for the one in ``dataset_dir``.
        branch: that the method predicts with; None where it has no choice.
    """
    base = _base(configs)
    values = dict(own) | {k: v for k, v in _PLACES.items() if k in own}
    values["dataset_dir"] = _near(folder, dataset_dir)
    if "datalist" in own:
        values["datalist"] = None if datalist is None else _near(folder, datalist)
    values["imports"] = _with_folder(own.get("imports", ()))
    text = (configs / "train.yaml").read_text(encoding="utf-8") if base else ""
    files = {"train.yaml": _with(text, base, values)}
    if (configs / "inference.yaml").is_file():
        text = (configs / "inference.yaml").read_text(encoding="utf-8")
        files["inference.yaml"] = _shared(text, base, values, branch)
    if (configs / "evaluate.yaml").is_file():
        text = (configs / "evaluate.yaml").read_text(encoding="utf-8")
        files["evaluate.yaml"] = _evaluation(text, base, values, files["train.yaml"])
    if (configs / "metadata.json").is_file():
        files["metadata.json"] = _metadata(load(configs / "metadata.json"), values)
    for name, text in files.items():
        write_text_atomic(folder / "configs" / name, text)
    for name in (_MULTI_GPU, "logging.conf"):
        _copy(configs / name, folder / "configs" / name)
    for name in _COPIED:
        _copy(configs.parent / name, folder / name)
    write_text_atomic(folder / RECORD_NAME, strict_json(facts))


def _base(configs: Path) -> dict[str, Any]:
    """What train.yaml says by itself; empty where the files have other names."""
    path = configs / "train.yaml"
    return dict(ConfigParser.load_config_files(str(path))) if path.is_file() else {}


def _restore(own: dict[str, Any], base: Mapping[str, Any], place: Sequence[str]) -> None:
    """Put back what ``base`` has at a place, or remove it there."""
    *parents, last = place
    node: Any = own
    origin: Any = base
    for part in parents:
        node, origin = (n.get(part) if isinstance(n, dict) else None for n in (node, origin))
    if not isinstance(node, dict):
        return
    if isinstance(origin, dict) and last in origin:
        node[last] = deepcopy(origin[last])
    else:
        node.pop(last, None)


def _lasting(handlers: Sequence[Any]) -> list[Any]:
    """Handlers without those of one process, also among the ``extra`` ones of the standard."""
    kept = []
    for handler in handlers:
        if isinstance(handler, dict):
            if str(handler.get("_target_", "")).rpartition(".")[2] in _TRANSIENT:
                continue
            if "extra" in handler and isinstance(handler["extra"], list):
                extra = _lasting(handler["extra"])
                handler = {k: v for k, v in handler.items() if k != "extra"}
                handler |= {"extra": extra} if extra else {}
        kept.append(handler)
    return kept


def _plain(value: Any) -> Any:
    """The value as YAML holds it; paths and devices become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.device):
        return f"$torch.device('{value}')"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _near(folder: Path, path: str) -> str:
    """A path of the data: absolute, or from the run's folder where it lies inside."""
    absolute = os.path.abspath(path)
    inside = os.path.relpath(absolute, os.path.abspath(folder))
    if inside == ".":
        return "$@bundle_root"
    if not inside.startswith(os.pardir):
        return f"$@bundle_root + {'/' + Path(inside).as_posix()!r}"
    return absolute


def _with_folder(imports: Sequence[Any]) -> list[Any]:
    return [*imports, *([] if _FOLDER in imports else [_FOLDER])]


def _changes(base: Any, wanted: Any, place: str = "") -> dict[str, Any]:
    """Id → value of what changes in a configuration's text; not the keys that only one side has."""
    if _same(base, wanted):
        return {}
    both = isinstance(base, dict) and isinstance(wanted, dict)
    if not both or (place and base.keys() != wanted.keys()):
        return {place: wanted}
    found: dict[str, Any] = {}
    for key in base.keys() & wanted.keys():
        found |= _changes(base[key], wanted[key], f"{place}#{key}" if place else key)
    return found


def _same(one: Any, other: Any) -> bool:
    return bool(as_parsed(one) == as_parsed(other))


def _with(text: str, base: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A configuration's text with all of ``values``, and nothing else."""
    if not base:
        return with_keys("", values).lstrip()
    text = set_values(text, _changes(base, values))
    text = without_keys(text, base.keys() - values.keys())
    return with_keys(text, {k: v for k, v in values.items() if k not in base})


def _shared(
    text: str, base: Mapping[str, Any], values: Mapping[str, Any], branch: str | None
) -> str:
    """An inference's text with the values of what it shares with the training."""
    known: dict[str, Any] = yaml.safe_load(text)
    wanted = dict(known)
    for name, value in values.items():
        # What both files say is the same; where a file has its own word, it keeps it.
        if name not in known or name in _OWN:
            continue
        before = base.get(name)
        if name in _PLACES or isinstance(before, dict) or _same(known[name], before):
            wanted[name] = _like(known[name], before, value)
    for place, name in _ELSEWHERE.items():
        part, key = place.split("#")
        inferers = [c.get(part, {}).get(key) for c in (base, values)]
        if name in known and _same(known[name], inferers[0]):
            wanted[name] = inferers[1]
    if "ckpt_dir" in known:
        wanted["ckpt_dir"] = "$@bundle_root + '/models'"
    if branch is not None and "branch" in known:
        wanted["branch"] = branch
    wanted["imports"] = _with_folder(known.get("imports", ()))
    return _with(text, known, wanted)


def _like(known: Any, base: Any, value: Any) -> Any:
    """What an inference says of a part: its own words, and the run's where that has changed."""
    if not (isinstance(known, dict) and isinstance(base, dict) and isinstance(value, dict)):
        return value
    if known.get("_target_") != value.get("_target_"):
        own = {k: v for k, v in known.items() if k not in base}
        return {**value, **(own if known.get("_target_") == base.get("_target_") else {})}
    kept = {k: v for k, v in known.items() if k not in base or k in value}
    changed = {k: v for k, v in value.items() if k in known and not _same(v, base.get(k))}
    added = {k: v for k, v in value.items() if k not in known and k not in base}
    return {**kept, **changed, **added}


def _evaluation(text: str, base: Mapping[str, Any], values: Mapping[str, Any], train: str) -> str:
    """The complete evaluation: the training's text, then what evaluate.yaml adds and replaces."""
    known: dict[str, Any] = yaml.safe_load(text)
    if "network_def" in known:  # that of a run, complete already
        own = _OWN - {"dataset_dir"} | {"ckpt_dir"}
        wanted = known | {k: v for k, v in values.items() if k in known and k not in own}
        return _with(text, known, wanted)
    header = re.match(r"\A(?:#[^\n]*\n)*", text)
    comment = header[0] if header else ""
    body = re.sub(r"\A(?:#[^\n]*\n)+", "", train)
    body = without_keys(body, known.keys() | _WORKFLOW)
    if "ckpt_dir" in values and "ckpt_dir" not in known:
        body = set_values(body, {"ckpt_dir": "$@bundle_root + '/models'"})
    return f"{comment}{body.rstrip()}\n\n{text[len(comment) :]}"


def _metadata(content: dict[str, Any], values: Mapping[str, Any]) -> str:
    """metadata.json with the channels that this run's network takes and returns."""
    formats = content["network_data_format"]
    channels, names = values.get("in_channels"), values.get("class_names")
    image = formats["inputs"]["image"]
    if isinstance(channels, int) and channels != image["num_channels"]:
        image |= {
            "num_channels": channels,
            "channel_def": {str(i): f"image {i}" for i in range(channels)},
        }
    if isinstance(names, str) and names.startswith("@"):
        names = values.get(names[1:])
    if isinstance(names, list):
        listed = {str(i): str(name) for i, name in enumerate(names)}
        formats["outputs"]["pred"] |= {"num_channels": len(names), "channel_def": listed}
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and not (target.is_file() and source.samefile(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
