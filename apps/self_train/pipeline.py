"""A bundle's inference whose masks can be trained on: their values and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from mixseg.apps.predict.images import CaseError
from mixseg.apps.predict.pipeline import BundlePipeline
from mixseg.apps.self_train.cases import Selection
from mixseg.data.datalist import Entry
from mixseg.data.file_checks import Case, Fault, examine_grid, read_file
from mixseg.transforms import ConvertUnlabeled, MaskUnannotatedClasses, SelectClasses

__all__ = ["FOLDER", "ProposalPipeline", "read_scribble"]

#: Folder of the masks below the output folder.
FOLDER = "proposals"


@dataclass
class ProposalPipeline(BundlePipeline):
    """:class:`BundlePipeline` that writes masks as the bundle's training reads them.

    The mask is the same; its file has the source values of the classes, lies in
    ``proposals/<case id>``, and holds the partial labels where these are kept.

    Args:
        selection: the cases and their classes.
        keep_scribbles: replace the prediction by the partial labels where a case has some.

    Raises:
        ValueError: as :class:`BundlePipeline`; also where it predicts other classes than the
            selection's bundle.
    """

    selection: Selection
    keep_scribbles: bool
    _names: dict[str, str] = field(init=False, repr=False)
    _kept: dict[str, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._names = {
            str(Path(entry.image)): file_stem(entry.case_id) for entry in self.selection.proposed
        }
        self._kept = {}
        super().__post_init__()
        if len(self.class_names) != len(self.selection.classes.values):
            raise ValueError(
                f"'{self.bundle}' predicts {self.class_names}, the selected cases are for "
                f"{len(self.selection.classes.values)} classes: use bundles of the same classes"
            )

    def output_name(self, image: str) -> Path:
        """Where the mask of an image goes, relative to the output folder."""
        return Path(FOLDER) / f"{self._names[image]}{self._saver.output_ext}"

    def prepare(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """Read and preprocess a case, and read its partial labels where they are kept.

        Raises:
            CaseError: as for any case; also for partial labels that do not fit the image.
            Exception: whatever the bundle's transforms raise.
        """
        self._kept.clear()
        if self.keep_scribbles and case["case_id"] in self.selection.scribbles:
            entry = next(e for e in self.selection.proposed if e.case_id == case["case_id"])
            self._kept[entry.case_id] = read_scribble(entry, self.selection)
        return super().prepare(case)

    def _build(self, parser: ConfigParser) -> None:
        super()._build(parser)
        postprocessing: Compose = parser.get_parsed_content("postprocessing")
        postprocessing.transforms = tuple(
            self._write if isinstance(step, SaveImaged) else step
            for step in postprocessing.transforms
        )

    def _write(self, item: dict[str, Any]) -> dict[str, Any]:
        """The step of the postprocessing that takes the place of the bundle's writer."""
        mask = np.asarray(item["pred"].cpu(), dtype=np.uint8)
        kept = self._kept.get(item["case_id"])
        if kept is not None:
            kept = kept.reshape(mask.shape)
            mask = np.where(kept < len(self.class_names), kept, mask)
        path = self.staging / FOLDER / file_stem(item["case_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = item["pred"].meta
        values = self.selection.classes.values[mask]
        self._saver(MetaTensor(torch.from_numpy(values), meta=meta), filename=str(path))
        # The report counts the bundle's classes.
        return {**item, "pred": MetaTensor(torch.from_numpy(mask), meta=meta)}


def file_stem(case_id: str) -> str:
    """A file name without suffix out of a case id, which may hold any character."""
    return re.sub(r"[^\w.-]", "_", case_id)


def read_scribble(entry: Entry, selection: Selection) -> np.ndarray:
    """The partial labels of a case on its image's grid.

    Args:
        entry: the case, with absolute paths.
        selection: names the file.

    Returns:
        (*spatial) uint8: classes that the bundle predicts, their number C where unlabeled.

    Raises:
        CaseError: the file cannot be read, lies on another grid, or holds other values.
    """
    path = selection.scribbles[entry.case_id]
    faults: list[Fault] = []
    case = Case(
        "training",
        entry.case_id,
        entry.patient_id,
        entry.image,
        None,
        path,
        "partial",
        erode=False,
        channels=tuple(entry.channels or ()),
    )
    image = read_file(case, entry.image, "image", False, faults.append)
    drawn = read_file(case, path, "scribble", True, faults.append)
    if image is not None and drawn is not None:
        examine_grid(case, path, "scribble", image, drawn, faults.append)
    if faults:
        raise CaseError("failed", f"{faults[0].file}: {faults[0].problem}", faults[0].fix)
    assert drawn is not None
    classes = selection.classes
    try:
        label = ConvertUnlabeled(classes.source, classes.unlabeled)(drawn.data)
        if entry.annotated_classes is not None:
            label = MaskUnannotatedClasses(classes.source)(label, entry.annotated_classes)
        label = SelectClasses(classes.target, classes.source)(label)
    except ValueError as error:
        raise CaseError("failed", f"{path}: {error}", "fix the file") from error
    return np.asarray(label, dtype=np.uint8)
