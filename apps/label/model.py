"""The folder of one model as MONAI Label needs it, made out of a bundle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mixseg.apps.bundle.weights import build_network, misfits, read_weights
from mixseg.configuration.loading import load
from mixseg.configuration.yaml_text import set_values

CONFIGS = ("train.yaml", "inference.yaml")
#: What is copied: not code (the installed package runs), data, or what a training leaves.
_COPIED = ("configs", "docs", "LICENSE")


def make_model_folder(
    bundle: Path,
    target: Path,
    weights: Path | None,
    settings: Mapping[str, Any] | None = None,
) -> bool:
    """Make ``target`` out of a bundle, unless it is there already.

    ``settings`` are written into both configurations. Unless ``lr`` is one of them, it is a tenth
    of the bundle's where there are ``weights``. Labels are the classes that the network predicts,
    for these are what an annotator draws; all cases of the datalist are trained on. What a server
    has trained into ``target/models/model.pt`` is kept as long as the same bundle and settings are
    given.

    Args:
        weights: state dict to begin with; None begins with random weights.

    Returns:
        Whether the folder was made now.

    Raises:
        ValueError: a setting that neither configuration has; weights of another network; a folder
            that was made from something else.
    """
    configs = {name: bundle / "configs" / name for name in CONFIGS}
    if missing := [str(path) for path in configs.values() if not path.is_file()]:
        raise ValueError(f"'{bundle}' is not a complete bundle, it has no {', '.join(missing)}")
    values = dict(settings or {})
    texts = {name: path.read_text(encoding="utf-8") for name, path in configs.items()}
    known = {name: load(path) for name, path in configs.items()}
    if unknown := [k for k in values if not any(k in content for content in known.values())]:
        raise ValueError(f"{', '.join(unknown)}: no such setting in {' or '.join(CONFIGS)}")
    texts = {
        name: set_values(text, {k: v for k, v in values.items() if k in known[name]})
        for name, text in texts.items()
    }
    own = _annotated(known["train.yaml"], values)
    if "lr" not in values and isinstance(rate := known["train.yaml"].get("lr"), (int, float)):
        written = target / "configs" / "train.yaml"
        # Written once: later starts keep it, with weights given or without.
        own["lr"] = (
            load(written).get("lr") if written.is_file() else rate / (_SLOWER if weights else 1)
        )
    texts["train.yaml"] = set_values(texts["train.yaml"], own)
    if target.is_dir():
        _check_same(target, texts)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made = temporary / target.name
        for path in (bundle / name for name in _COPIED):
            if path.is_dir():
                shutil.copytree(path, made / path.name)
            elif path.is_file():
                shutil.copyfile(path, made / path.name)
        for name, text in texts.items():
            (made / "configs" / name).write_text(text, encoding="utf-8")
        _put_weights(made, weights)
        os.replace(made, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def model_classes(folder: Path) -> list[str]:
    """Names of the classes that the model predicts, background first.

    Raises:
        ValueError: metadata.json does not name them.
    """
    path = folder / "configs" / "metadata.json"
    try:
        outputs = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["outputs"]
        channels = {int(k): str(v) for k, v in outputs["pred"]["channel_def"].items()}
        return [channels[index] for index in range(len(channels))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' does not name the channels 0, 1, … of the output 'pred' in its "
            f"channel_def ({type(error).__name__}: {error})"
        ) from error


#: Settings that count patients of each kind.
_COUNTS = ("num_full", "num_partial", "num_unlabeled")
#: Batches an epoch where a bundle's own number follows from the patients.
_EPOCH_LENGTH = 24
#: What the learning rate is divided by where the server starts from trained weights: at the full
#: rate, they forget (benchmarks/label_improvement.py).
_SLOWER = 10


def _annotated(train: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of train.yaml that an annotation loop needs, where the bundle has them."""
    names = values.get("class_names", train.get("class_names"))
    wanted: dict[str, Any] = {
        # Every label counts as what it is; how many there are is not known beforehand. Kinds that
        # the method does not use stay at 0: a semi-supervised one takes scribbled scans, too, as
        # images without a label.
        **{name: None for name in _COUNTS if train.get(name)},
        # Labels come converted: C is unlabeled, whatever the bundle's own data use.
        "unlabeled_value": None,
        "checkpoint_interval": 1,
        "progress": False,
    }
    if isinstance(train.get("epoch_length"), str):  # an expression of these numbers
        wanted["epoch_length"] = _EPOCH_LENGTH
    if isinstance(names, list):
        # The annotator draws what the network predicts, not the public data set's other classes.
        wanted |= {"source_classes": names, "target_classes": list(range(1, len(names)))}
    return {name: value for name, value in wanted.items() if name in train}


def _check_same(target: Path, texts: Mapping[str, str]) -> None:
    files = {name: target / "configs" / name for name in texts}
    if any(not f.is_file() or f.read_text(encoding="utf-8") != texts[n] for n, f in files.items()):
        raise ValueError(
            f"'{target}' was made from another bundle or with other settings: give the same ones, "
            "choose another folder with --work, or move this one away (its models/model.pt is "
            "what was trained here)"
        )


def _put_weights(folder: Path, weights: Path | None) -> None:
    """``models/model.pt``, which fits the network of inference.yaml."""
    torch.manual_seed(0)
    config = folder / "configs" / "inference.yaml"
    network = build_network(config, {"bundle_root": str(folder)})
    path = folder / "models" / "model.pt"
    path.parent.mkdir()
    if weights is None:
        torch.save(network.state_dict(), path)
        return
    state = read_weights(weights)
    if faults := misfits(network, state):
        raise ValueError(
            f"'{weights}' does not fit the network of {folder.name}: {'; '.join(faults)}. Give the "
            "folder of the run that trained it with --bundle"
        )
    torch.save(state, path)
