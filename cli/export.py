"""``mixseg export``: a bundle's weights as one TorchScript or ONNX file, checked."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import clear_errors, console, fail


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
    weights: Annotated[
        Path | None, typer.Option(help="Weights; default: the bundle's own, fetched if need be.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: BUNDLE/models/model.FORMAT."),
    ] = None,
) -> None:
    """Export the network of a bundle, and compare the file with it on random images.

    Settings of inference.yaml can be added, for example: --branch ensemble --features "[8,16,32]".
    The file takes any batch, and any sides that the network takes.
    """
    from mixseg.apps.bundle.find import find_trained
    from mixseg.apps.bundle.weights import bundle_weights
    from mixseg.apps.pack.export import export_bundle
    from mixseg.configuration.loading import load
    from mixseg.configuration.settings import read_settings

    if output is None and Path(bundle).is_file():
        raise fail(f"'{bundle}' is a packed bundle: say with --output where the file goes")
    with clear_errors():
        folder = find_trained(bundle)
        known = load(folder / "configs" / "inference.yaml")
        settings = read_settings(context.args, known)
        if weights is None:
            weights, overlays = bundle_weights(folder)
            given = {name: value for path in overlays for name, value in load(path).items()}
            # An overlay holds the training's settings too.
            settings = {name: value for name, value in given.items() if name in known} | settings
        if not weights.is_file():
            raise ValueError(f"there is no '{weights}': give the weights with --weights")
        output = output or folder / "models" / f"model.{format.value}"
        if output.suffix != f".{format.value}":
            raise ValueError(f"'{output}' must end in .{format.value}")
        difference, flipped, voxels = export_bundle(folder, format.value, weights, output, settings)
    console.print(
        f"{output}: the logits differ by at most {difference:.1e} from the network's, the class "
        f"in {flipped:,} of {voxels:,} voxels",
        soft_wrap=True,
    )
