"""``mixseg propose``: masks for partially labeled cases by a trained bundle, as a datalist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixseg.cli.console import (
    Device,
    KeepScribbles,
    Quiet,
    Trained,
    clear_errors,
    console,
    fail,
    interruptible,
    note,
    say,
    this_command,
)

if TYPE_CHECKING:
    from mixseg.apps.self_train.proposals import Proposals


def propose(
    run: Trained,
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the proposals.")],
    branch: Annotated[
        str | None,
        typer.Option(help="Branch that proposes; default: the one that the method predicts with."),
    ] = None,
    keep_scribbles: KeepScribbles = False,
    device: Device = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights; default: the run's own, as for predict."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict finished cases again.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Segment the training cases that have no full mask, and write them as a datalist.

    The cases are those that the run was trained on as partially labeled or without a label; their
    full masks are not opened. In the new datalist they are 'noisy', beside the fully labeled ones;
    train on it with --noisy-as full. Interrupted, the same command resumes.

    Example:

      mixseg propose run --data ACDC -o proposals
    """
    from mixseg.apps.predict.pipeline import OutputError, choose_device
    from mixseg.apps.self_train.plan import find_teacher, read_selection
    from mixseg.apps.self_train.proposals import propose_masks

    with clear_errors(), interruptible(this_command()):
        source = find_teacher(run, weights, branch)
        chosen = choose_device(device)
        selection = read_selection(source.config("train.yaml"), data)
        say(
            f"{len(selection.proposed)} cases to propose, {len(selection.full)} with full masks; "
            f"{source.folder.name} on {chosen}, weights {source.weights}"
        )
        try:
            proposals = propose_masks(
                source,
                selection,
                output,
                device=chosen,
                keep_scribbles=keep_scribbles,
                overwrite=overwrite,
                progress=not quiet,
            )
        except OutputError as error:
            raise fail(
                f"'{output}' cannot be written ({error}): make room, or choose another -o; what "
                "is finished is kept, the same command resumes"
            ) from error
    summarize(proposals)


def summarize(proposals: Proposals) -> None:
    """Print the table and how many proposals are empty; end with status 1 where a case failed."""
    from mixseg.apps.self_train.proposals import proposal_table

    report = proposals.report
    console.print(proposal_table(proposals))
    found = f", {report.skipped} were finished already" if report.skipped else ""
    console.print(f"{report.predicted} predicted{found}")
    if proposals.empty:
        note(
            f"{len(proposals.empty)} of {report.inputs} proposals are empty: a "
            "network trained on them learns to predict background",
            console,
        )
    failed = list(report.failures.values())
    if failed:
        lines = "".join(
            f"\n  {f['case_id']} ({f['input']}): {f['problem']}; {f['fix']}" for f in failed
        )
        raise fail(
            f"{len(failed)} of {report.inputs} cases could not be proposed, no datalist was "
            f"written:{lines}"
        )
    say(f"datalist: {proposals.datalist}")
