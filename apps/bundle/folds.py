"""Cross-validation over the full masks: a training a fold, each mask tested once, scores pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import bundle_name, find_bundle
from mixseg.apps.bundle.workflow import (
    TRAINING_ARGUMENTS,
    check_settings,
    data_settings,
    evaluate_run,
    output_folder,
    train_bundle,
    training_files,
)
from mixseg.configuration.loading import cause_of, read_parser
from mixseg.configuration.settings import settings_of
from mixseg.data.datalist import Datalist, data_hash
from mixseg.data.folds import fold_datalist, full_patients
from mixseg.files.atomic import ensure_writable, strict_json, write_text_atomic
from mixseg.files.documents import read_object
from mixseg.files.provenance import sha256_of
from mixseg.metrics.scores import CaseScore
from mixseg.report.page import try_to_write_page
from mixseg.report.scores import read_metrics_csv, write_metrics_csv, write_summary

_REQUEST_NAME = "folds.json"


def fold_folder(output: Path, fold: int) -> Path:
    """The run folder of a fold, which counts from 0."""
    return output / f"fold_{fold + 1}"


def cross_validate(
    bundle: str | Path,
    folds: int,
    *,
    data: Path | None = None,
    output: Path | None = None,
    config: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    verbose: bool = False,
    show: Callable[[str, str], None] = lambda text, kind: None,
) -> tuple[Path, list[CaseScore]]:
    """Train on all but a part of the full masks and test that part, for each part.

    The full masks are those that the bundle trains on (``num_full``); partially labeled and
    unlabeled cases train in every fold. A fold keeps its last weights: its few masks neither choose
    weights nor stop the training. Interrupted, the same call resumes: finished folds are skipped,
    and a training that had begun continues from its checkpoint.

    The output folder then holds a run per fold, ``fold_1`` and so on, with the scores of its part
    in ``test``; ``metrics.csv``, ``summary.json`` and ``report.html`` are of all folds together.
    Arguments are as of :func:`train_bundle`; the default output is ``folds`` in its folder.

    Args:
        show: is told each step, as text and kind (``"heading"``, ``"done"``).

    Returns:
        The output folder, and the scores of every full mask, fold by fold.

    Raises:
        ValueError: the masks are too few for so many folds, a setting is each fold's own, or the
            output folder holds a cross-validation with other settings, data or configuration.
        ChildProcessError: a training or a test failed; says why.
        OSError: the output folder cannot be written.
    """
    folder = find_bundle(bundle)
    given = dict(settings or {})
    files = training_files(folder, config)
    owner = f"the bundle {bundle_name(folder)}"
    known = settings_of(files)
    check_settings(given, known, owner, TRAINING_ARGUMENTS)
    places = {"bundle_root": str(folder.resolve()), **data_settings(data, files, given)}
    datalist, dataset_dir, numbers = _cases(files, {**given, **places})
    used = len(full_patients(datalist, dataset_dir)[: numbers["num_full"]])
    parts = [
        fold_datalist(datalist, dataset_dir, folds, fold, numbers["num_full"])
        for fold in range(folds)
    ]
    output = output_folder(bundle, folder, output, "folds")
    ensure_writable([output], "--output")
    request: dict[str, Any] = {
        "folds": folds,
        "settings": {name: str(value) for name, value in given.items()},
        "data": data_hash(datalist, dataset_dir),
        "configuration": [sha256_of(path) for path in files],
    }
    _refuse_another(output, request)
    rows: list[CaseScore] = []
    spacings: dict[str, Any] = {}
    for fold, part in enumerate(parts):
        run, name = fold_folder(output, fold), f"fold {fold + 1} of {folds}"
        scores = run / "test"
        if (scores / "summary.json").is_file():
            show(f"{name}: done already", "done")
        else:
            begun = run.is_dir()
            run.mkdir(exist_ok=True)
            part.save(run / "datalist.json")
            own = {**given, **numbers, "datalist": str((run / "datalist.json").resolve())}
            if numbers["num_full"] is not None:
                own["num_full"] = used - len({entry.patient_id for entry in part.test})
            show(f"{name}: training", "heading")
            train_bundle(
                bundle,
                data=data,
                output=run,
                config=config,
                settings=own,
                device=device,
                resume=begun,
                verbose=verbose,
            )
            show(f"{name}: test", "heading")
            evaluate_run(run, output=scores, device=device, verbose=verbose)
        rows += read_metrics_csv(scores / "metrics.csv")
        tested = read_object(scores / "summary.json")
        spacings |= tested.get("spacing_mm", {})
    write_metrics_csv(rows, output / "metrics.csv")
    write_summary(
        output / "summary.json",
        rows,
        configuration=given,
        seed=None,
        data_hash=request["data"],
        extra={
            "folds": folds,
            "run": {
                "bundle": bundle_name(folder),
                "changed_settings": {n: [known.get(n), value] for n, value in given.items()},
            },
            "spacing_mm": spacings,
        },
    )
    try_to_write_page(output)
    return output, rows


def _cases(
    files: Sequence[Path], settings: Mapping[str, Any]
) -> tuple[Datalist, Path, dict[str, int | None]]:
    """The bundle's datalist, the folder of its data, and how many patients of each kind it uses."""
    parser = read_parser(files, settings)
    try:
        datalist = parser.get_parsed_content("datalist_content")
        folder = parser.get_parsed_content("dataset_dir")
        numbers = {name: parser.get_parsed_content(name) for name in ("num_full", "num_partial")}
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"{files[0]}: {cause_of(error)}") from error
    return datalist, Path(folder), numbers


def _refuse_another(output: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder with other folds; else note what these are."""
    path = output / _REQUEST_NAME
    if path.is_file():
        earlier = read_object(path)
        if changed := [name for name in request if earlier.get(name) != request[name]]:
            raise ValueError(
                f"'{output}' holds a cross-validation of other {', '.join(changed)}: choose "
                "another --output, or delete it"
            )
    write_text_atomic(path, strict_json(request))
