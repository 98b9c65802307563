"""Checks of a bundle that build its network: properties, sizes, weights, export.

Each check takes the bundle's folder and returns what is wrong, one line a fault. They run what
the configuration names, as running the bundle does.
"""

from __future__ import annotations

import ast
import json
import operator
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from mixseg.apps.bundle.find import is_packed
from mixseg.apps.bundle.weights import build_network, misfits, read_weights
from mixseg.apps.pack.checks.files import NotChecked
from mixseg.apps.pack.export import export_bundle, missing_for_onnx
from mixseg.configuration.loading import load, strings
from mixseg.data.datalist import DATALIST_NAME

# Divisor of the network's width where weights are made up: the check is the same, only faster.
_NARROWER = 8
# Settings that fit the made-up data; those that a configuration lacks are left out.
_TINY = {
    "datalist": None,
    "num_full": 1,
    "num_partial": 1,
    "num_noisy": 1,
    "num_unlabeled": 1,
    "device": "cpu",
    "progress": False,
}
# Run in a packed bundle's folder, with the names to import as arguments.
_IMPORT = """
import importlib, importlib.metadata, pathlib, sys
here = pathlib.Path.cwd().resolve()
for name in sys.argv[1:]:
    importlib.import_module(name)
for name, module in sys.modules.items():
    if name.partition(".")[0] == "mixseg":
        if not pathlib.Path(module.__file__ or "").resolve().is_relative_to(here):
            sys.exit(f"{name} comes from {module.__file__}")
import mixseg
stated = (pathlib.Path(mixseg.__file__).parent.parent).glob("mixseg-*.dist-info")
if [f"mixseg-{importlib.metadata.version('mixseg')}.dist-info"] != [p.name for p in stated]:
    sys.exit("importlib.metadata finds another version of mixseg")
"""


def check_properties(bundle: Path) -> list[str]:
    """The ids that MONAI's applications look for (``check_properties``).

    MONAI builds each of them, the trainer included, so a tiny data set is made up for it.
    """
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in (("train.yaml", "train"), ("inference.yaml", "infer")):
            config = load(bundle / "configs" / name)
            classes = config.get("source_classes", config["class_names"])
            _make_up_data(Path(folder), classes, config.get("in_channels", 1))
            overrides = {k: v for k, v in _TINY.items() if k in config} | _narrow(config)
            if "checkpoint" in config:
                # What loads them may ask for the file when it is built.
                weights = build_network(bundle / "configs" / name, _narrow(config)).state_dict()
                torch.save(weights, Path(folder) / "model.pt")
                overrides["checkpoint"] = str(Path(folder) / "model.pt")
            workflow = ConfigWorkflow(
                config_file=str(bundle / "configs" / name),
                workflow_type=kind,
                logging_file=False,
                init_id="no step",  # the bundle's own steps check folders and whole data sets
                # Not among the images, where masks of an earlier run would be taken for some.
                **{**overrides, "dataset_dir": folder, "output_dir": str(Path(folder) / "run")},
                ckpt_dir=folder,
            )
            workflow.initialize()
            missing = workflow.check_properties()
            faults += [f"{name}: the property {p!r} is missing or misnamed" for p in missing or ()]
    return faults


def check_network(bundle: Path) -> list[str]:
    """The network takes and returns what metadata.json says.

    ``monai.bundle verify_net_in_out`` compares channels and type; the spatial shape, which it
    leaves out, is compared here, for two sizes and every output of both configurations.
    """
    configs = bundle / "configs"
    described = load(configs / "metadata.json")["network_data_format"]
    image, pred = described["inputs"]["image"], described["outputs"]["pred"]
    for part in (image, pred):
        _shape(part["spatial_shape"], 1)  # MONAI evaluates whatever it holds
    # Of some networks the smallest multiple leaves the deepest level one value to normalize.
    for_n = range(2, 4)
    for n in for_n:
        monai.bundle.verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.yaml"),
            device="cpu",
            n=n,
        )
    faults = []
    for name in ("train.yaml", "inference.yaml"):
        network = build_network(configs / name, {}).eval()
        for n in for_n:
            seen, given = (_shape(part["spatial_shape"], n) for part in (image, pred))
            with torch.no_grad():
                output = network(torch.rand(2, image["num_channels"], *seen))
            wanted = (2, pred["num_channels"], *given)
            for one in output if isinstance(output, tuple) else (output,):
                if tuple(one.shape) != wanted:
                    faults.append(
                        f"{name}: an image of {tuple(seen)} gives "
                        f"{tuple(one.shape)}, metadata.json says {wanted}"
                    )
    return faults


def check_weights(bundle: Path) -> list[str]:
    """The weights load strictly into the network of training and of inference."""
    path = bundle / "models" / "model.pt"
    if not path.is_file():
        raise NotChecked("no weights in models/")
    weights = read_weights(path)
    return [
        f"models/model.pt in {config}: {fault}"
        for config in ("train.yaml", "inference.yaml")
        for fault in misfits(build_network(bundle / "configs" / config, {}), weights)
    ]


def check_code(bundle: Path) -> list[str]:
    """A packed bundle imports its own mixseg, and every part of it that the files name."""
    if not is_packed(bundle):
        raise NotChecked("not a packed bundle")
    names = {"mixseg"}
    for path in (bundle / "configs").glob("*.yaml"):
        for place, text in strings(load(path)):
            names.update(re.findall(r"\bmixseg\.[a-z]\w*", f"{place} {text}"))
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, *sorted(names)],
        cwd=bundle,
        # Nothing is left in the folder, and Python may look for modules there.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
    )
    return [] if done.returncode == 0 else [(done.stderr.strip() or "no import").splitlines()[-1]]


def check_torchscript(bundle: Path) -> list[str]:
    """``monai.bundle ckpt_export`` makes a TorchScript that computes what the network does.

    The weights are random and the network is narrower; the exported one must agree on other sizes
    and batches than it was traced with. A model.ts that the bundle ships can be loaded.
    """
    shipped = bundle / "models" / "model.ts"
    if shipped.is_file():
        try:
            torch.jit.load(str(shipped), map_location="cpu")
        except RuntimeError as error:
            return [f"models/model.ts cannot be loaded: {str(error).splitlines()[0]}"]
    return _exported(bundle, "ts")


def check_onnx(bundle: Path) -> list[str]:
    """``monai.bundle onnx_export`` does so too, run by ONNX Runtime."""
    if missing := missing_for_onnx():
        raise NotChecked(f"needs {', '.join(missing)}: pip install 'mixseg[onnx]'")
    return _exported(bundle, "onnx")


def _exported(bundle: Path, kind: str) -> list[str]:
    config = bundle / "configs" / "inference.yaml"
    settings = _narrow(load(config))
    network = build_network(config, settings)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.pt"
        torch.save(network.state_dict(), weights)
        try:
            export_bundle(bundle, kind, weights, Path(folder) / f"exported.{kind}", settings)
        except ValueError as error:
            return [str(error)]
    return []


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    """Override that divides the network's features, where the configuration has that setting."""
    features = config.get("features")
    return {"features": [max(1, f // _NARROWER) for f in features]} if features else {}


def _make_up_data(folder: Path, classes: list[str], channels: int) -> None:
    """Four training patients, one for validation and test each; every class in the mask."""
    side = max(16, 4 * len(classes))
    label = np.zeros((side, side, 2), np.uint8)
    for value in range(1, len(classes)):
        label[4 * value : 4 * value + 3, 4:12] = value
    splits: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for i, split in enumerate((*4 * ("training",), "validation", "test")):
        # The mask stands in for hand-drawn scribbles too.
        mask = f"case{i}_gt.nii.gz"
        files = {"image": f"case{i}.nii.gz", "label": mask, "scribble": mask}
        values = label.astype(np.float32) + i
        if channels > 1:
            values = np.stack([values] * channels, axis=-1)
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / files["image"])
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / files["label"])
        splits[split].append({**files, "supervision": "full", "case_id": f"case{i}"})
    datalist = {"classes": classes, "unlabeled": len(classes), **splits}
    (folder / DATALIST_NAME).write_text(json.dumps(datalist))


def _shape(sizes: list[int | str], n: int) -> list[int]:
    """Sizes of one example of a spatial shape: n for every variable, ``*`` is any size, 16 n."""
    shape = []
    for size in sizes:
        if size == "*":
            shape.append(16 * n)
        elif isinstance(size, str):
            shape.append(_computed(ast.parse(size, mode="eval").body, n))
        else:
            shape.append(int(size))
    return shape


_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def _computed(node: ast.expr, n: int) -> int:
    """Value of an expression such as ``2**p*n``: numbers, one-letter variables and operators.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) < 4096:
        return node.value
    if isinstance(node, ast.Name) and re.fullmatch("[a-z]", node.id):
        return n
    if isinstance(node, ast.BinOp) and (compute := _OPERATIONS.get(type(node.op))):
        one, other = _computed(node.left, n), _computed(node.right, n)
        if compute is not operator.pow or 0 <= other <= 16:
            return compute(one, other)
    raise ValueError(
        f"metadata.json: {ast.unparse(node)!r} in a spatial_shape is not a size: it may hold "
        "numbers, one-letter variables and + - * // **"
    )
