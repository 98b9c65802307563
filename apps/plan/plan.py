"""Plan of a bundle for the user's own data: measured, chosen and sized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixseg.apps.bundle.find import check_name
from mixseg.apps.plan.choices import (
    Choice,
    data_choices,
    normalization_choices,
    supervision_choices,
)
from mixseg.apps.plan.machine import Machine
from mixseg.apps.plan.measure import DataFacts, measure
from mixseg.apps.plan.sizes import slice_sizes, volume_sizes
from mixseg.data.datalist import Datalist
from mixseg.data.folds import MIN_TRAINING_MASKS
from mixseg.data.subset import WeakLabel, select_cases


@dataclass(frozen=True)
class Plan:
    """Everything that the files say.

    Attributes:
        dimensions: 2 or 3.
        datalist: absolute path.
        value_range: of the image as the network sees it.
        seconds: rough time of the training on a CPU, None where it is not known.
    """

    name: str
    method: str
    dimensions: int
    datalist: Path
    facts: DataFacts
    choices: Sequence[Choice]
    value_range: tuple[float, float]
    seconds: float | None

    @property
    def unit(self) -> str:
        """What the network sees."""
        if self.facts.pictures:
            return "pictures"
        return {2: "slices of volumes", 3: "whole volumes"}[self.dimensions]

    @property
    def summary(self) -> str:
        """What is segmented, and how it is learned: a sentence."""
        what = f"{', '.join(self.facts.classes[1:])} on {self.unit}"
        if self.method == "mixed":
            return (
                f"{what[0].upper()}{what[1:]} from whatever labels there are: Dice + cross-entropy "
                "over labeled voxels, strong augmentation, AdamW with a one-cycle rate, and a "
                "moving average of the weights."
            )
        if self.facts.partial:
            return (
                f"ConfKD for {what}: a teacher learns from full masks, a student from partial "
                "labels, from the teacher and from its own confidence."
            )
        return f"ConfKD for {what}: the lower bound, a teacher that learns from full masks."


_NOTHING = {
    "mixed": "no training case has a label; annotate a few cases",
    "confkd": "no training case has a full mask, and the teacher learns from these alone; annotate "
    "a few cases in full, or leave out --from",
}


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse names that would break something later, and folders in use.

    Raises:
        ValueError: saying what is wrong with the name, or that the folder is not empty.
    """
    faults = check_name(folder)
    if not folder.name[:1].isalpha() and folder.name[:1] != "_":
        faults.append(f"the name '{folder.name}' must begin with a letter: choose another")
    if faults:
        raise ValueError("; ".join(dict.fromkeys(faults)))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; choose another name")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"'{folder}' is not empty; give --overwrite to replace its files")


def measure_cases(
    datalist: Datalist,
    path: Path,
    method: str,
    num_full: int | None,
    num_partial: int | None,
    progress: bool,
) -> tuple[bool, DataFacts]:
    """Whether scribbles are drawn by hand, and what the training cases show.

    Raises:
        ValueError: the validation split holds a single case, or the method cannot learn from these
            labels.
    """
    if len(datalist.validation) == 1:
        raise ValueError(
            f"{path}: the validation split holds one case, '{datalist.validation[0].case_id}', and "
            "a single case cannot select weights reliably: add cases to 'validation', "
            "or move this one to 'training', where cross-validation tests it, too"
        )
    kinds = [entry.supervision for entry in datalist.training]
    usable = ("full", None) if method == "confkd" else ("full", "partial", None)
    if not any(kind in usable for kind in kinds):
        raise ValueError(f"{path}: {_NOTHING[method]}")
    # Scribbles are taken where every case that is to be partial has one.
    weak: WeakLabel = "erosion"
    items = select_cases(datalist, None, num_full, num_partial, weak)
    entries = {entry.case_id: entry for entry in datalist.training}
    eroded = [item for item in items if item["erode"]]
    if eroded and all(entries[item["case_id"]].scribble for item in eroded):
        weak = "drawn"
        items = select_cases(datalist, None, num_full, num_partial, weak)
    masks = any(item["supervision"] == "full" for item in items)
    if method == "confkd" and not masks:
        raise ValueError(f"{path}: {_NOTHING[method]}")
    facts = measure(items, datalist.classes, datalist.unlabeled, progress)
    if not masks and not facts.background_drawn:
        raise ValueError(
            f"{path}: no training case has a full mask and no stroke marks background, so nothing "
            "would teach the network the background; annotate one case in full, or "
            "add strokes of background"
        )
    return weak == "drawn", facts


def make_plan(
    name: str,
    method: str,
    dims: int,
    datalist: Path,
    facts: DataFacts,
    machine: Machine,
    drawn: bool,
) -> tuple[Plan, tuple[str, ...]]:
    """The plan, and what to note about its sizes."""
    sizes = (slice_sizes if dims == 2 else volume_sizes)(facts, machine, method)
    intensities, value_range = normalization_choices(facts, method, dims)
    choices = [
        *data_choices(facts, method, dims),
        *intensities,
        *sizes.choices,
        *supervision_choices(facts, method, drawn, sizes.schedule),
    ]
    path = datalist.resolve()
    plan = Plan(name, method, dims, path, facts, choices, value_range, sizes.seconds)
    return plan, sizes.notes


def case_uses(datalist: Datalist, facts: DataFacts) -> list[str]:
    """What each case is used for, a line a split and one for those that are left out."""
    kinds = {"full masks": facts.full_cases, "partial labels": facts.partial_cases}
    used = [f"{number} with {kind}" for kind, number in kinds.items() if number]
    lines = [f"training: {' and '.join(used)}"]
    if datalist.validation:
        lines.append(f"validation: {len(datalist.validation)}, which choose the weights")
    else:
        lines.append("validation: none; the last averaged weights are kept")
        if facts.full > MIN_TRAINING_MASKS:
            lines.append(
                f"cross-validation tests each full mask once: mixseg train BUNDLE --folds "
                f"{min(facts.full, 5)}"
            )
    lines.append(f"test: {len(datalist.test) or 'none'}")
    without = sum(entry.supervision == "none" for entry in datalist.training)
    if without:
        lines.append(
            f"left out: {without} without a label, from which this method does not learn; after "
            "the training 'mixseg self-train' proposes their masks and trains on these"
        )
    rest = len(datalist.training) - facts.full_cases - facts.partial_cases - without
    if rest:
        lines.append(f"left out: {rest} more (--num-full, --num-partial, or noisy masks)")
    return lines


def data_notes(facts: DataFacts, folder: Path, method: str) -> list[str]:
    """Notes on shortcomings of the data, and on weights that the new files make useless."""
    notes = []
    if facts.unseen:
        notes.append(
            f"no training label shows {', '.join(facts.unseen)}: the network cannot learn what it "
            "never sees; check the datalist's 'classes' and the labels"
        )
    if not facts.partial:
        alone = " (the teacher alone, batch_partial 0)" if method == "confkd" else ""
        notes.append(
            f"no training case is partially labeled: the bundle trains the lower bound{alone}. "
            "Scribble on more cases, or try the method on the masks that you have with --num-full "
            "and --num-partial"
        )
    for weights in (folder / "eval" / "models" / "model.pt", folder / "models" / "model.pt"):
        if weights.is_file():
            notes.append(f"{weights} is of the earlier files: train again")
    return notes
