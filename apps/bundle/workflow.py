"""Training a bundle, and scoring what was trained, by ``monai.bundle run``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import bundle_name, find_bundle, find_trained, refuse_changed, remember
from mixseg.apps.bundle.run import run_bundle
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.configuration.kinds import refuse_other_kinds
from mixseg.configuration.loading import configurations, load, read_parser
from mixseg.configuration.paths import literal_path
from mixseg.configuration.processes import Processes
from mixseg.configuration.record import is_run
from mixseg.configuration.settings import settings_of, suggestion
from mixseg.data.datalist import Datalist, DatalistError
from mixseg.data.find import find_datalist
from mixseg.files.lock import claim

#: Settings that :func:`train_bundle` and :func:`evaluate_run` give by arguments of their own.
TRAINING_ARGUMENTS = {
    "bundle_root": "the bundle",
    "dataset_dir": "--data",
    "output_dir": "--output",
    "ckpt_dir": "--output",
    "device": "--device",
    "resume": "--resume",
}
EVALUATION_ARGUMENTS = {
    **{name: TRAINING_ARGUMENTS[name] for name in ("bundle_root", "dataset_dir", "output_dir")},
    "ckpt_dir": "--weights",
    "checkpoint": "--weights",
    "device": "--device",
    "split": "--split",
}
SPLITS = ("test", "validation")
#: What a training in several processes passes after train.yaml.
_SHARED = Path("multi_gpu_train.yaml")
#: What a training leaves in its folder.
_TRAINED = ("checkpoint.pt", "history.csv", "models/model.pt")


def training_files(folder: Path, config: Sequence[Path] = ()) -> list[Path]:
    """``train.yaml`` of a bundle and the files after it.

    Args:
        config: further files, by their paths or by their names in ``configs/``.

    Raises:
        ValueError: one of them is missing.
    """
    files = [folder / "configs" / "train.yaml", *configurations(folder, config)]
    if not files[0].is_file():
        raise ValueError(f"'{folder}' cannot be trained: it has no configs/train.yaml")
    return files


def evaluation_files(folder: Path, config: Sequence[Path] = ()) -> list[Path]:
    """The files that score a bundle's network: ``evaluate.yaml``, after the ones that it needs.

    Args:
        folder: a bundle's, where ``evaluate.yaml`` changes ``train.yaml``, or that of a run, where
            it stands alone.
        config: further files, by their paths or by their names in ``configs/``.

    Raises:
        ValueError: one of them is missing.
    """
    evaluate = folder / "configs" / "evaluate.yaml"
    if not evaluate.is_file():
        raise ValueError(f"'{folder}' cannot be evaluated: it has no configs/evaluate.yaml")
    alone = "network_def" in load(evaluate)
    first = [] if alone else training_files(folder)
    return [*first, *configurations(folder, config), evaluate]


def train_bundle(
    bundle: str | Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    config: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    processes: Processes | None = None,
) -> Path:
    """Train a bundle in a process of its own.

    Arguments are as of :meth:`mixseg.Bundle.train`; a run itself is its own default output. All
    that the training says is in ``output/train.log``; ``verbose`` shows it, too.

    Args:
        processes: that train together, each calling this; None for this one alone. With several,
            ``multi_gpu_train.yaml`` comes after ``train.yaml``, and the further ones show nothing
            and log to ``train_1.log`` and so on.

    Returns:
        The folder of the run.

    Raises:
        ValueError: there is no such bundle, file or setting; ``output`` is missing, in use, or
            holds a training and it is not said what to do with it.
        ChildProcessError: the training failed; says why.
    """
    processes = processes or Processes()
    folder = find_bundle(bundle)
    refuse_changed(folder)
    if processes.count > 1:
        config = [_SHARED, *(path for path in config if path.name != _SHARED.name)]
    files = training_files(folder, config)
    known = settings_of(files)
    given = dict(settings or {})
    check_settings(given, known, f"the bundle {bundle_name(folder)}", TRAINING_ARGUMENTS)
    if output is None and is_run(folder):
        output = folder
    output = output_folder(bundle, folder, output)
    if (source := given.get("init_weights")) is not None:
        start = Path(str(source))
        packed = start.suffix.lower() == ".zip"
        found = start if start.exists() and not packed else find_bundle(str(source))
        given["init_weights"] = found.resolve()
    if resume and overwrite:
        raise ValueError("--resume and --overwrite cannot be combined")
    if not (resume or overwrite) and any((output / name).is_file() for name in _TRAINED):
        raise ValueError(
            f"'{output}' holds a training: continue it with --resume, start again with "
            "--overwrite, or choose another --output"
        )
    given |= data_settings(data, files, given) | _places(folder, output, device)
    if "ckpt_dir" in known:
        given["ckpt_dir"] = (output / "models").resolve()
    given |= {
        name: True for name, wanted in (("resume", resume), ("overwrite", overwrite)) if wanted
    }
    if processes.first:
        # The run claims the folder itself, but its log is opened before: refuse one in use here.
        claim(output, "this training").lock.release()
    log = output / ("train.log" if processes.first else f"train_{processes.rank}.log")
    quiet = not processes.first
    run_bundle("training", files, given, log, verbose=verbose and not quiet, quiet=quiet)
    remember(output)  # what was trained here does not come from elsewhere
    return output


def evaluate_run(
    run: str | Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    split: str = "test",
    weights: Path | None = None,
    config: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    verbose: bool = False,
) -> Path:
    """Score the weights of a run, or of a bundle that comes with some, in a process of its own.

    Arguments are as of :meth:`mixseg.Bundle.evaluate`. All that is said is in
    ``output/evaluate.log``; ``verbose`` shows it, too.

    Returns:
        The folder of the scores.

    Raises:
        ValueError: there is no such run, file, split or setting, there are no weights, or
            ``output`` is in use.
        ChildProcessError: the evaluation failed; says why.
    """
    if split not in SPLITS:
        raise ValueError(f"--split is '{split}': give {' or '.join(SPLITS)}")
    folder = find_trained(run)
    weights = bundle_weights(folder, weights)
    files = evaluation_files(folder, config)
    given = dict(settings or {})
    owner = f"the bundle {bundle_name(folder)}"
    check_settings(given, settings_of(files), owner, EVALUATION_ARGUMENTS)
    output = output_folder(run, folder, output, split)
    given |= data_settings(data, files, given) | _places(folder, output, device)
    given |= {"checkpoint": weights.resolve(), "split": split}
    with claim(output, "this evaluation"):
        run_bundle("evaluating", files, given, output / "evaluate.log", verbose=verbose)
    return output


def check_settings(
    settings: Mapping[str, Any], known: Mapping[str, Any], owner: str, own: Mapping[str, str]
) -> None:
    """Refuse settings that a bundle does not have, and values of another kind than they take.

    Args:
        settings: name → value; entries below a setting as ``optimizer#lr``.
        own: settings that are given in another way → how.

    Raises:
        ValueError: for the first that is unknown, or one of ``own``; for all of another kind.
    """
    for name in settings:
        if name in own:
            raise ValueError(f"'{name}' is set by {own[name]} here")
        if re.split("#|::", name)[0] not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"'{name}' is not a setting of {owner}{suggestion(near)}")
    refuse_other_kinds(settings)


def output_folder(
    given: str | Path, folder: Path, output: Path | None, inside: str = "eval"
) -> Path:
    """Where to write: as asked for, or in the folder that was given; never in an installed one."""
    if output is not None:
        return output
    if Path(given).is_dir():
        return folder / inside
    raise ValueError(f"give --output: '{given}' is installed, and its folder must not change")


def data_settings(
    data: Path | None, files: Sequence[Path], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that make a bundle or a run read other data.

    A bundle of ``mixseg new`` names its datalist, and so does the run of a fold. It counts where
    its images lie in the other folder, too, as in a copy; else the folder's own datalist does.

    Raises:
        ValueError: there is no such folder, or it holds neither.
    """
    if data is None:
        return {}
    if not data.exists():
        raise ValueError(f"there is no '{data}': give the folder of the data with --data")
    folder = data.resolve()
    settings: dict[str, Any] = {"dataset_dir": str(folder)}
    if "datalist" in given:
        return settings
    bundle_root = literal_path(files[0].resolve().parents[1])
    parser = read_parser(files, {"bundle_root": bundle_root})
    named = parser.get_parsed_content("datalist") if "datalist" in parser else None
    if named is None:
        return settings
    listed = Datalist.load(folder / named)
    images = [(folder / entry.image).resolve() for _, entry in listed.items()]
    if any(image.exists() and image.is_relative_to(folder) for image in images):
        return settings
    try:
        find_datalist(folder)
    except DatalistError as error:
        raise ValueError(
            f"'{data}' holds neither images of '{named}', which names the cases here, nor a "
            "datalist of its own: leave out --data, or give --datalist"
        ) from error
    return settings | {"datalist": None}


def _places(folder: Path, output: Path, device: str | None) -> dict[str, Any]:
    """The settings that say where a run writes and computes."""
    places: dict[str, Any] = {"bundle_root": folder.resolve(), "output_dir": output.resolve()}
    if device is not None:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            raise ValueError(f"--device {device} is not a device: give cpu, cuda or cuda:1")
        places["device"] = f"$torch.device('{device}')"
    return places
