"""``mixseg train``: a bundle trained, the run in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mixseg.cli.console import (
    Bundle,
    Device,
    Verbose,
    clear_errors,
    interruptible,
    say,
    show,
    this_command,
)


def train(
    context: typer.Context,
    bundle: Bundle,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data; default: the one that the bundle names."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the run; default: eval in the bundle's folder."
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Configuration to pass after train.yaml; can be repeated."),
    ] = None,
    device: Device = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Number of folds: cross-validate over the full masks, each tested once.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the training in the output folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a training in the output folder.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train a bundle.

    The output folder gets weights, report.html, curves, pictures, checkpoints and train.log.
    To resume an interrupted training, add --resume; on a CPU the result is bit-identical.

    Examples:

      mixseg train acdc_mixed --data ACDC --output run --num-full 5

      mixseg train my_bundle --max-epochs 100 --lr 1e-3

      mixseg train my_bundle --folds 3

    With few full masks, --folds 5 estimates the scores: it trains five runs, each tested on
    masks that it has not seen, and pools the scores. Interrupted, the same command resumes.

    With torchrun, several processes train one network, on several GPUs or machines:

      torchrun --nproc_per_node=2 -m mixseg train acdc_mixed --data ACDC --output run

    Settings of train.yaml are options: --num-full 5 or --num_full 5, --amp false, --noisy_as null.
    It runs `python -m monai.bundle run training`.
    """
    from mixseg.apps.bundle.find import find_bundle
    from mixseg.apps.bundle.folds import cross_validate, fold_folder
    from mixseg.apps.bundle.run import shown
    from mixseg.apps.bundle.workflow import TRAINING_ARGUMENTS, train_bundle, training_files
    from mixseg.configuration.processes import Processes
    from mixseg.configuration.settings import read_settings, settings_of
    from mixseg.report.tables import print_scores

    processes = Processes.started()
    with clear_errors():
        folder = find_bundle(bundle)
        known = settings_of(training_files(folder, config or ()))
        name = f"the bundle {folder.resolve().name}"
        settings = read_settings(context.args, known, name, TRAINING_ARGUMENTS)
        options: dict[str, Any] = {
            "data": data,
            "output": output,
            "config": config or (),
            "settings": settings,
            "device": device,
            "verbose": verbose,
        }
        again = this_command("--overwrite", plus="" if folds else "--resume")
        rows = None
        with interruptible(again):
            if folds is not None:
                if processes.count > 1:
                    raise ValueError(
                        "--folds trains one run after the other, in one process: leave out torchrun"
                    )
                if resume or overwrite:
                    raise ValueError(
                        "--folds takes neither --resume nor --overwrite: the same command resumes, "
                        "and another --output starts again"
                    )
                run, rows = cross_validate(bundle, folds, **options, show=show)
            else:
                run = train_bundle(
                    bundle, **options, resume=resume, overwrite=overwrite, processes=processes
                )
    if rows is not None:
        print_scores(rows)
        runs = " ".join(str(fold_folder(run, fold)) for fold in range(folds or 0))
        say(
            f"scores of every full mask: {run / 'report.html'}, {run / 'metrics.csv'}; to average "
            f"the folds: mixseg predict {runs} -i IMAGES -o MASKS"
        )
        return
    if not processes.first:
        return
    say(f"weights: {run / 'models' / 'model.pt'}; report.html, curves, pictures and log: {run}")
    say(f"to segment images with it: {shown(['mixseg', 'predict', str(run)])} -i IMAGES -o MASKS")
