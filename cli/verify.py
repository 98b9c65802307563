"""``mixseg verify``: does a bundle keep MONAI's rules and this project's."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import monai.bundle
import nibabel as nib
import numpy as np
import torch
import typer
from monai.bundle import ConfigParser, ConfigWorkflow
from rich.markup import escape
from rich.table import Table

from mixseg.cli.bundle_configs import (
    check_changelog,
    check_files,
    check_overlays,
    check_packages,
    check_shared,
    check_style,
    load,
)
from mixseg.cli.console import console, fail
from mixseg.data.datalist import DATALIST_NAME
from mixseg.handlers.command_line import cause_of

Check = Callable[[Path], list[str]]

# Divisor of the network's width where weights are made up: the check is the same, only faster.
_NARROWER = 8
# Knobs that fit the made-up data; those that a configuration lacks are left out.
_TINY = {"num_full": 1, "num_partial": 1, "device": "cpu", "progress": False}


def check_metadata(bundle: Path) -> list[str]:
    """metadata.json follows the schema (``monai.bundle verify_metadata``, without the network)."""
    with tempfile.TemporaryDirectory() as folder, as_file(_schema()) as schema:
        # A schema that is there is not downloaded.
        copy = shutil.copy(schema, Path(folder) / "schema.json")
        monai.bundle.verify_metadata(
            meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(copy)
        )
    return []


def check_properties(bundle: Path) -> list[str]:
    """The ids that MONAI's applications look for (``check_properties``).

    MONAI builds each of them, the trainer included, so a tiny data set is made up for it.
    """
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in (("train.yaml", "train"), ("inference.yaml", "infer")):
            config = load(bundle / "configs" / name)
            _make_up_data(Path(folder), config.get("source_classes", config["class_names"]))
            overrides = {k: v for k, v in _TINY.items() if k in config} | _narrow(config)
            workflow = ConfigWorkflow(
                config_file=str(bundle / "configs" / name),
                workflow_type=kind,
                logging_file=False,
                init_id="no step",  # the bundle's own steps check folders and whole data sets
                **{**overrides, "dataset_dir": folder, "output_dir": folder, "ckpt_dir": folder},
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
    for_n = range(1, 3)
    for n in for_n:
        monai.bundle.verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.yaml"),
            device="cpu",
            n=n,
        )
    described = load(configs / "metadata.json")["network_data_format"]
    image, pred = described["inputs"]["image"], described["outputs"]["pred"]
    faults = []
    for name in ("train.yaml", "inference.yaml"):
        network = _network(configs / name).eval()
        for n in for_n:
            sizes = {"image": _shape(image["spatial_shape"], n), "pred": []}
            sizes["pred"] = _shape(pred["spatial_shape"], n)
            with torch.no_grad():
                output = network(torch.rand(2, image["num_channels"], *sizes["image"]))
            wanted = (2, pred["num_channels"], *sizes["pred"])
            for one in output if isinstance(output, tuple) else (output,):
                if tuple(one.shape) != wanted:
                    faults.append(
                        f"{name}: an image of {tuple(sizes['image'])} gives "
                        f"{tuple(one.shape)}, metadata.json says {wanted}"
                    )
    return faults


def check_export(bundle: Path) -> list[str]:
    """``monai.bundle ckpt_export`` makes a TorchScript that computes what the network does.

    The weights are random and the network is narrower; the exported one must agree on another
    size and batch than it was traced with.
    """
    configs = bundle / "configs"
    overrides = _narrow(load(configs / "inference.yaml"))
    image = load(configs / "metadata.json")["network_data_format"]["inputs"]["image"]
    network = _network(configs / "inference.yaml", **overrides).eval()
    with tempfile.TemporaryDirectory() as folder:
        weights, exported = Path(folder) / "model.pt", Path(folder) / "model.ts"
        torch.save(network.state_dict(), weights)
        monai.bundle.ckpt_export(
            net_id="network_def",
            filepath=str(exported),
            ckpt_file=str(weights),
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.yaml"),
            use_trace=True,  # the type that forward returns depends on the branch
            **overrides,
        )
        script = torch.jit.load(str(exported)).eval()
    other = torch.rand(3, image["num_channels"], *_shape(image["spatial_shape"], 3))
    with torch.no_grad():
        difference = float((script(other) - network(other)).abs().max())
    if difference <= 1e-4:
        return []
    return [f"the exported network differs from the bundle's by up to {difference:g}"]


CHECKS: dict[str, Check] = {
    "files": check_files,
    "metadata": check_metadata,
    "changelog": check_changelog,
    "package versions": check_packages,
    "style of the configurations": check_style,
    "overlays": check_overlays,
    "train and inference agree": check_shared,
    "properties": check_properties,
    "network in and out": check_network,
    "TorchScript export": check_export,
}


def verify_bundle(bundle: Path) -> dict[str, list[str]]:
    """Run every check on a bundle.

    Returns:
        Name of each check → its faults; an empty list is a pass. A check that raises, for want
        of a file say, has failed with that message.
    """
    results = {}
    for name, check in CHECKS.items():
        try:
            with _silence():
                results[name] = check(bundle)
        except Exception as error:  # a broken bundle may raise anything; the rest is still checked
            results[name] = [_explain(error)]
    return results


def verify(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of bundles; default: every folder below ./bundles."),
    ] = None,
) -> None:
    """Check bundles against MONAI's rules and this project's; exit status 1 if any fails."""
    folders = bundles or sorted(p.parent for p in Path("bundles").glob("*/configs"))
    if not folders:
        raise fail("no bundle below ./bundles: name the folders to verify")
    table = Table(show_lines=False)
    table.add_column("bundle")
    table.add_column("check", no_wrap=True)
    table.add_column("result", overflow="fold")
    failed = 0
    for folder in folders:
        if not folder.is_dir():
            raise fail(f"'{folder}' is not a folder")
        for name, faults in verify_bundle(folder).items():
            failed += bool(faults)
            text = "[green]ok[/]" if not faults else f"[red]{escape(chr(10).join(faults))}[/]"
            table.add_row(folder.resolve().name, name, text)
    console.print(table)
    if failed:
        console.print(f"[bold red]{failed} checks failed[/]")
        raise typer.Exit(1)
    console.print("[green]all checks passed[/]")


def _schema() -> Any:
    return files("mixseg.cli").joinpath("metadata.schema.json")


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    """Override that divides the network's features, where the configuration has that knob."""
    features = config.get("features")
    return {"features": [max(1, f // _NARROWER) for f in features]} if features else {}


def _make_up_data(folder: Path, classes: list[str]) -> None:
    """Two training patients and one for validation and test each, with every class in the mask."""
    label = np.zeros((16, 16, 2), np.uint8)
    for value in range(1, len(classes)):
        label[4 * value : 4 * value + 3, 4:12] = value
    splits: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for i, split in enumerate(("training", "training", "validation", "test")):
        files = {"image": f"case{i}.nii.gz", "label": f"case{i}_gt.nii.gz"}
        nib.save(nib.Nifti1Image(label.astype(np.float32) + i, np.eye(4)), folder / files["image"])
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / files["label"])
        splits[split].append({**files, "supervision": "full", "case_id": f"case{i}"})
    datalist = {"classes": classes, "unlabeled": len(classes), **splits}
    (folder / DATALIST_NAME).write_text(json.dumps(datalist))


def _network(config: Path, **overrides: Any) -> torch.nn.Module:
    parser = ConfigParser(load(config))
    parser.update(overrides)
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network


def _shape(sizes: list[int | str], n: int) -> list[int]:
    """Sizes of one example of a spatial shape: n for every variable, ``*`` is any size, 16 n."""
    shape = []
    for size in sizes:
        if size == "*":
            shape.append(16 * n)
        elif isinstance(size, str):
            # The schema admits numbers, one-letter variables and operators only.
            shape.append(int(eval(re.sub(r"[a-z]", str(n), size), {"__builtins__": {}})))
        else:
            shape.append(size)
    return shape


def _explain(error: BaseException) -> str:
    """The cause, in one paragraph."""
    text = "".join(traceback.format_exception_only(cause_of(error))).strip()
    return text.split("\n\nFailed validating")[0]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep MONAI's summaries and notices off the screen; results come as a table."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
