"""``mixseg export``: a bundle's weights as one TorchScript or ONNX file, checked."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import Bundle, clear_errors, fail, say


class Format(str, Enum):
    """Kinds of files."""

    ONNX = "onnx"
    TORCHSCRIPT = "ts"


def export(
    context: typer.Context,
    bundle: Bundle,
    format: Annotated[Format, typer.Option(help="Kind of file.")] = Format.ONNX,
    weights: Annotated[
        Path | None, typer.Option(help="Weights; default: the bundle's own, downloaded if needed.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: BUNDLE/models/model.FORMAT."),
    ] = None,
) -> None:
    """Export the network of a bundle, and compare the file with it on random images.

    Settings of inference.yaml are options: --branch ensemble. The file takes any batch size and any
    image size that the network takes.

    Examples:

      mixseg export run

      mixseg export la_mixed --format ts -o la_mixed.ts
    """
    from mixseg.apps.bundle.find import find_trained
    from mixseg.apps.bundle.weights import bundle_weights
    from mixseg.apps.pack.export import export_bundle
    from mixseg.configuration.loading import load
    from mixseg.configuration.settings import read_settings

    if output is None and Path(bundle).is_file():
        raise fail(f"'{bundle}' is a packed bundle: give --output, the file to write")
    with clear_errors():
        folder = find_trained(bundle)
        settings = read_settings(context.args, load(folder / "configs" / "inference.yaml"))
        weights = bundle_weights(folder, weights)
        output = output or folder / "models" / f"model.{format.value}"
        if output.suffix != f".{format.value}":
            raise ValueError(f"'{output}' must end in .{format.value}")
        difference, flipped, voxels = export_bundle(folder, format.value, weights, output, settings)
    say(
        f"{output}: the logits differ by at most {difference:.1e} from the network's, the class "
        f"in {flipped:,} of {voxels:,} voxels"
    )
