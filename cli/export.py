"""``mixseg export``: a bundle's weights as one TorchScript or ONNX file, checked."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mixseg.apps.bundle.find import find_bundle, refuse_changed
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.pack.export import export_bundle
from mixseg.cli.console import clear_errors, console, fail
from mixseg.configuration.loading import load
from mixseg.configuration.settings import read_settings


class Format(str, Enum):
    """Kinds of files."""

    ONNX = "onnx"
    TORCHSCRIPT = "ts"


def export(
    context: typer.Context,
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, a zip of 'mixseg pack', or a name.")
    ],
    format: Annotated[Format, typer.Option(help="Kind of file.")] = Format.ONNX,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights; default: the bundle's own, fetched if need be.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write; default: BUNDLE/models/model.FORMAT.")
    ] = None,
) -> None:
    """Export the network of a bundle, and compare the file with it on random images.

    Knobs of inference.yaml can be added, for example: --branch ensemble --features "[8,16,32]".
    The file takes any batch, and any sides that the network takes.
    """
    if output is None and Path(bundle).is_file():
        raise fail(f"'{bundle}' is a packed bundle: say with --output where the file goes")
    with clear_errors():
        folder = find_bundle(bundle)
        refuse_changed(folder)
        known = load(folder / "configs" / "inference.yaml")
        knobs = read_settings(context.args, known)
        if checkpoint is None:
            checkpoint, overlays = bundle_weights(folder)
            given = {name: value for path in overlays for name, value in load(path).items()}
            # An overlay holds the training's knobs too.
            knobs = {name: value for name, value in given.items() if name in known} | knobs
        if not checkpoint.is_file():
            raise ValueError(f"there is no '{checkpoint}': give the weights with --checkpoint")
        output = output or folder / "models" / f"model.{format.value}"
        if output.suffix != f".{format.value}":
            raise ValueError(f"'{output}' must end in .{format.value}")
        difference, flipped, voxels = export_bundle(folder, format.value, checkpoint, output, knobs)
    console.print(
        f"{output}: the logits differ by at most {difference:.1e} from the network's, the class "
        f"in {flipped:,} of {voxels:,} voxels",
        soft_wrap=True,
    )
