"""``mixseg pack``: a bundle as one zip, which runs without mixseg."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixseg.apps.bundle.precision import Precision
from mixseg.cli.console import clear_errors, say


def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a bundle with weights.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the same network; default: the run's own, or those of the bundle."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the zip.")] = Path(
        "dist"
    ),
    version: Annotated[
        str | None, typer.Option(help="Version of the bundle; default: that of metadata.json.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Type of the weights' numbers.")
    ] = Precision.KEEP,
    repo: Annotated[
        str | None,
        typer.Option(
            help="OWNER/REPOSITORY/TAG of a GitHub release: also write the index model_info.json."
        ),
    ] = None,
) -> None:
    """Pack a run, or a bundle, into OUTPUT/<name>_v<version>.zip, which runs without mixseg.

    The zip holds configuration, weights, the part of mixseg that the configuration reaches,
    licenses, model card and SHA-256 sums. The same run gives the same bytes. `python -m
    monai.bundle download` fetches it, `mixseg verify` checks it.

    The folder names the bundle. Example: mixseg pack heart_run
    """
    from mixseg.apps.pack.pack import pack_bundle, write_index

    with clear_errors():
        if repo is not None and len(repo.split("/")) != 3:
            raise ValueError(f"--repo must be OWNER/REPOSITORY/TAG, got '{repo}'")
        target, digest = pack_bundle(run, weights, output, version, precision)
        if repo is not None:
            write_index(output / "model_info.json", target, digest, repo)
    size = target.stat().st_size / 2**20
    say(f"{target}: {size:.1f} MB\nsha256 {digest}")
