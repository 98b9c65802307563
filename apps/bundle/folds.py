"""Cross-validation over the full masks: a training a fold, each mask tested once, scores pooled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.run import bundle_command, run_logged, shown
from mixseg.configuration.loading import cause_of, read_parser
from mixseg.data.datalist import Datalist, data_hash
from mixseg.data.folds import fold_datalist, full_patients
from mixseg.files.atomic import ensure_writable, strict_json, write_bytes_atomic
from mixseg.files.provenance import sha256_of
from mixseg.metrics.scores import CaseScore
from mixseg.report.scores import read_metrics_csv, write_metrics_csv, write_summary

__all__ = ["cross_validate", "fold_folder"]

_REQUEST_NAME = "folds.json"
#: Settings that each fold has of its own.
_OWN = ("datalist", "output_dir", "ckpt_dir", "resume")


def fold_folder(output: Path, fold: int) -> Path:
    """The run folder of a fold, which counts from 0."""
    return output / f"fold_{fold + 1}"


def cross_validate(
    bundle: Path,
    output: Path,
    folds: int,
    settings: Mapping[str, Any],
    show: Callable[[str, str], None],
) -> list[CaseScore]:
    """Train on all but a part of the full masks and test that part, for each part.

    The full masks are those that the bundle trains on (``num_full``); partially labeled and
    unlabeled cases train in every fold. A fold keeps its last weights: its few masks neither choose
    weights nor stop the training. Interrupted, the same call resumes: finished folds are skipped,
    and a training that had begun continues from its checkpoint.

    ``output`` then holds a run folder a fold, ``fold_1`` and so on, with the scores of its part in
    ``test``; ``metrics.csv`` and ``summary.json`` are of all folds together.

    Args:
        bundle: folder of the bundle.
        output: folder to write to.
        folds: number of folds.
        settings: of train.yaml, by name.
        show: is told each step, as text and kind (``"heading"``, ``"command"``, ``"done"``).

    Returns:
        Scores of every full mask, fold by fold.

    Raises:
        ValueError: the masks are too few for so many folds, a setting is each fold's own, or
            ``output`` holds a cross-validation with other settings, data or configuration.
        ChildProcessError: a training or a test failed; names its log.
        OSError: ``output`` cannot be written.
    """
    if own := [name for name in _OWN if name in settings]:
        raise ValueError(f"--{own[0]} is each fold's own: leave it out with --folds")
    configs = bundle / "configs"
    datalist, dataset_dir, numbers = _cases(configs, bundle, settings)
    used = len(full_patients(datalist, dataset_dir)[: numbers["num_full"]])
    parts = [
        fold_datalist(datalist, dataset_dir, folds, fold, numbers["num_full"])
        for fold in range(folds)
    ]
    ensure_writable([output], "--output")
    request = {
        "folds": folds,
        "settings": {name: str(value) for name, value in settings.items()},
        "data": data_hash(datalist, dataset_dir),
        "configuration": sha256_of(configs / "train.yaml"),
    }
    _refuse_another(output, request)
    rows: list[CaseScore] = []
    for fold, part in enumerate(parts):
        folder = fold_folder(output, fold)
        name = f"fold {fold + 1} of {folds}"
        if (folder / "test" / "summary.json").is_file():
            show(f"{name}: done already", "done")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            part.save(folder / "datalist.json")
            own_settings = {
                **settings,
                **numbers,
                "bundle_root": bundle.resolve(),
                "datalist": (folder / "datalist.json").resolve(),
                "ckpt_dir": (folder / "models").resolve(),
            }
            if numbers["num_full"] is not None:
                tested = len({entry.patient_id for entry in part.test})
                own_settings["num_full"] = used - tested
            for run_id, files, more in (
                ("training", ["train.yaml"], {"output_dir": folder.resolve(), "resume": True}),
                (
                    "evaluating",
                    ["train.yaml", "evaluate.yaml"],
                    {"output_dir": (folder / "test").resolve()},
                ),
            ):
                show(f"{name}: {run_id}", "heading")
                knobs = {**own_settings, **more}
                show(shown(bundle_command(run_id, files, knobs, configs, "python")), "command")
                command = bundle_command(run_id, files, knobs, configs.resolve(), sys.executable)
                if status := run_logged(command, folder / "log.txt"):
                    raise ChildProcessError(
                        f"{name}, {run_id}: exit status {status}; the log is "
                        f"'{folder / 'log.txt'}'; the same command resumes"
                    )
        rows += read_metrics_csv(folder / "test" / "metrics.csv")
    write_metrics_csv(rows, output / "metrics.csv")
    write_summary(
        output / "summary.json",
        rows,
        configuration=dict(settings),
        seed=None,
        data_hash=request["data"],
        extra={"folds": folds},
    )
    return rows


def _cases(
    configs: Path, bundle: Path, settings: Mapping[str, Any]
) -> tuple[Datalist, Path, dict[str, int | None]]:
    """The bundle's datalist, the folder of its data, and how many patients of each kind it uses."""
    knobs = {**settings, "bundle_root": str(bundle.resolve())}
    parser = read_parser([configs / "train.yaml"], knobs)
    try:
        datalist = parser.get_parsed_content("datalist_content")
        folder = parser.get_parsed_content("dataset_dir")
        numbers = {name: parser.get_parsed_content(name) for name in ("num_full", "num_partial")}
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"'{bundle}': {cause_of(error)}") from error
    return datalist, Path(folder), numbers


def _refuse_another(output: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder with other folds; else note what these are."""
    path = output / _REQUEST_NAME
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in request if earlier.get(name) != request[name]]:
            raise ValueError(
                f"'{output}' holds a cross-validation of other {', '.join(changed)}: choose "
                "another --output, or delete it"
            )
    write_bytes_atomic(path, strict_json(request).encode())
