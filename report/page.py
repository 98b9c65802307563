"""``report.html``: what a training, an evaluation or a prediction did, as one page.

The page is made of the files that the folder holds, so it can be made again at any time. It needs
nothing beside itself: pictures are inside, no script runs and nothing is fetched, which a content
security policy in the page holds.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from PIL import Image

from mixseg.files.atomic import write_text_atomic
from mixseg.files.documents import read_object
from mixseg.metrics.scores import CaseScore
from mixseg.metrics.summary import summarize
from mixseg.report.agreement import agreement, bland_altman_figure, volume_figure
from mixseg.report.canvas import inline_svg
from mixseg.report.curves import curve_figures
from mixseg.report.scores import read_metrics_csv
from mixseg.report.tables import mean_and_sd, score_cells

logger = logging.getLogger(__name__)

PAGE_NAME = "report.html"
#: The files that tell what a folder holds.
_HISTORY, _SCORES, _MASKS = "history.csv", "metrics.csv", "report.json"
#: Rows of a table of cases; the files have all of them.
_ROWS = 300
#: Points of a figure that is drawn as vectors.
_POINTS = 3000
_PREVIEWS = 10
_WIDTH = 1200  # pixels of an embedded picture at the most
_BRANCHES = ("student", "main", "teacher", "ensemble")
_ENTRY = {"full": "full masks", "partial": "partial labels", "noisy": "masks that may be wrong"}
_ENTRY |= {"none": "no labels"}


@dataclass
class Table:
    """A table; its first ``texts`` columns are texts, so are notes, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    note: str = ""

    def is_text(self, column: int) -> bool:
        """Whether a column is aligned at the left, and may break."""
        return column < self.texts or self.header[column] == "notes"


@dataclass
class Part:
    """A section: paragraphs, then tables, drawings and pictures, each only where there is one."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawings: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Page:
    """The page before it is written; facts without a value are not shown."""

    title: str
    status: str
    facts: list[tuple[str, Any]]
    tiles: list[tuple[str, str]]
    parts: list[Part]


def write_page(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a folder, atomically.

    Args:
        folder: of a run (``history.csv``), of scores (``metrics.csv``), or of masks
            (``report.json`` of a prediction). A folder that holds several gets one page of all.

    Returns:
        The page's path.

    Raises:
        ValueError: the folder holds none of these, or a file of them cannot be read; names it.
        OSError: the page cannot be written.
    """
    place = Path(folder)
    makers = {_HISTORY: _training, _SCORES: _evaluation, _MASKS: _prediction}
    pages = [make(place) for name, make in makers.items() if (place / name).is_file()]
    if not pages:
        raise ValueError(
            f"'{place}' holds nothing to report: give the folder of a training ({_HISTORY}), of an "
            f"evaluation ({_SCORES}) or of a prediction ({_MASKS})"
        )
    text = _render(pages)
    write_text_atomic(place / PAGE_NAME, text)
    return place / PAGE_NAME


def try_to_write_page(folder: str | os.PathLike[str]) -> Path | None:
    """Like :func:`write_page`, but log a warning if it fails, so that no run is lost."""
    try:
        return write_page(folder)
    except Exception as error:
        logger.warning("%s is left out: %s", Path(folder) / PAGE_NAME, error)
        return None


def _render(pages: Sequence[Page]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mixseg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(pages=pages, version=version("mixseg"))


# --- a training


def _training(folder: Path) -> Page:
    record, times = _json(folder / "record.json"), _json(folder / "training.json")
    settings = _yaml(folder / "configs" / "train.yaml")
    history = _table(folder / _HISTORY)
    facts = _facts(folder, record, settings)
    facts += _training_facts(times, history)
    cases = record.get("data", {})
    used = Counter(str(case.get("supervision", "full")) for case in cases.get("training", ()))
    training = ", ".join(f"{n} with {_ENTRY.get(kind, kind)}" for kind, n in used.items())
    if cases:
        facts.append(("Training cases", training or "none"))
        facts.append(("Validation cases", str(len(cases.get("validation", ())))))
    best = _best(history)
    tiles = [("epochs", history[-1].get("epoch", "") if history else "0")]
    for branch, (dice, epoch) in best.items():
        name = "best validation Dice" + (f", {branch}" if len(best) > 1 else "")
        tiles.append((name, f"{100 * dice:.1f} %"))
        facts.append((name[0].upper() + name[1:], f"{100 * dice:.2f} % in epoch {epoch}"))
    curves = Part("Curves", ["Mean of each epoch; the best validation is marked."])
    curves.drawings = [
        inline_svg(figure, name)
        for figure, name in zip(
            curve_figures(history), ("Training losses by epoch", "Validation Dice"), strict=True
        )
    ]
    parts = [curves]
    if pictures := _pictures(folder, {"cases.png": "Validation cases at the last drawing"}):
        parts.append(Part("Validation cases", pictures=pictures))
    parts = _in_order(_training_faults(times, best, record), parts, record.get("changed_settings"))
    name = record.get("bundle") or folder.resolve().name
    return Page(f"Training of {name}", _ended(times), facts, tiles, parts)


def _training_facts(
    times: Mapping[str, Any], history: Sequence[Mapping[str, str]]
) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = []
    if history:
        facts.append(("Iterations", history[-1].get("iteration")))
    if sessions := times.get("sessions", []):
        resumed = f", resumed {len(sessions) - 1} ×" if len(sessions) > 1 else ""
        seconds = sum(session["seconds"] for session in sessions)
        facts.append(("Time", _duration(seconds) + resumed))
        facts += [(name.capitalize(), sessions[-1][name]) for name in ("device", "precision")]
    return facts


def _best(history: Sequence[Mapping[str, str]]) -> dict[str, tuple[float, str]]:
    """Highest validation Dice of each branch, and its epoch."""
    best: dict[str, tuple[float, str]] = {}
    for row in history:
        for name, value in row.items():
            if name.startswith("val_dice_") and value:
                branch, dice = name.removeprefix("val_dice_"), float(value)
                if branch not in best or dice > best[branch][0]:
                    best[branch] = dice, row.get("epoch", "")
    return best


def _ended(times: Mapping[str, Any]) -> str:
    sessions = times.get("sessions", [])
    return str(sessions[-1]["ended"]) if sessions else ""


def _training_faults(
    times: Mapping[str, Any], best: Mapping[str, Any], record: Mapping[str, Any]
) -> list[str]:
    found = []
    ended = _ended(times)
    if ended and ended != "completed":
        found.append(
            f"The training did not complete: {ended}. --resume resumes it."
            if ended != "under way"
            else "The training is under way, or its process was killed: --resume continues it."
        )
    if not best:
        found.append("Nothing was validated: the last weights are kept.")
    small = len(record.get("data", {}).get("validation", ()))
    if best and 0 < small < 5:
        found.append(
            f"{small} validation case{'s' * (small != 1)}: the Dice of so few says little about "
            "other cases."
        )
    return found


# --- an evaluation


def _evaluation(folder: Path) -> Page:
    rows, summary = read_metrics_csv(folder / _SCORES), _json(folder / "summary.json")
    if not rows:
        raise ValueError(f"'{folder / _SCORES}' has no scores")
    branches = {row.branch for row in rows}
    shown = next((name for name in _BRANCHES if name in branches), rows[0].branch)
    own = [row for row in rows if row.branch == shown]
    cases = _by_case(own)
    configuration = summary.get("configuration", {})
    run = summary.get("run", {})
    facts = [
        *_facts(folder, run | summary, configuration),
        ("Split", configuration.get("split", summary.get("split"))),
        ("Folds", summary.get("folds")),
        ("Device", run.get("device")),
        ("Precision", run.get("precision")),
        ("Time", _duration(run["seconds"]) if "seconds" in run else ""),
    ]
    dice = [fmean(row.dice for row in case) for case in cases.values()]
    spread = f" ± {100 * stdev(dice):.1f}" if len(dice) > 1 else ""
    tiles = [
        ("cases", str(len(cases))),
        ("Dice, mean ± sd" if spread else "Dice", f"{100 * fmean(dice):.1f}{spread} %"),
        ("lowest Dice of a case", f"{100 * min(dice):.1f} %"),
    ]
    header, lines = score_cells(rows)
    scores = Part("Scores", tables=[Table(header, lines, texts=2)])
    scores.text.append("Mean ± standard deviation over cases.")
    if len(branches) > 1:
        scores.text.append(f"Tiles, volumes and the list of cases are of the branch {shown}.")
    parts = [scores]
    if summary.get("groups"):
        parts.append(_groups(own, summary["groups"]))
    parts.append(_volumes(own, summary.get("spacing_mm", {})))
    of_folds = {
        f"fold_{number}/test/best_median_worst.png": f"Fold {number}"
        for number in range(1, summary.get("folds", 0) + 1)
    }
    if pictures := _pictures(folder, of_folds):
        parts.append(Part("Best, median and worst case of each fold", pictures=pictures))
    elif pictures := _pictures(folder, {"best_median_worst.png": "Best, median and worst case"}):
        parts.append(Part("Best, median and worst case", pictures=pictures))
    elif pictures := _pictures(folder, {"cases.png": "Cases"}):
        parts.append(Part("Cases", pictures=pictures))
    if surfaces := _pictures(folder, {"surfaces.png": "Predicted surfaces, colored by distance"}):
        parts.append(Part("Surfaces", pictures=surfaces))
    parts.append(_case_table(cases))
    parts = _in_order(_evaluation_faults(own, summary), parts, run.get("changed_settings"))
    name = run.get("bundle") or folder.resolve().name
    kind = "Cross-validation" if "folds" in summary else "Evaluation"
    return Page(f"{kind} of {name}", "", facts, tiles, parts)


def _by_case(rows: Iterable[CaseScore]) -> dict[str, list[CaseScore]]:
    cases: dict[str, list[CaseScore]] = {}
    for row in rows:
        cases.setdefault(row.case_id, []).append(row)
    return cases


def _groups(rows: Sequence[CaseScore], groups: Mapping[str, Mapping[str, str]]) -> Part:
    """Dice of each class in each group of cases, such as a phase or a disease."""
    part = Part("Groups", ["Dice [%], mean ± standard deviation over cases."])
    classes = list(dict.fromkeys(row.class_name for row in rows))
    for kind in dict.fromkeys(kind for of_case in groups.values() for kind in of_case):
        values = sorted({of_case[kind] for of_case in groups.values() if kind in of_case})
        lines = []
        for value in values:
            chosen = [row for row in rows if groups.get(row.case_id, {}).get(kind) == value]
            if chosen:
                (summary,) = summarize(chosen).values()
                cells = [
                    mean_and_sd(summary[name]["dice"], 100) if name in summary else "–"
                    for name in classes
                ]
                lines.append([value, str(len(_by_case(chosen))), *cells])
        part.tables.append(Table([kind, "cases", *classes], lines))
    return part


def _volumes(rows: Sequence[CaseScore], spacings: Mapping[str, Sequence[float] | None]) -> Part:
    """Predicted beside reference volumes, in ml where the spacing of every case is known."""
    known = all(len(spacings.get(row.case_id) or ()) == 3 for row in rows)
    unit = "ml" if known else "voxels"
    volumes: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        factor = math.prod(spacings[row.case_id] or ()) / 1000 if known else 1.0
        predicted, reference = volumes.setdefault(row.class_name, ([], []))
        predicted.append(row.prediction_voxels * factor)
        reference.append(row.reference_voxels * factor)
    part = Part("Volumes")
    if not known:
        part.text.append("In voxels, because the voxel size is not known for every case.")
    part.text.append(
        "The difference is predicted minus reference; its limits of agreement are bias ± 1.96 "
        "standard deviations (Bland and Altman, 1986), dotted in the figure."
    )
    lines = []
    for name, pair in volumes.items():
        found = agreement(*pair)
        low, high = found.limits
        limits = f"{low:.1f} … {high:.1f}" if found.n > 1 else "–"
        means = [f"{fmean(pair[1]):.1f}", f"{fmean(pair[0]):.1f}", f"{found.bias:+.1f}"]
        lines.append([name, str(found.n), *means, limits])
    header = ["class", "n", f"reference [{unit}]", f"predicted [{unit}]", f"bias [{unit}]"]
    part.tables.append(Table([*header, f"limits of agreement [{unit}]"], lines))
    if len(rows) > _POINTS:
        part.text.append(f"More than {_POINTS} points are not drawn.")
        return part
    part.drawings = [
        inline_svg(volume_figure(volumes, unit), "Predicted over reference volumes"),
        inline_svg(bland_altman_figure(volumes, unit), "Bland–Altman plot of the volumes"),
    ]
    return part


def _case_table(cases: Mapping[str, Sequence[CaseScore]]) -> Part:
    names = list(dict.fromkeys(row.class_name for rows in cases.values() for row in rows))
    several = len(names) > 1
    ordered = sorted(cases.items(), key=lambda item: fmean(row.dice for row in item[1]))
    known = all(row.hd95_mm is not None for rows in cases.values() for row in rows)
    lines = []
    for case_id, rows in ordered[:_ROWS]:
        dice = {row.class_name: f"{100 * row.dice:.1f}" for row in rows}
        mean = [f"{100 * fmean(row.dice for row in rows):.1f}"] if several else []
        hd95 = fmean((row.hd95_mm if known else row.hd95_vox) or 0.0 for row in rows)
        cells = [dice.get(name, "–") for name in names]
        lines.append([case_id, *mean, *cells, f"{hd95:.1f}"])
    header = ["case", *(["mean Dice [%]"] if several else [])]
    header += [*(f"Dice {name} [%]" for name in names), f"HD95 [{'mm' if known else 'voxels'}]"]
    note = _left(len(ordered), _SCORES)
    return Part("Cases, lowest Dice first", tables=[Table(header, lines, 1, note)])


def _evaluation_faults(rows: Sequence[CaseScore], summary: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, text in (
        ("prediction", "nothing was predicted, Dice counts as 0"),
        ("reference", "the reference has none, but something was predicted, Dice counts as 0"),
        ("both", "neither reference nor prediction has any, Dice counts as 100 %"),
    ):
        cases = [f"{row.case_id} ({row.class_name})" for row in rows if row.empty == kind]
        if cases:
            more = f" and {len(cases) - 20} more" if len(cases) > 20 else ""
            found.append(f"{', '.join(cases[:20])}{more}: {text}.")
    return found + [str(note) for note in summary.get("left_out", [])]


# --- a prediction


def _prediction(folder: Path) -> Page:
    report = _json(folder / _MASKS)
    if "cases" not in report or "classes" not in report:
        raise ValueError(f"'{folder / _MASKS}' is no report of a prediction")
    cases, failures = report["cases"], report.get("failures", [])
    facts: list[tuple[str, Any]] = [
        ("Bundle", f"{report.get('bundle', '')} {report.get('version', '')}".strip()),
        ("Weights (SHA-256)", str(report.get("weights_sha256", ""))[:16]),
    ]
    for other in report.get("averaged_with", []):
        text = f"{other['bundle']} {other['version']}, {str(other['weights_sha256'])[:16]}"
        facts.append(("Averaged with", text))
    facts += [("Device", report.get("device")), ("Precision", report.get("precision"))]
    facts += _provenance(report)
    if "seconds" in report:
        facts.append(("Time of the last command", _duration(report["seconds"])))
    images = report.get("images", {})
    tiles = [("masks", str(len(cases))), ("failed", str(len(failures)))]
    if images.get("found_finished"):
        tiles.append(("finished before", str(images["found_finished"])))
    tables = []
    if failures:
        lines = [
            [str(f["case_id"]), str(f["problem"]), str(f["fix"])]
            for f in sorted(failures, key=lambda f: str(f["case_id"]))
        ]
        tables.append(Table(["failed", "why", "fix"], lines[:_ROWS], 3))
    left_out = [str(text) for text in report.get("left_out", [])]
    shown = [_ordered(folder, report)] if cases else []
    parts = _in_order(left_out, shown, report.get("changed_settings"), tables)
    title = f"Masks of {report.get('bundle', folder.resolve().name)}"
    return Page(title, "", facts, tiles, parts)


def _ordered(folder: Path, report: Mapping[str, Any]) -> Part:
    """The cases by expected quality, worst first, and how far that order can be trusted."""
    part = Part("Cases, lowest expected quality first")
    cases = sorted(report["cases"], key=lambda case: _order(case.get("quality")))
    names = [str(name) for name in report["classes"][1:]]
    in_ml = all(case.get("ml") for case in cases)
    unit = "ml" if in_ml else "voxels"
    apart = any("mean_disagreement" in case for case in cases)
    notes_of = [[str(text) for text in case.get("warnings", [])] for case in cases]
    common = [
        text for text in (notes_of[0] if cases[1:] else []) if all(text in n for n in notes_of)
    ]
    lines = []
    for case in cases[:_ROWS]:
        quality, sizes = case.get("quality"), case["ml" if in_ml else "voxels"]
        cells = [f"{sizes[name]:.1f}" if in_ml else str(sizes[name]) for name in names]
        if apart:
            cells.append(f"{case.get('mean_disagreement', float('nan')):.4f}")
        number = "–" if quality is None else f"{100 * quality:.1f}"
        own = [str(text) for text in case.get("warnings", []) if text not in common]
        lines.append([str(case["case_id"]), number, *cells, "; ".join(own)])
    part.text += [
        "Look at the first ones first. Expected quality is the Dice that the mask would have "
        "if the network's probabilities were right, mean over the classes found. Where mirrored "
        "passes, branches or folds differ, their averaged probabilities are lower, and so is it.",
        _trust(report.get("expected_quality"), report),
        *(f"All cases: {text}." for text in common),
    ]
    header = ["case", "expected quality [%]", *(f"{name} [{unit}]" for name in names)]
    header += ["disagreement"] if apart else []
    header.append("notes")
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    part.tables.append(Table(header, lines, 1, _left(len(cases), "report.csv")))
    pictured = [(c, c["outputs"]["preview"]) for c in cases if "preview" in c.get("outputs", {})]
    for case, name in pictured[:_PREVIEWS]:
        # The report is a file like any other: nothing outside the folder is opened.
        path = (folder / str(name)).resolve()
        if path.is_relative_to(folder.resolve()):
            quality = case.get("quality")
            known = "" if quality is None else f", expected quality {100 * quality:.1f}"
            part.pictures += _pictures(folder, {str(name): f"{case['case_id']}{known}"})
    return part


def _trust(measured: Any, report: Mapping[str, Any]) -> str:
    """What is known of the order: the rank correlation that was measured with these weights."""
    if isinstance(measured, Mapping) and not report.get("averaged_with"):
        low, high = measured["interval_95"]
        return (
            f"Measured with these weights on {measured['n']} cases ({measured['data']}): rank "
            f"correlation with the true Dice {measured['spearman']:.2f} (95 % interval {low:.2f} "
            f"to {high:.2f}). 1 would be the true order, 0 none."
        )
    return (
        "How well this order follows the true Dice was not measured for these weights: take it as "
        "a hint."
    )


def _order(quality: float | None) -> tuple[bool, float]:
    return (quality is not None, quality or 0.0)


# --- what all have


def _facts(
    folder: Path, record: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    bundle, seed = record.get("bundle"), settings.get("seed", record.get("seed"))
    metadata = _json(folder / "configs" / "metadata.json")
    number = record.get("version") or metadata.get("version", "")
    return [
        ("Bundle", f"{bundle} {number}".strip() if bundle else ""),
        ("Seed", "" if seed is None else str(seed)),
        *_provenance((record.get("environments") or [record])[-1]),
    ]


def _provenance(environment: Mapping[str, Any]) -> list[tuple[str, Any]]:
    versions, hardware = environment.get("versions", {}), environment.get("hardware", {})
    commit, date = environment.get("git_commit") or "", environment.get("date") or ""
    changed = ", with changes" if commit and environment.get("git_modified") else ""
    return [
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)),
        ("Commit", commit[:12] + changed),
        ("Hardware", hardware.get("gpu") or hardware.get("cpu")),
        ("Date", str(date).replace("T", " ").replace("+00:00", " UTC")),
    ]


def _changed(changes: Any) -> Part:
    part = Part("Settings that differ from the bundle's")
    if not isinstance(changes, Mapping):
        part.text.append("Not recorded.")
    elif not changes:
        part.text.append("None.")
    else:
        lines = [[name, _shown(pair[0]), _shown(pair[1])] for name, pair in changes.items()]
        part.tables.append(Table(["setting", "bundle", "here"], lines, 3))
    return part


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"


def _in_order(
    faults: Sequence[str], results: Sequence[Part], changes: Any, tables: Sequence[Table] = ()
) -> list[Part]:
    """Results, then the settings; first of all what was left out or failed, if anything was."""
    part = Part("What was left out or failed", list(faults), list(tables))
    if faults or tables:
        return [part, *results, _changed(changes)]
    part.text.append("Nothing.")
    return [*results, part, _changed(changes)]


def _left(count: int, name: str) -> str:
    return f"{count - _ROWS} more are in {name}." if count > _ROWS else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _pictures(folder: Path, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    """Data URI and caption of each picture that is there; it is made smaller, not larger."""
    found = []
    for name, caption in wanted.items():
        path = folder / name
        if path.is_file():
            with Image.open(path) as image:
                shown = image.convert("RGB")
            shown.thumbnail((_WIDTH, 16000))
            buffer = io.BytesIO()
            shown.save(buffer, "WEBP", quality=82, method=2)
            data = base64.b64encode(buffer.getvalue()).decode()
            found.append((f"data:image/webp;base64,{data}", caption))
    return found


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where there is none."""
    return read_object(path) if path.is_file() else {}


def _yaml(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
