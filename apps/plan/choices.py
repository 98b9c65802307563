"""The settings that ``mixseg new`` reads off the data: a value and its reason for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixseg.apps.plan.measure import DataFacts

#: Voxels this many times longer than wide make slices that have little to do with each other.
THICK = 3.0
#: And so do volumes this many times wider than they are deep, in voxels: headers may be wrong.
FLAT = 8.0

# Hounsfield units: air is −1000, and every CT scan shows some.
_CT_AIR = -500.0
_BYTES = (0, 255)
#: Method → why a batch holds so many slices or crops with partial labels.
_BATCHES = {"mixed": "as many as with full masks", "confkd": "twice batch_full, as in the papers"}


@dataclass(frozen=True)
class Choice:
    """A setting's value and why it is that."""

    setting: str
    value: Any
    reason: str


_DRAWN = Choice("weak_label", "drawn", "the datalist names scribbles")


@dataclass(frozen=True)
class Schedule:
    """Batches and iterations of a training.

    Attributes:
        batch_full: slices or crops with full masks in a batch.
        batch_partial: likewise with partial labels.
        iterations: batches in all.
        small: whether the network is narrower than its template's.
    """

    batch_full: int
    batch_partial: int
    iterations: int
    small: bool


def choose_dimensions(facts: DataFacts, wanted: int | None = None) -> tuple[int, str]:
    """2 or 3, and why.

    Raises:
        ValueError: 3 is wanted for two-dimensional images, or another number.
    """
    if wanted not in (None, 2, 3):
        raise ValueError(f"--dimensions is 2 or 3, not {wanted}")
    if facts.pictures:
        if wanted == 3:
            raise ValueError("--dimensions 3 needs volumes, and the images are two-dimensional")
        return 2, "the images are two-dimensional"
    if wanted is not None:
        return wanted, "asked for with --dimensions"
    thick = max(facts.spacing) / min(facts.spacing)
    flat = sorted(facts.shape)[1] / min(facts.shape)
    if thick >= THICK:
        return 2, f"slices are {thick:.1f} times as thick as their pixels are wide"
    if flat >= FLAT:
        return 2, f"volumes are {flat:.0f} times as wide as deep, in voxels"
    return 3, f"voxels are {thick:.1f} times as long as wide: volumes, not slices"


def slice_axis(facts: DataFacts) -> int:
    """The anatomical axis across which slices lie: that of the thickest, else of the fewest."""
    if max(facts.spacing) / min(facts.spacing) >= THICK:
        return facts.spacing.index(max(facts.spacing))
    # The last of equals: pictures have their one slice there.
    return max(range(3), key=lambda axis: (-facts.shape[axis], axis))


def data_choices(facts: DataFacts, method: str, dimensions: int) -> list[Choice]:
    """Classes, channels and the unlabeled value."""
    count = len(facts.classes)
    choices = [
        Choice("class_names", list(facts.classes), "what the network predicts"),
        Choice("in_channels", facts.channels, "of every training image"),
    ]
    if method == "mixed" or dimensions == 2:
        choices += [
            Choice("source_classes", list(facts.classes), "what the label files hold"),
            Choice("target_classes", list(range(1, count)), "all of them are segmented"),
        ]
    if method == "mixed":
        single = Choice("keep_component", "most_probable", "full masks show one object a class")
        several = Choice("keep_component", None, "a class may be several objects: all are kept")
        choices.append(single if facts.single else several)
    if facts.unlabeled != count:
        choices.append(Choice("unlabeled_value", facts.unlabeled, "as the datalist declares"))
    return choices


def normalization_choices(
    facts: DataFacts, method: str, dimensions: int
) -> tuple[list[Choice], tuple[float, float]]:
    """How intensities are scaled, and the range that the network then sees."""
    seen = facts.intensities
    if facts.pictures and seen.byte:
        why, of = "pictures of bytes: a value means the same in each", "training images"
        mean, sd = seen.mean, seen.sd
        clip, clip_why = _BYTES, "all values of a byte"
    elif not facts.pictures and seen.integer and seen.lowest <= _CT_AIR and seen.objects:
        why, of = f"CT: whole numbers from {seen.lowest:g}, alike in each image", "foreground"
        low, high, mean, sd = seen.objects
        clip = (round(low), max(round(high), round(low) + 1))
        clip_why = "0.5 to 99.5 % of the foreground in the full masks"
    else:
        why = "by each image's own mean and sd: no scale in common"
        # As in the templates.
        rule = "percentile" if method == "mixed" and dimensions == 2 else "zscore"
        return [Choice("normalization", rule, why)], (-5, 15)
    mean, sd = round(mean, 2), max(round(sd, 2), 0.01)
    choices = [
        Choice("normalization", "fixed", why),
        Choice("intensity_range", list(clip), clip_why),
        Choice("intensity_mean", mean, f"of the {of}"),
        Choice("intensity_sd", sd, f"of the {of}"),
    ]
    return choices, (round((clip[0] - mean) / sd, 2), round((clip[1] - mean) / sd, 2))


def supervision_choices(facts: DataFacts, method: str, drawn: bool, plan: Schedule) -> list[Choice]:
    """Cases of each kind, the batches and the weights of the method."""
    repeated = facts.full_cases + facts.partial_cases > facts.full + facts.partial
    unit = "patients" if repeated else "cases"
    fits, whole = "what memory and time allow", plan.batch_full + plan.batch_partial
    full = Choice("num_full", facts.full, f"{unit} with full masks")
    partial = Choice("num_partial", facts.partial, f"further {unit}, {_labels(facts, drawn)}")
    batch_full = Choice("batch_full", plan.batch_full, fits)
    batch_partial = Choice("batch_partial", plan.batch_partial, _BATCHES[method])
    if not facts.partial:
        partial = Choice("num_partial", 0, "there is none yet")
        batch_full = Choice("batch_full", whole, fits)
        batch_partial = Choice("batch_partial", 0, "no case is partially labeled")
    elif not facts.full:
        full = Choice("num_full", 0, "there is none yet")
        batch_full = Choice("batch_full", 0, "no case has a full mask")
        batch_partial = Choice("batch_partial", whole, fits)
    own = _confkd_choices if method == "confkd" else _mixed_choices
    return [full, partial, batch_full, batch_partial, *own(facts, drawn, plan)]


def _labels(facts: DataFacts, drawn: bool) -> str:
    if drawn:
        return "with hand-drawn scribbles"
    return "with eroded masks" if facts.eroded else "with the labels that the datalist names"


def _mixed_choices(facts: DataFacts, drawn: bool, plan: Schedule) -> list[Choice]:
    if not facts.partial:
        return []
    why = "masks become seeds; partial labels stay as they are"
    choices = [_DRAWN if drawn else Choice("weak_label", "erosion", why)]
    if not facts.background_drawn:
        why = "no stroke marks background: it begins this far from all seeds"
        choices.append(Choice("free_negatives", "auto", why))
    return choices


def _confkd_choices(facts: DataFacts, drawn: bool, plan: Schedule) -> list[Choice]:
    if not facts.partial:
        lower = "a lower bound: no case is partially labeled"
        return [Choice(name, 0, lower) for name in ("lambda_w", "lambda_kd", "lambda_ent")]
    choices = [_DRAWN] if drawn else []
    if facts.background_drawn:
        why = "the partial labels mark background too"
        choices.append(Choice("lambda_w", 1, why))
    elif plan.small:
        choices.append(Choice("lambda_w", 1, "a small network needs more of the partial labels"))
        why = "and a later start of the entropy, after half of the iterations"
        choices.append(Choice("ramps", {"lambda_ent": plan.iterations // 2}, why))
    return choices


def numbers(values: Sequence[float]) -> str:
    """``216 × 256`` or ``1.5 × 1.25``."""
    return " × ".join(f"{value:.4g}" for value in values)
