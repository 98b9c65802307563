"""What a bundle does before it trains, scores or segments."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from monai.utils import set_determinism

from mixseg.configuration.kinds import refuse_resolved
from mixseg.configuration.start import begin_training, start_command
from mixseg.configuration.workflow import running_entry, running_parser
from mixseg.data import check_cases
from mixseg.files.atomic import ensure_writable
from mixseg.transforms.labels import class_numbers


def start_training() -> None:
    """Begin the training of the bundle under way; the ``initialize`` of its ``train.yaml``.

    Options that no configuration knows are refused first, see
    :func:`mixseg.handlers.start_command`: a folder of data that is not there may be a mistyped
    setting's fault. Then the folders ``output_dir`` and ``ckpt_dir`` are made, the cases of
    ``train#dataset#data`` and ``validate#dataset#data`` are checked as ``preparation`` reads them,
    the run is recorded, and ``seed`` is set: these are entries of the configuration.

    Raises:
        ValueError: an option that is unknown or misread; a setting of another kind than it takes;
            as of :func:`start_run`; or the
            configuration lacks one of these entries.
    """
    _start()
    start_run(
        [running_entry("output_dir"), running_entry("ckpt_dir")],
        seed=running_entry("seed"),
        training=running_entry("train#dataset#data"),
        validation=running_entry("validate#dataset#data"),
        foreground=class_numbers(running_entry("preparation").target_classes),
        **_reading(),
    )


def start_evaluation() -> None:
    """Begin the evaluation of the bundle under way; the ``initialize`` of its ``evaluate.yaml``.

    As :func:`start_training`, for the cases of ``validate#dataset#data`` alone; nothing is
    recorded.
    """
    _start()
    start_run(
        [running_entry("output_dir")], test=running_entry("validate#dataset#data"), **_reading()
    )


def start_inference() -> None:
    """Begin the inference of the bundle under way; the ``initialize`` of its ``inference.yaml``.

    Unknown options are refused, and ``output_dir`` is made.
    """
    _start()
    start_run([running_entry("output_dir")])


def _start() -> None:
    start_command()
    if (parser := running_parser()) is not None:
        refuse_resolved(parser)


def _reading() -> dict[str, Any]:
    """How the checks shall read labels: as the bundle's preparation does."""
    preparation = running_entry("preparation")
    return {
        "classes": preparation.num_source_classes,
        "unlabeled": preparation.unlabeled_value,
        "spatial_dims": preparation.spatial_dims,
        "progress": running_entry("progress"),
    }


def start_run(
    folders: Iterable[str | os.PathLike[str]], *, seed: int | None = None, **cases: Any
) -> None:
    """Refuse folders that cannot be written and faulty cases; record a training; set the seed.

    A bundle calls :func:`start_training` and its sisters, which call this with what its
    configuration says.

    Args:
        folders: to write to, created where missing.
        seed: of all random generators; None leaves them alone.
        cases: arguments of :func:`mixseg.data.check_cases`; none checks no case. With
            ``training`` the run is recorded, see
            :func:`mixseg.configuration.begin_training`.

    Raises:
        ValueError: a seed that NumPy does not accept.
        OSError: a folder that cannot be written.
        DatalistError: there is no case to score, or lists every fault of the cases.
        RunRefusedError: the first folder holds a run that would be spoiled.
    """
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed}")
    ensure_writable(folders)
    if cases:
        check_cases(**cases)
    if "training" in cases:
        begin_training()
    if seed is not None:
        set_determinism(seed)
