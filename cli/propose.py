"""``mixseg propose``: masks for partially labelled cases by a trained bundle, as a datalist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixseg.cli.console import clear_errors, console, fail, this_command

if TYPE_CHECKING:
    from mixseg.apps.self_train.proposals import Proposals

#: Knobs that have another name here.
OWN_OPTIONS = {
    "bundle_root": "the argument BUNDLE",
    "dataset_dir": "--data",
    "output_dir": "-o",
    "ckpt_dir": "--weights",
    "checkpoint": "--weights",
    "exported": "--weights",
    "device": "--device",
    "progress": "--quiet",
}


def propose(
    context: typer.Context,
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, a zip of 'mixseg pack', or a name.")
    ],
    data: Annotated[Path, typer.Option(help="The data that the bundle was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the proposals.")],
    branch: Annotated[
        str | None,
        typer.Option(help="Branch that proposes; default: the one that the method predicts with."),
    ] = None,
    keep_scribbles: Annotated[
        bool,
        typer.Option(
            "--keep-scribbles", help="Keep stored partial labels: they replace the prediction."
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: CUDA where it is there.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights; default: the bundle's own, as for predict."),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="File of knobs to pass after the bundle's; can be repeated."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict finished cases again.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Segment the training cases that have no full mask, and write them as a datalist.

    The cases are those that the bundle's train.yaml takes as partially labelled; their full masks
    are not opened. In the new datalist they are 'noisy', beside the fully labelled ones; train on
    it with --noisy_as full. Interrupted, the same command resumes.

    Examples:

      mixseg propose acdc_lv_confkd --data ACDC -o proposals --num_full 3

      mixseg propose la_confkd --data LA -o proposals --weights run/models/model.pt

    Give the knobs that the bundle was trained with, of train.yaml or inference.yaml.
    """
    from mixseg.apps.predict.pipeline import OutputError, choose_device
    from mixseg.apps.self_train.cases import BOTH_FILES, read_selection
    from mixseg.apps.self_train.proposals import propose_masks, proposing, trained
    from mixseg.configuration.loading import load
    from mixseg.configuration.settings import read_settings, settings_in

    with clear_errors():
        source = trained(bundle, weights, config or ())
        train = source.files("train.yaml")
        known = settings_in(load(train[0]), load(source.files("inference.yaml")[0]))
        knobs = read_settings(context.args, known, BOTH_FILES, OWN_OPTIONS)
        chosen = choose_device(device)
        selection = read_selection(train, knobs, data)
        source = proposing(source, knobs, branch, knobs)
        console.print(
            f"{len(selection.proposed)} cases to propose, {len(selection.full)} with full masks; "
            f"{source.folder.name} on {chosen}, weights {source.weights}",
            soft_wrap=True,
            highlight=False,
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
        except KeyboardInterrupt:
            console.print(f"\n[yellow]interrupted; to resume:[/] {this_command()}", soft_wrap=True)
            raise typer.Exit(130) from None
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
        console.print(
            f"[yellow]note:[/] {len(proposals.empty)} of {report.inputs} proposals are empty: a "
            "network that is trained on them learns that there is nothing",
            soft_wrap=True,
        )
    failed = list(report.failures.values())
    if failed:
        lines = "".join(
            f"\n  {f['case_id']} ({f['input']}): {f['problem']}; {f['mend']}" for f in failed
        )
        raise fail(
            f"{len(failed)} of {report.inputs} cases could not be proposed, no datalist was "
            f"written:{lines}"
        )
    console.print(f"datalist: {proposals.datalist}", soft_wrap=True, highlight=False)
