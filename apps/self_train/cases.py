"""The cases that a run has learned from, as its train.yaml selects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from mixseg.configuration.loading import cause_of, read_parser
from mixseg.data.datalist import Datalist, Entry

__all__ = [
    "Classes",
    "Selection",
    "read_classes",
    "read_selection",
]


@dataclass(frozen=True)
class Classes:
    """How a bundle reads label files.

    Attributes:
        target: values in the files of the classes that the bundle predicts, in their order; an
            entry may be a list of values that are one class for the bundle.
        source: number of classes in the files, background included.
        unlabeled: value of unlabeled voxels in the files.
    """

    target: tuple[int | tuple[int, ...], ...]
    source: int
    unlabeled: int

    @property
    def values(self) -> np.ndarray:
        """(C,) uint8: the value in label files of each predicted class, background first."""
        return np.array([0, *(t if isinstance(t, int) else t[0] for t in self.target)], np.uint8)


@dataclass(frozen=True)
class Selection:
    """Training cases of a run, by what the run knew of them.

    Attributes:
        datalist: all splits, with absolute paths.
        full: training cases whose full masks the run has seen.
        proposed: the other ones it has seen, partially labeled or without a label.
        scribbles: case id of a proposed case → its file of partial labels, where it has one. A
            full mask that the run erodes is none.
        classes: of the bundle.
    """

    datalist: Datalist
    full: tuple[Entry, ...]
    proposed: tuple[Entry, ...]
    scribbles: dict[str, str]
    classes: Classes


def read_selection(train: Path, dataset_dir: Path) -> Selection:
    """What a run was trained on; no label is opened whose supervision the datalist declares.

    Args:
        train: ``train.yaml`` of a run or a bundle.
        dataset_dir: the data. Where its datalist lies elsewhere, the run names it.

    Raises:
        ValueError: the datalist or the selection cannot be used, no case is left to propose, or
            the classes of data and bundle do not fit together.
    """
    classes = read_classes([train])
    parser = _parser([train], {"dataset_dir": str(dataset_dir)})
    try:
        items: list[dict[str, Any]] = parser.get_parsed_content("train#dataset#data")
        datalist: Datalist = parser.get_parsed_content("datalist_content")
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"{train}: {cause_of(error)}") from error
    if classes.source != len(datalist.classes):
        raise ValueError(
            f"the datalist has {len(datalist.classes)} classes {datalist.classes}, the bundle "
            f"reads {classes.source}: use a bundle for these data"
        )
    if 0 <= classes.unlabeled < classes.source:
        raise ValueError(
            f"unlabeled_value is {classes.unlabeled}, a class that proposals need: store labels "
            f"whose unlabeled voxels have a value outside 0..{classes.source - 1}"
        )
    kinds = {item["case_id"]: item["supervision"] for item in items}
    resolved = datalist.resolve(dataset_dir)
    chosen = [entry for entry in resolved.training if entry.case_id in kinds]
    proposed = tuple(e for e in chosen if kinds[e.case_id] in ("partial", "none"))
    if not proposed:
        raise ValueError(
            f"{train} takes no training case as partially labeled or without a label, so "
            "there is nothing to propose: give a run that was trained on some"
        )
    return Selection(
        datalist=resolved,
        full=tuple(e for e in chosen if kinds[e.case_id] == "full"),
        proposed=proposed,
        scribbles={
            item["case_id"]: item["label"]
            for item in items
            if item["supervision"] == "partial" and not item["erode"]
        },
        classes=classes,
    )


def read_classes(
    files: Sequence[Path], settings: Mapping[str, Any] = MappingProxyType({})
) -> Classes:
    """How ``train.yaml`` reads label files.

    Args:
        files: ``train.yaml`` and the overlays after it.
        settings: entries of them that are replaced.

    Raises:
        ValueError: the file does not say it, or contradicts itself.
    """
    parser = _parser(files, settings)
    try:
        names = [str(name) for name in parser.get_parsed_content("class_names")]
        source, targets = names, list(range(1, len(names)))
        if "target_classes" in parser:
            source = parser.get_parsed_content("source_classes")
            targets = parser.get_parsed_content("target_classes")
        unlabeled = parser.get_parsed_content("unlabeled_value")
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"{files[0]}: {cause_of(error)}") from error
    if len(targets) != len(names) - 1:
        raise ValueError(
            f"target_classes {targets} are {len(targets)} classes, class_names {names} beyond "
            f"the background {len(names) - 1}: give as many of both"
        )
    return Classes(
        tuple(t if isinstance(t, int) else tuple(t) for t in targets),
        len(source),
        len(source) if unlabeled is None else int(unlabeled),
    )


def _parser(files: Sequence[Path], settings: Mapping[str, Any]) -> ConfigParser:
    parser = read_parser(files, settings)
    parser["bundle_root"] = str(files[0].parent.parent)
    parser["device"] = "cpu"  # nothing is computed here
    return parser
