"""What a bundle for the user's own data is to be: measured, chosen and sized."""

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
from mixseg.data.subset import WeakLabel, select_cases


@dataclass(frozen=True)
class Plan:
    """Everything that the files say.

    Attributes:
        name: of the bundle and its folder.
        dimensions: 2 or 3.
        datalist: absolute path.
        facts: what the training cases show.
        choices: knobs, in the order of explanation.
        value_range: of the image as the network sees it.
        seconds: rough time of the training on a CPU, None where it is not known.
    """

    name: str
    dimensions: int
    datalist: Path
    facts: DataFacts
    choices: Sequence[Choice]
    value_range: tuple[float, float]
    seconds: float | None


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse names that would break something later, and folders in use.

    Raises:
        ValueError: saying what is wrong with the name, or that the folder is not empty.
    """
    faults = check_name(folder)
    if not folder.name.isidentifier():
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
    num_full: int | None,
    num_partial: int | None,
    progress: bool,
) -> tuple[bool, DataFacts]:
    """Whether scribbles are drawn by hand, and what the training cases show.

    Raises:
        ValueError: no training case has a full mask, or the validation split is empty.
    """
    if not datalist.validation:
        raise ValueError(
            f"{path}: the validation split is empty, and the best weights are chosen by it; add "
            "cases with full masks to 'validation'"
        )
    kinds = [entry.supervision for entry in datalist.training]
    if not datalist.training or all(kind in ("partial", "none", "noisy") for kind in kinds):
        raise ValueError(
            f"{path}: no training case has a full mask, and the teacher learns from these alone; "
            "annotate a few cases in full, and give them supervision 'full'"
        )
    # Scribbles are taken where every case that is to be partial has one.
    weak: WeakLabel = "erosion"
    items = select_cases(datalist, None, num_full, num_partial, weak)
    entries = {entry.case_id: entry for entry in datalist.training}
    eroded = [item for item in items if item["erode"]]
    if eroded and all(entries[item["case_id"]].scribble for item in eroded):
        weak = "drawn"
        items = select_cases(datalist, None, num_full, num_partial, weak)
    if not any(item["supervision"] == "full" for item in items):
        raise ValueError(
            f"{path}: no training case has a full mask, and the teacher learns from these alone; "
            "annotate a few cases in full"
        )
    return weak == "drawn", measure(items, datalist.classes, datalist.unlabeled, progress)


def make_plan(
    name: str, dims: int, datalist: Path, facts: DataFacts, machine: Machine, drawn: bool
) -> tuple[Plan, tuple[str, ...]]:
    """The plan, and what to note about its sizes."""
    sizes = (slice_sizes if dims == 2 else volume_sizes)(facts, machine)
    intensities, value_range = normalization_choices(facts)
    choices = [
        *data_choices(facts, dims),
        *intensities,
        *sizes.choices,
        *supervision_choices(facts, drawn, sizes.schedule),
    ]
    path = datalist.resolve()
    plan = Plan(name, dims, path, facts, choices, value_range, sizes.seconds)
    return plan, sizes.notes


def data_notes(facts: DataFacts, folder: Path) -> list[str]:
    """What the data leave to be desired, and weights that the new files make useless."""
    notes = []
    if facts.unseen:
        notes.append(
            f"no training label shows {', '.join(facts.unseen)}: the network cannot learn what it "
            "never sees; check the datalist's 'classes' and the labels"
        )
    if not facts.partial:
        notes.append(
            "no training case is partially labelled: the bundle trains the lower bound (the "
            "teacher alone, batch_partial 0). Scribble on more cases, or try the method on the "
            "masks that you have with --num-full and --num-partial"
        )
    if (folder / "models" / "model.pt").is_file():
        notes.append(f"{folder / 'models' / 'model.pt'} is of the earlier files: train again")
    return notes
