"""Proposals on disk: masks of the cases without full ones, and the datalist that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from mixseg.apps.predict.images import InputCase
from mixseg.apps.predict.pipeline import BundlePipeline
from mixseg.apps.predict.predict import claimed, described
from mixseg.apps.predict.report import JSON_NAME, PredictionReport, settings_digest
from mixseg.apps.predict.run import PredictionRun, Wanted
from mixseg.apps.self_train.plan import Selection, Teacher
from mixseg.apps.self_train.writer import ProposalWriter
from mixseg.data.datalist import DATALIST_NAME, Datalist, Entry
from mixseg.files.atomic import ensure_writable
from mixseg.files.provenance import environment, sha256_of


@dataclass(frozen=True)
class Proposals:
    """Result of proposing.

    Attributes:
        datalist: the file; there unless a case failed.
        masks: of every case, relative to the folder.
    """

    datalist: Path
    report: PredictionReport
    masks: tuple[Path, ...]

    @property
    def cases(self) -> list[dict[str, Any]]:
        """The report's entries of the cases that have their mask."""
        # The report may know further ones, of a larger selection.
        found = self.report.cases
        return [found[m.as_posix()] for m in self.masks if m.as_posix() in found]

    @property
    def empty(self) -> list[str]:
        """Ids of the cases of which nothing but background was proposed."""
        return [str(c["case_id"]) for c in self.cases if not any(c["voxels"].values())]


def propose_masks(
    source: Teacher,
    selection: Selection,
    output: Path,
    *,
    device: torch.device,
    keep_scribbles: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Proposals:
    """Predict the cases without full masks, and write a datalist where they are ``noisy``.

    ``output`` gets ``proposals/<case id>`` for each, ``report.json`` and, last and only where every
    case has its mask, ``datalist.json``. What an earlier call with the same settings finished is
    skipped.

    Args:
        output: folder, other than that of the data's own datalist.
        keep_scribbles: replace a prediction by the partial labels where the case has some.

    Raises:
        ValueError: the folder has another datalist, or the bundle cannot be built.
        OutputError: the folder cannot be written any more; what is finished is kept.
        KeyboardInterrupt: likewise.
    """
    datalist = output / DATALIST_NAME
    if selection.datalist.base_dir == output.resolve() or (
        datalist.is_file() and not (output / JSON_NAME).is_file()
    ):
        raise ValueError(f"'{output}' is the folder of a data set: choose another -o")
    ensure_writable([output], "-o")
    cases = [
        InputCase(Path(entry.image), entry.case_id, channels=tuple(map(Path, entry.channels or ())))
        for entry in selection.proposed
    ]
    with claimed(output) as staging:
        pipeline = BundlePipeline(
            source.folder,
            [source.config("inference.yaml")],
            source.settings,
            source.weights,
            device,
            staging,
            writer=ProposalWriter(selection, keep_scribbles),
        )
        if len(pipeline.class_names) != len(selection.classes.values):
            raise ValueError(
                f"'{source.folder}' predicts {pipeline.class_names}, the selected cases are for "
                f"{len(selection.classes.values)} classes: use bundles of the same classes"
            )
        names = pipeline.output_names(cases)
        # A datalist stands for finished masks of one kind: removed first and written last.
        datalist.unlink(missing_ok=True)
        report = PredictionReport(output, _header(pipeline, selection, keep_scribbles), len(cases))
        try:
            run = PredictionRun(pipeline, cases, output, report, Wanted(False, False, 0))
            run.predict_all(overwrite, progress)
        finally:
            report.save()
    if not report.failures:
        _datalist(selection, [output.resolve() / name for name in names]).save(datalist)
    return Proposals(datalist, report, tuple(names))


def proposal_table(proposals: Proposals) -> Table:
    """A line for each proposal: the volume of each class, and whether it is empty."""
    table = Table(title="Proposals", header_style="bold", title_justify="left")
    classes = proposals.report.header["classes"][1:]
    table.add_column("case")
    for name in classes:
        table.add_column(escape(f"{name} [voxels]"), justify="right")
        table.add_column(escape(f"{name} [ml]"), justify="right")
    table.add_column("")
    empty = set(proposals.empty)
    for case in proposals.cases:
        cells = []
        for name in classes:
            cells.append(f"{case['voxels'][name]:,}")
            cells.append(f"{case['ml'][name]:.1f}" if case["ml"] else "–")
        note = "[yellow]empty[/]" if case["case_id"] in empty else ""
        table.add_row(escape(case["case_id"]), *cells, note)
    return table


def _datalist(selection: Selection, labels: Sequence[Path]) -> Datalist:
    """Full cases as they are, proposals as noisy ones; validation and test unchanged.

    Every path is absolute: below another dataset_dir a relative one could meet the true mask.
    """
    proposed = [
        Entry(
            image=entry.image,
            channels=entry.channels,
            label=str(label),
            supervision="noisy",
            case_id=entry.case_id,
            patient_id=entry.patient_id,
        )
        for entry, label in zip(selection.proposed, labels, strict=True)
    ]
    # The datalist's own order, which Set-N follows.
    order = {entry.case_id: i for i, entry in enumerate(selection.datalist.training)}
    training = sorted([*selection.full, *proposed], key=lambda entry: order[entry.case_id])
    return selection.datalist.model_copy(update={"training": training})


def _header(pipeline: BundlePipeline, selection: Selection, keep_scribbles: bool) -> dict[str, Any]:
    """What the report records once for all cases; its ``digest`` tells equal masks."""
    member = described(pipeline)
    files = member.pop("files")
    header = {
        **member,
        "configuration": files,
        "classes": pipeline.class_names,
        "source_values": selection.classes.values.tolist(),
        "keep_scribbles": keep_scribbles,
    }
    decisive = {name: value for name, value in header.items() if name != "weights"}
    if keep_scribbles:
        decisive["scribbles"] = {c: sha256_of(Path(f)) for c, f in selection.scribbles.items()}
    return {
        **header,
        "digest": settings_digest(decisive),
        "device": str(pipeline.device),
        **environment(),
    }
