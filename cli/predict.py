"""``mixseg predict``: masks of a file or a folder of images, by a trained bundle."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixseg.cli.console import Device, Quiet, clear_errors, console, fail, note, say

if TYPE_CHECKING:
    from mixseg.apps.predict.report import PredictionReport
    from mixseg.apps.predict.run import PredictionRun


def predict(
    context: typer.Context,
    bundle: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or a bundle, a zip of 'mixseg pack', or a name; several are "
            "averaged.",
        ),
    ],
    source: Annotated[Path, typer.Option("--input", "-i", help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks.")],
    device: Device = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights; default: the bundle's own, downloaded if needed.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class, 4D.")
    ] = False,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Write how uncertain each voxel is, 0 to 1.")
    ] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg",
            help=r"Also write a DICOM segmentation for DICOM series; needs mixseg\[dicom].",
        ),
    ] = False,
    preview: Annotated[bool, typer.Option(help="Draw a picture of each case.")] = True,
    preview_cases: Annotated[
        int, typer.Option(min=0, help="Number of cases to draw; 0 draws all.")
    ] = 10,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Configuration to pass after inference.yaml; can be repeated."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict finished cases again.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Segment an image or a folder of images; each mask has its image's own grid.

    The output folder gets a mask for each image, previews, and report.html, which lists the masks
    to check first; report.json and report.csv have its numbers. An image that cannot be predicted
    does not stop the others; it is named at the end, and the exit status is 1. After an
    interruption, the same command resumes and skips finished cases.

    Several runs, such as the folds of 'mixseg train --folds', are averaged: their mean
    probabilities give one mask, and the map NAME_disagreement shows where they differ, 0 to 1.

    Examples:

      mixseg predict la_confkd -i scan.nii.gz -o masks

      mixseg predict acdc_lv_confkd_v0.1.0.zip -i scans/ -o masks --entropy --device cpu

      mixseg predict folds/fold_1 folds/fold_2 folds/fold_3 -i scans/ -o masks

      mixseg predict la_mixed -i dicom_folder -o masks --dicom-seg

    With torchrun, several processes share the images, on several GPUs or machines:

      torchrun --nproc_per_node=2 -m mixseg predict la_mixed -i scans/ -o masks

    Settings of inference.yaml are options: --branch ensemble --mirror_axes "[0,1]"
    """
    from mixseg.apps.bundle.find import find_trained
    from mixseg.apps.predict.predict import ARGUMENTS, open_run
    from mixseg.apps.predict.run import Wanted
    from mixseg.configuration.loading import load
    from mixseg.configuration.processes import Processes
    from mixseg.configuration.settings import read_settings

    processes = Processes.started()
    with clear_errors():
        known = load(find_trained(bundle) / "configs" / "inference.yaml")
        # Typer would take the values of settings for bundles, too.
        more = list(itertools.takewhile(lambda word: not word.startswith("-"), context.args))
        settings = read_settings(context.args[len(more) :], known, own=ARGUMENTS)
        previews = (preview_cases or sys.maxsize) if preview else 0
        with open_run(
            [bundle, *more],
            [source],
            output,
            weights=weights,
            device=device,
            config=config or (),
            settings=settings,
            wanted=Wanted(probabilities, entropy, previews, dicom_seg=dicom_seg),
            processes=processes,
        ) as run:
            if processes.first:
                _announce(run.report, processes.count)
            _run_to_the_end(run, overwrite, processes.first and not quiet)
    if processes.first:
        _finish(run.report)


def _announce(report: PredictionReport, processes: int) -> None:
    header = report.header
    if processes > 1:
        console.print(f"{processes} processes share the images; progress is that of the first one")
    say(
        f"{header['bundle']} {header['version']} on {header['device']}, weights "
        f"{header['weights']} (sha256 {header['weights_sha256'][:12]}…)"
    )
    for other in header["averaged_with"]:
        say(
            f"averaged with {other['bundle']} {other['version']}, weights {other['weights']} "
            f"(sha256 {other['weights_sha256'][:12]}…)"
        )
    if report.replaces:
        note(
            "the folder holds masks of other settings; masks of the same names are replaced, their "
            f"report is kept as {report.replaces}",
            console,
        )
    for sentence in report.left_out:
        note(sentence, console)


def _run_to_the_end(run: PredictionRun, overwrite: bool, progress: bool) -> None:
    """Predict everything; whatever ends it, what is finished is in the report."""
    from mixseg.apps.predict.pipeline import OutputError

    report = run.report
    try:
        run.predict_all(overwrite, progress)
    except KeyboardInterrupt:
        done = report.predicted + report.skipped
        console.print(
            f"\n[yellow]interrupted: {done} of {len(run.cases)} cases are finished; the same "
            "command resumes[/]"
        )
        raise typer.Exit(130) from None
    except OutputError as error:
        raise fail(
            f"'{run.output}' cannot be written ({error}): make room, or choose another -o; "
            f"what is finished ({report.predicted} cases) is kept, the same command resumes"
        ) from error
    finally:
        report.finish()


def _finish(report: PredictionReport) -> None:
    """Say what was done, and end with status 1 where an image failed."""
    from mixseg.report.page import PAGE_NAME

    found = f", {report.skipped} were finished already" if report.skipped else ""
    say(f"{report.predicted} predicted{found}: masks and {PAGE_NAME} are in {report.folder}")
    failed = list(report.failures.values())
    if failed:
        lines = "".join(f"\n  {f['input']}: {f['problem']}; {f['fix']}" for f in failed)
        raise fail(f"{len(failed)} of {report.inputs} images could not be predicted:{lines}")
