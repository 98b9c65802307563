"""``mixseg predict``: masks of a file or a folder of images, by a trained bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mixseg.apps.bundle.find import find_bundle, refuse_changed
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.predict.images import refuse_same_outputs, search_cases
from mixseg.apps.predict.pipeline import BundlePipeline, OutputError, choose_device
from mixseg.apps.predict.report import JSON_NAME, PredictionReport
from mixseg.apps.predict.run import PredictionRun, Wanted, output_names, run_header
from mixseg.cli.console import clear_errors, console, fail
from mixseg.configuration.loading import configurations, load
from mixseg.configuration.settings import read_settings
from mixseg.files.atomic import ensure_writable

# Knobs that have another name here.
_OWN_OPTIONS = {
    "bundle_root": "the argument BUNDLE",
    "dataset_dir": "-i",
    "output_dir": "-o",
    "ckpt_dir": "--checkpoint",
    "progress": "--quiet",
}
_STAGING = ".unfinished"


def predict(
    context: typer.Context,
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, a zip of 'mixseg pack', or a name.")
    ],
    source: Annotated[Path, typer.Option("--input", "-i", help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks.")],
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: CUDA where it is there.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights; default: the bundle's own, fetched if need be.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class, 4D.")
    ] = False,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Write how uncertain each voxel is, 0 to 1.")
    ] = False,
    preview: Annotated[bool, typer.Option(help="Draw a picture of each case.")] = True,
    preview_cases: Annotated[
        int, typer.Option(min=0, help="Pictures of so many cases; 0 for all.")
    ] = 10,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Configuration to pass after inference.yaml; can be repeated."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict finished cases again.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Segment an image or a folder of images; each mask has its image's own grid.

    The folder gets a mask for each image, report.json, report.csv and previews. An image that
    cannot be predicted is named at the end and does not stop the others; the exit status is
    then 1. Interrupt it at any time: the same command goes on, finished cases are skipped.

    Examples:

      mixseg predict la_confkd -i scan.nii.gz -o masks

      mixseg predict acdc_lv_confkd_v0.1.0.zip -i scans/ -o masks --entropy --device cpu

    Knobs of inference.yaml can be added, for example: --branch ensemble --mirror_axes "[0,1]"
    """
    with clear_errors():
        folder = find_bundle(bundle)
        refuse_changed(folder)
        files = [folder / "configs" / "inference.yaml", *configurations(folder, config or ())]
        knobs = read_settings(context.args, load(files[0]), own=_OWN_OPTIONS)
        exported = knobs.get("exported")
        weights, overlays = (
            (checkpoint or Path(str(exported)), [])
            if checkpoint or exported
            else bundle_weights(folder)
        )
        if not weights.is_file():
            raise ValueError(f"there is no '{weights}': give the weights with --checkpoint")
        files[1:1] = overlays
        cases, left_out = search_cases(source, output)
        ensure_writable([output], "-o")
        chosen = choose_device(device)
        staging = output / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        try:
            pipeline = BundlePipeline(
                folder, files, knobs, None if exported else weights, chosen, staging
            )
            if (probabilities or entropy) and not pipeline.has_probabilities:
                raise ValueError(
                    f"'{files[0]}' makes no mask of probabilities by argmax (AsDiscreted): leave "
                    "out --probabilities and --entropy"
                )
            refuse_same_outputs(cases, output_names(pipeline, cases))
            header = run_header(pipeline, weights)
            report = PredictionReport(output, header, len(cases))
            report.left_out = left_out
            _announce(header, report, weights)
            wanted = Wanted(probabilities, entropy, (preview_cases or len(cases)) if preview else 0)
            run = PredictionRun(pipeline, cases, output, report, wanted)
            _run_to_the_end(run, overwrite, not quiet)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    _finish(report)


def _run_to_the_end(run: PredictionRun, overwrite: bool, progress: bool) -> None:
    """Predict everything; whatever ends it, what is finished is in the report."""
    report = run.report
    try:
        run.predict_all(overwrite, progress)
    except KeyboardInterrupt:
        done = report.predicted + report.skipped
        console.print(
            f"\n[yellow]interrupted: {done} of {len(run.cases)} cases are finished; the same "
            "command goes on from here[/]"
        )
        raise typer.Exit(130) from None
    except OutputError as error:
        raise fail(
            f"'{run.output}' cannot be written ({error}): make room, or choose another -o; "
            f"what is finished ({report.predicted} cases) is kept, the same command goes on"
        ) from error
    finally:
        report.save()


def _finish(report: PredictionReport) -> None:
    """Say what was done, and end with status 1 where an image failed."""
    found = f", {report.skipped} were finished already" if report.skipped else ""
    console.print(
        f"{report.predicted} predicted{found}: masks and {JSON_NAME} are in {report.folder}",
        soft_wrap=True,
    )
    failed = list(report.failures.values())
    if failed:
        lines = "".join(f"\n  {f['input']}: {f['problem']}; {f['mend']}" for f in failed)
        raise fail(f"{len(failed)} of {report.inputs} images could not be predicted:{lines}")


def _announce(header: Mapping[str, Any], report: PredictionReport, weights: Path) -> None:
    console.print(
        f"{header['bundle']} {header['version']} on {header['device']}, weights {weights} "
        f"(sha256 {header['weights_sha256'][:12]}…)",
        soft_wrap=True,
        highlight=False,
    )
    if report.replaces:
        console.print(
            f"[yellow]note:[/] the folder holds masks of other settings; masks of the same names "
            f"are replaced, their report is kept as {report.replaces}",
            soft_wrap=True,
        )
    for sentence in report.left_out:
        console.print(f"[yellow]note:[/] {escape(sentence)}", soft_wrap=True)
