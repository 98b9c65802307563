"""``mixseg label``: a MONAI Label server with a bundle, for a folder of scans."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import clear_errors, say, show


def label(
    context: typer.Context,
    studies: Annotated[Path, typer.Argument(help="Folder of scans (NIfTI, NRRD, MHA).")],
    bundle: Annotated[
        str,
        typer.Option("--bundle", "-b", help="Folder of a run; or of a bundle, its zip, or name."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is reachable from other machines.")
    ] = "127.0.0.1",
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Accept connections from other machines at --host; the server has no password.",
        ),
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of the model, its trainings and logs [STUDIES/mixseg_label]."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from instead of the bundle's own.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights.")
    ] = False,
    scoring: Annotated[
        bool,
        typer.Option(help="Score scans by entropy in the background."),
    ] = True,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose first group, in a scan's name, is the patient; default: "
            r"'^(.+?)_frame\d+$'."
        ),
    ] = None,
) -> None:
    r"""Start a MONAI Label server for the scans in STUDIES.

    Enter its address in 3D Slicer (module MONAILabel), draw a few scribbles, and press Train.
    Settings of train.yaml are options.

    Examples:

      mixseg label SCANS --bundle la_confkd

      mixseg label SCANS --bundle la_confkd_v0.1.0.zip --port 8001

      mixseg label SCANS --bundle my_bundle --from-scratch

      mixseg label SCANS --bundle run
    """
    from mixseg.apps.bundle.find import bundle_name, find_trained
    from mixseg.apps.bundle.weights import bundle_weights
    from mixseg.apps.label import server
    from mixseg.apps.label.access import is_local
    from mixseg.apps.label.model import make_model_folder
    from mixseg.configuration.loading import load
    from mixseg.configuration.settings import read_settings

    with clear_errors():
        server.check_installation()
        patient_pattern = server.PATIENT_PATTERN if patient_pattern is None else patient_pattern
        if not is_local(host) and not allow_remote:
            raise ValueError(
                f"--host {host} is open to other machines, and the server has no password: whoever "
                "reaches it can read and replace labels and train. Add --allow-remote in a network "
                "that you trust"
            )
        if not studies.is_dir():
            raise ValueError(f"'{studies}' is not a folder of scans")
        if weights is not None and from_scratch:
            raise ValueError("--weights and --from-scratch cannot be combined")
        try:
            groups = re.compile(patient_pattern).groups
        except re.error as error:
            raise ValueError(f"--patient-pattern '{patient_pattern}': {error}") from error
        if patient_pattern and not groups:
            raise ValueError(f"--patient-pattern '{patient_pattern}' has no group in parentheses")
        source = find_trained(bundle).resolve()
        name = bundle_name(source)
        known = {
            **load(source / "configs" / "train.yaml"),
            **load(source / "configs" / "inference.yaml"),
        }
        settings = read_settings(context.args, known, f"the bundle {name}")
        if weights is None and not from_scratch:
            try:
                weights = bundle_weights(source)
            except ValueError as error:
                raise ValueError(f"{error}, or begin with random ones: --from-scratch") from error
        work = (work or studies / "mixseg_label").resolve()
        folder = work / "model" / name
        made = make_model_folder(source, folder, weights, settings)
        shutil.copyfile(Path(server.__file__).with_name("main.py"), work / "main.py")
    say(
        f"model: {folder} ({'made now' if made else 'as it was trained'})\n"
        f"server: http://{host}:{port} (Ctrl-C ends it)"
    )
    conf = {"models": name, "patient_pattern": patient_pattern}
    command = server.server_command(work, studies.resolve(), conf, host, port)
    show(" ".join(command), "command")
    status = server.start(command, server.server_environment(work, scoring, host))
    raise typer.Exit(status)
