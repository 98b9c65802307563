"""Start of a bundle's run: refuse typos, make errors readable, record trainings."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import monai.bundle
import torch
from filelock import AcquireReturnProxy
from monai.bundle import ConfigParser

from mixseg.configuration.loading import cause_of, load
from mixseg.configuration.parent import end_with_parent
from mixseg.configuration.paths import restore_values
from mixseg.configuration.record import (
    bundle_name,
    changed_settings,
    is_run,
    own_configuration,
    read_record,
    write_record,
)
from mixseg.configuration.resume import config_differences, data_differences, fingerprint
from mixseg.configuration.settings import misread_values, one_dash, suggestion, unknown_options
from mixseg.configuration.threads import share_processors
from mixseg.configuration.workflow import running_parser, running_workflow
from mixseg.files.lock import claim
from mixseg.files.provenance import environment

logger = logging.getLogger(__name__)

CHECKPOINTS = ("checkpoint.pt", "checkpoint_previous.pt")
#: What a training and its evaluation leave in their folder, beside the record.
_LEFT = (
    *CHECKPOINTS, "history.csv", "model_last.pt", "models/model.pt", "curves.png", "cases.png",
    "surfaces.png", "metrics.csv", "summary.json", "tensorboard", "training.json", "report.html",
    "best_median_worst.png",
)  # fmt: skip
#: Files that tell that a folder holds a training which would be lost.
_HOLDS = (*CHECKPOINTS, "history.csv", "model_last.pt", "models/model.pt")

#: Parser → folder of the training that it has begun in this process.
_begun: WeakKeyDictionary[ConfigParser, Path] = WeakKeyDictionary()
_claims: dict[Path, AcquireReturnProxy] = {}


class RunRefusedError(ValueError):
    """A training that would spoil or mix up what its folder holds; the message says what to do."""


def start_command(argv: Sequence[str] | None = None) -> None:
    """Refuse options that no configuration knows, and let errors end with their cause.

    MONAI takes an option of an unknown name as a new configuration entry that nothing reads, so
    ``--lamda_ent 0`` would train with the default. It also reports the failure of a component at
    the end of a long traceback that does not name the cause; :func:`sys.excepthook` then prints
    the cause once more, as the last line. PyTorch gets half of the processors, see
    :func:`share_processors`, and Ignite's messages are left out unless MIXSEG_VERBOSE is set.

    Nothing is done unless the program is ``python -m monai.bundle`` (also under ``torchrun``).

    A run that a command started ends with it, see :func:`mixseg.configuration.end_with_parent`.

    Args:
        argv: the command line; None for :data:`sys.argv`.

    Raises:
        ValueError: naming options with one dash, unknown options, each with the nearest known
            name, or values such as ``false`` and ``null`` that would be texts.
    """
    end_with_parent()
    argv = sys.argv if argv is None else argv
    if not argv or Path(argv[0]) != Path(monai.bundle.__file__).with_name("__main__.py"):
        return
    sys.excepthook = _end_with_cause
    share_processors()
    if "MIXSEG_VERBOSE" not in os.environ:
        # Two lines of Ignite an epoch, and two a validation, hide what concerns a user.
        logging.getLogger("ignite").setLevel(logging.WARNING)
    if dashes := one_dash(argv[1:]):
        raise ValueError(
            "; ".join(f"'{name}' begins with one dash: write -{name}" for name in dashes)
        )
    unknown = unknown_options(argv[1:])
    if unknown:
        raise ValueError(
            "no such option: "
            + "; ".join(f"--{name}{suggestion(near)}" for name, near in unknown.items())
            + ". The settings are at the top of the configuration files"
        )
    restore_values(argv[1:])
    if misread := misread_values(argv[1:]):
        raise ValueError(
            "; ".join(f"write --{name} {value!r}" for name, value in misread.items())
            + ": monai.bundle takes any other spelling for a text"
        )


def _end_with_cause(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The usual traceback, then the cause as the last lines; of a refusal the cause alone."""
    cause = cause_of(error)
    if isinstance(cause, RunRefusedError):
        print(f"\nerror: {cause}", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, traceback)
    if cause is not error:
        print(f"\nerror: {cause}", file=sys.stderr)


def begin_training(anew: bool = True) -> None:
    """Record the training under way in its output folder, or refuse what would spoil a run there.

    The folder is locked until :func:`release_run` or the end of the process. Under ``torchrun``
    the first process alone acts. Outside a bundle's workflow nothing is done.

    Args:
        anew: False leaves a training alone that was begun by the same workflow.

    Raises:
        RunRefusedError: another training writes to the folder; it holds a run, and neither
            ``resume`` nor ``overwrite`` is set; or the run to resume was trained with other
            settings or data, each of which is named.
    """
    parser, workflow = running_parser(), running_workflow()
    if parser is None or os.environ.get("RANK", "0") != "0":
        return
    folder = Path(os.path.abspath(parser.get_parsed_content("output_dir")))
    _hold(folder)
    own_run = _begun.get(parser) == folder
    if own_run and not anew:
        return
    if workflow is not None:
        configs = workflow.config_root_path
    else:
        configs = Path(str(parser.get_parsed_content("bundle_root"))) / "configs"
    own = own_configuration(parser.get(), configs)
    resuming = _switch(parser, "resume") and _any(folder, CHECKPOINTS)
    if resuming and not is_run(folder):
        raise RunRefusedError(
            f"'{folder}' was trained before runs recorded their settings and cannot be resumed: "
            "train into another --output_dir, or replace it with --overwrite True"
        )
    asked = own_run or _switch(parser, "resume") or _switch(parser, "overwrite")
    if _any(folder, _HOLDS) and not asked:
        raise RunRefusedError(
            f"'{folder}' holds a run: resume it with --resume True, replace it with "
            "--overwrite True, or choose another --output_dir"
        )
    facts = {**_facts(parser, configs), "changed_settings": changed_settings(own, configs)}
    if _switch(parser, "overwrite") and not _switch(parser, "resume"):
        _remove_run(folder)
    if resuming:
        recorded = read_record(folder, "bundle", "processes", "data", "environments")
        _refuse_another(folder, own, recorded, facts)
        facts["environments"] = [*recorded["environments"], *facts["environments"]]
    data = str(parser.get_parsed_content("dataset_dir"))
    datalist = parser.get_parsed_content("datalist") if "datalist" in parser else None
    if datalist is not None:  # it may be named from the data's folder on
        datalist = str(datalist if Path(datalist).is_file() else Path(data, datalist))
    branch = _inference_branch(own, configs)
    write_record(folder, configs, own, data, datalist, branch, facts)
    _begun[parser] = folder


def release_run(folder: Path) -> None:
    """Let other processes train in a folder that :func:`begin_training` has locked."""
    if (claimed := _claims.pop(Path(os.path.abspath(folder)), None)) is not None:
        claimed.lock.release()


def _hold(folder: Path) -> None:
    if folder in _claims:
        return
    try:
        _claims[folder] = claim(folder, "this training")
    except ValueError as error:
        raise RunRefusedError(str(error)) from error


def _facts(parser: ConfigParser, configs: Path) -> dict[str, Any]:
    cases = {
        split: parser.get_parsed_content(place)
        for split, place in (
            ("training", "train#dataset#data"),
            ("validation", "validate#dataset#data"),
        )
        if place in parser
    }
    return {
        "bundle": bundle_name(configs.resolve().parent),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "data": fingerprint(cases, progress=_switch(parser, "progress")),
        "environments": [environment()],
    }


def _refuse_another(
    folder: Path, own: Mapping[str, Any], recorded: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Raise where the run to resume is not the one that is asked for."""
    before = load(folder / "configs" / "train.yaml")
    lines = config_differences(before, own)
    bundle, processes = (
        [f"{name}: recorded {recorded[name]}, now {facts[name]}"] * (recorded[name] != facts[name])
        for name in ("bundle", "processes")
    )
    if lines and bundle:
        lines = bundle  # which has other settings and parts throughout
    lines += processes
    lines += data_differences(recorded["data"], facts["data"])
    if lines:
        raise RunRefusedError(
            f"'{folder}' cannot be resumed, because of differences that could change its result:\n"
            + "".join(f"  {line}\n" for line in lines)
            + f"Its own settings are in {folder / 'configs' / 'train.yaml'}: resume with them "
            "(--config_file), or train into another --output_dir"
        )
    planned, wanted = before.get("max_epochs"), own.get("max_epochs")
    if planned != wanted:
        logger.warning(
            "max_epochs was %s and is %s now: the learning rate continues as in a training of %s "
            "epochs",
            planned,
            wanted,
            wanted,
        )


def _inference_branch(own: Mapping[str, Any], configs: Path) -> str | None:
    """The branch that the method predicts with, where the inference has a choice.

    The objective is built apart from the run's own, whose random start must follow the seed.
    """
    inference = configs / "inference.yaml"
    if "objective" not in own or not inference.is_file() or "branch" not in load(inference):
        return None
    with torch.random.fork_rng(devices=[]):
        objective = ConfigParser(deepcopy(dict(own))).get_parsed_content("objective")
    branch = getattr(objective, "inference_branch", None)
    return None if branch is None else str(branch)


def _switch(parser: ConfigParser, name: str) -> bool:
    """A switch of the configuration, which may be a text of the command line."""
    value = parser.get_parsed_content(name) if name in parser else False
    return value.lower() in ("true", "yes", "on", "1") if isinstance(value, str) else bool(value)


def _any(folder: Path, names: Sequence[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def _remove_run(folder: Path) -> None:
    for name in _LEFT:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
