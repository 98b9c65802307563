"""Masks that can be trained on: their values, their names, and the partial labels in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from mixseg.apps.predict.images import CaseError, InputCase
from mixseg.apps.self_train.plan import Selection
from mixseg.data.datalist import Entry
from mixseg.data.file_checks import Case, Fault, examine_grid, read_file
from mixseg.transforms import ConvertUnlabeled, MaskUnannotatedClasses, SelectClasses

#: Folder of the masks below the output folder.
_FOLDER = "proposals"


@dataclass(frozen=True)
class ProposalWriter:
    """Writes masks as the bundle's training reads them, in the place of the bundle's own writer.

    The mask is the same; its file has the source values of the classes, lies in
    ``proposals/<case id>``, and holds the partial labels where these are kept.

    Args:
        keep_scribbles: replace the prediction by the partial labels where a case has some.
    """

    selection: Selection
    keep_scribbles: bool

    def output_name(self, case: InputCase) -> Path:
        """Where the mask of a case goes, relative to the output folder, without its suffix."""
        return Path(_FOLDER) / _file_stem(case.case_id)

    def write(self, item: dict[str, Any], folder: Path, save: Any) -> dict[str, Any]:
        """Write a predicted case.

        Args:
            item: with ``pred``, (1, *spatial), and ``case_id``.
            folder: stands for the output folder.
            save: MONAI's ``SaveImage`` of the bundle.

        Returns:
            The item with the mask that was written, of the bundle's classes.

        Raises:
            CaseError: partial labels that are kept do not fit the image.
        """
        mask = np.asarray(item["pred"].cpu(), dtype=np.uint8)
        if self.keep_scribbles and item["case_id"] in self.selection.scribbles:
            entry = next(e for e in self.selection.proposed if e.case_id == item["case_id"])
            kept = _read_scribble(entry, self.selection).reshape(mask.shape)
            mask = np.where(kept < len(self.selection.classes.values), kept, mask)
        path = folder / _FOLDER / _file_stem(item["case_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = item["pred"].meta
        values = self.selection.classes.values[mask]
        save(MetaTensor(torch.from_numpy(values), meta=meta), filename=str(path))
        return {**item, "pred": MetaTensor(torch.from_numpy(mask), meta=meta)}


def _file_stem(case_id: str) -> str:
    """A file name without suffix out of a case id, which may hold any character."""
    return re.sub(r"[^\w.-]", "_", case_id)


def _read_scribble(entry: Entry, selection: Selection) -> np.ndarray:
    """The partial labels of a case on its image's grid.

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
