"""Sizes that ``mixseg new`` fits to the data and the machine: images, networks, trainings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixseg.apps.plan.choices import Choice, Schedule, numbers, slice_axis
from mixseg.apps.plan.machine import CORE_FLOPS, Machine, network_cost
from mixseg.apps.plan.measure import DataFacts

#: Peak memory of a training step over that of the activations that autograd keeps.
OVERHEAD = 1.3
#: Trainings of fewer iterations show that everything runs, and no more.
SMOKE_TEST = 500
#: Longest side of a slice as it is resized.
LONGEST_SIDE = 512

_Batch = tuple[int, int]
#: Voxels or longest side, channels of the first level, slices or crops of each kind in a batch.
_Option = tuple[int, int, _Batch]


@dataclass(frozen=True)
class _Ladder:
    """What a method is trained with in 2D or in 3D, whatever the data.

    Attributes:
        levels: channels of each level, in those of the first; sides of images are multiples of 2
            to the number of further levels.
        width: channels of the template's first level.
        iterations: of a training on CUDA and on a CPU, where there is time.
        cuda: options from the best to the smallest; the last is taken where none fits.
        cpu: likewise.
        coverage: share of a volume that a crop should show at least, where coarser voxels can help.
    """

    levels: tuple[int, ...]
    width: int
    iterations: tuple[int, int]
    cuda: tuple[_Option, ...]
    cpu: tuple[_Option, ...]
    coverage: float = 0.0

    @property
    def divisor(self) -> int:
        """Sides of images are multiples of this."""
        return int(2 ** (len(self.levels) - 1))

    def features(self, width: int) -> list[int]:
        return [width * factor for factor in self.levels]


_SIDES = (LONGEST_SIDE, 384, 256, 128)
_CROPS = (112 * 112 * 80, 96 * 96 * 64, 80 * 80 * 64, 64 * 64 * 48, 48 * 48 * 32)
_LADDERS: dict[str, dict[int, _Ladder]] = {
    "mixed": {
        2: _Ladder(
            levels=(1, 2, 4, 8, 8),
            width=16,
            iterations=(3000, 3000),
            cuda=tuple((s, w, b) for s in _SIDES for w in (32, 16) for b in ((8, 8), (4, 4))),
            cpu=(
                *((side, 16, (8, 8)) for side in (256, 192, 160, 128, 112, 96, 80, 64)),
                (64, 8, (8, 8)),
                (64, 8, (4, 4)),
            ),
        ),
        3: _Ladder(
            levels=(1, 2, 4, 8),
            width=16,
            iterations=(1500, 1500),
            cuda=tuple((v, w, b) for v in _CROPS for w in (32, 16) for b in ((2, 2), (1, 1))),
            cpu=(
                *((v, 16, (1, 1)) for v in (88 * 72 * 40, 64 * 64 * 40, 48 * 48 * 32)),
                *((v, 8, (1, 1)) for v in (48 * 48 * 32, 32 * 32 * 32)),
            ),
            # Near-whole crops beat smaller ones of finer voxels.
            coverage=0.9,
        ),
    },
    "confkd": {
        2: _Ladder(
            levels=(1, 2, 4, 8, 16),
            width=64,
            iterations=(8000, 3000),
            cuda=tuple(
                (side, width, batch)
                for side in _SIDES
                for width, batch in (
                    *((64, (8, 16)), (64, (4, 8))),
                    *((32, (8, 16)), (32, (4, 8)), (16, (4, 8))),
                )
            ),
            cpu=tuple(
                (side, width, batch)
                for side in (256, 192, 160, 128, 96, 64)
                for width in (12, 8)
                for batch in ((8, 16), (4, 8))
            ),
        ),
        3: _Ladder(
            levels=(1, 2, 4, 8, 16),
            width=16,
            iterations=(6000, 2000),
            cuda=tuple((voxels, 16, batch) for voxels in _CROPS for batch in ((4, 8), (2, 4))),
            cpu=tuple(
                (voxels, 8, (2, 4))
                for voxels in (80 * 80 * 64, 64 * 64 * 48, 48 * 48 * 32, 32 * 32 * 32)
            ),
            coverage=1 / 16,
        ),
    },
}
#: Codes that bring an anatomical axis (right, anterior, superior) to the end.
_ORIENTATIONS = ("ASR", "RSA", "RAS")
#: left, or an l that stands alone.
_LEFT = re.compile(r"left|(?<![a-z])l(?![a-z])")


@dataclass(frozen=True)
class Sizes:
    """Choices of sizes, the schedule they go with, and on a CPU a rough time.

    Attributes:
        seconds: rough time of the training on a CPU; None on CUDA.
        notes: what the user should know, sentences.
    """

    choices: list[Choice]
    schedule: Schedule
    seconds: float | None
    notes: tuple[str, ...] = ()


def slice_sizes(facts: DataFacts, machine: Machine, method: str) -> Sizes:
    """Sizes for a network of slices or pictures."""
    ladder = _LADDERS[method][2]
    axis = slice_axis(facts)
    letters = "RAS" if facts.pictures else _ORIENTATIONS[axis]
    plane = [facts.shape["RAS".index(letter)] for letter in letters[:2]]
    whole = _scaled(plane, LONGEST_SIDE, ladder.divisor)

    def sides_of(longest: int) -> list[int]:
        return _scaled(whole, longest, ladder.divisor)

    sides, width, schedule, seconds = _first_that_fits(sides_of, facts, machine, method, 2)
    resized = sides != whole
    unit = "picture" if facts.pictures else "slice"
    allowed = "what memory and time allow" if resized else "nothing is lost to memory or time"
    choices = [
        Choice("slice_size", whole, f"the median {unit} has {numbers(plane)} pixels"),
        Choice("crop_size", "$@slice_size", f"the whole {unit}: objects may lie anywhere"),
        Choice("spatial_size", sides if resized else "$@crop_size", allowed),
        Choice("features", ladder.features(width), _width_reason(width, ladder.width, machine)),
    ]
    if not facts.pictures:
        why = "slices lie across the last axis, the thickest or shortest one"
        choices.append(Choice("orientation", letters, why))
    if method == "mixed":
        choices += _mirroring(facts, method)
    elif width < ladder.width:
        choices.append(Choice("lr", 5.0e-4, "Adam; a narrow network bears a higher rate"))
    counts = (facts.slices("full", axis), facts.slices("partial", axis))
    choices += _epochs(counts, schedule, f"{unit}s")
    needed = sum(counts) * math.prod(sides) * (4 * facts.channels + 2)
    notes = _budget_notes(schedule, seconds, ladder, machine)
    if needed > machine.host_memory:
        notes += (
            f"the {sum(counts)} training {unit}s take {needed / 1e9:.1f} GB of memory, "
            f"{machine.host_memory / 1e9:.1f} GB is half of what is free: lower spatial_size, "
            "num_full or num_partial if that is too much",
        )
    return Sizes(choices, schedule, seconds, notes)


def volume_sizes(facts: DataFacts, machine: Machine, method: str) -> Sizes:
    """Sizes for a network of crops of volumes."""
    ladder = _LADDERS[method][3]
    # ConfKD's crops are turned by 90° in the plane of the first two axes.
    square = method == "confkd" and not _paired_classes(facts.classes)

    def crop_of(voxels: int) -> list[int]:
        return _crop(facts.shape, voxels, square, ladder.divisor)

    crop, width, schedule, seconds = _first_that_fits(crop_of, facts, machine, method, 3)
    share = math.prod(crop) / math.prod(facts.shape)
    spacing, why = list(facts.spacing), "the median of the training scans"
    shape = facts.shape
    if share < ladder.coverage:
        factor = min(2.0, (ladder.coverage / share) ** (1 / 3))
        spacing = [size * factor for size in spacing]
        shape = (shape[0] / factor, shape[1] / factor, shape[2] / factor)
        crop = _crop(shape, math.prod(crop), square, ladder.divisor)
        why = f"{factor:.2g} times the median, {numbers(facts.spacing)}: crops show more"
    spacing = [float(f"{size:.4g}") for size in spacing]
    shown = min(1.0, math.prod(min(c / s, 1) for c, s in zip(crop, shape, strict=True)))
    choices = [
        # The template's scans are cut to a box around the heart; others are seen whole.
        *([Choice("center_size", None, "scans are seen whole")] if method == "mixed" else []),
        Choice("spacing", spacing, f"mm, {why}"),
        Choice("crop_size", crop, f"{100 * shown:.0f} % of the median scan of {numbers(shape)}"),
        Choice("features", ladder.features(width), _width_reason(width, ladder.width, machine)),
    ]
    epochs = _epochs(None, schedule, "crops")
    choices += _mirroring(facts, method)
    if method == "confkd":
        if width < ladder.width:
            few = "half of so few channels is too much to lose"
            choices += [
                Choice("dropout", 0, few),
                Choice("lr", 0.03, "SGD; a narrow network bears a higher rate"),
            ]
        length = next(choice.value for choice in epochs if choice.setting == "max_epochs")
        share = 0.7 if width < ladder.width else 25 / 60
        why = f"epochs between two steps of the rate, {share:.0%} of all"
        epochs.append(Choice("lr_step", max(1, round(share * length)), why))
    choices += [*epochs, *_cache(facts, machine, spacing)]
    return Sizes(choices, schedule, seconds, _budget_notes(schedule, seconds, ladder, machine))


def _mirroring(facts: DataFacts, method: str) -> list[Choice]:
    """No mirror images, in training or in inference, where they would be of another class."""
    if not _paired_classes(facts.classes):
        return []
    why = "left and right are classes of their own"
    other = Choice("rotate", False, why) if method == "confkd" else Choice("mirror_axes", [], why)
    return [Choice("flip_axes", [], why), other]


def _budget_notes(
    schedule: Schedule, seconds: float | None, ladder: _Ladder, machine: Machine
) -> tuple[str, ...]:
    """That the time is enough for a smoke test alone, where it is."""
    if seconds is None or (schedule.iterations >= SMOKE_TEST and seconds <= machine.seconds):
        return ()
    minutes = machine.seconds / 60
    time = f"{minutes:.0f} minutes are" if minutes > 1 else "a minute is"
    return (
        f"SMOKE TEST ONLY: {time} too short for more than "
        f"{schedule.iterations} iterations of a small network, of the recipe's "
        f"{ladder.iterations[1]:,}. The training shows that everything runs; do not judge data or "
        f"method by its masks. For these give --minutes {Machine.seconds / 60:.0f}",
    )


def _first_that_fits(
    sides_of: Callable[[int], list[int]],
    facts: DataFacts,
    machine: Machine,
    method: str,
    spatial_dims: int,
) -> tuple[list[int], int, Schedule, float | None]:
    """The first option within memory and, on a CPU, within time; else the last."""
    ladder = _LADDERS[method][spatial_dims]
    options = ladder.cuda if machine.cuda else ladder.cpu
    iterations = ladder.iterations[0 if machine.cuda else 1]
    if not machine.cuda:
        # Fewer iterations, and not smaller images alone, where there is little time.
        share = min(1.0, machine.seconds / Machine.seconds)
        iterations = max(300, 100 * math.floor(iterations * math.sqrt(share) / 100))
    for size, width, (full, partial) in options:
        sides, features = sides_of(size), tuple(ladder.features(width))
        cost = network_cost(method, spatial_dims, features, facts.channels, len(facts.classes))
        batch = math.prod(sides) * (full + partial)
        seconds = None
        if not machine.cuda:
            seconds = iterations * batch * cost.flops / (machine.cores * CORE_FLOPS)
        memory = OVERHEAD * batch * cost.bytes + cost.fixed_bytes
        chosen = sides, width, Schedule(full, partial, iterations, width < ladder.width), seconds
        if memory <= machine.memory and (seconds is None or seconds <= machine.seconds):
            break
    return chosen


def _epochs(counts: tuple[int, int] | None, schedule: Schedule, unit: str) -> list[Choice]:
    """Epochs of at least 100 batches: shorter ones would validate all the time."""
    length, why = 100, f"batches an epoch; {unit} are drawn at random"
    if counts is not None:
        batches = (schedule.batch_full, schedule.batch_partial)
        passes = [math.ceil(n / size) for n, size in zip(counts, batches, strict=True)]
        if not counts[1]:
            passes = [math.ceil(counts[0] / sum(batches))]
        length = min(max(100, *passes), 250)
        why = f"batches an epoch; one pass over the {sum(counts)} {unit} takes {max(passes)}"
    epochs = math.ceil(schedule.iterations / length)
    interval = max(1, min(5, epochs // 10))
    return [
        Choice("epoch_length", length, why),
        Choice("max_epochs", epochs, f"{epochs * length:,} iterations"),
        Choice("val_interval", interval, "epochs between two validations"),
        Choice("checkpoint_interval", interval, "epochs between two full-state checkpoints"),
    ]


def _cache(facts: DataFacts, machine: Machine, spacing: Sequence[float]) -> list[Choice]:
    """Where the prepared scans lie, by their size in float16 with two uint8 maps."""
    finer = math.prod(was / now for was, now in zip(facts.spacing, spacing, strict=True))
    voxels = sum(math.prod(size) for _, size in facts.sizes) * finer
    needed = voxels * (2 * facts.channels + 2)
    size = f"the training scans take {needed / 1e9:.1f} GB"
    choices = []
    if machine.cuda and needed > 0.3 * machine.memory:
        choices.append(Choice("cache_device", "cpu", f"{size}, too much for the GPU"))
    if needed > machine.host_memory:
        choices.append(Choice("cache_dir", "$@bundle_root + '/cache'", f"{size}: kept on disk"))
    return choices


def _scaled(sides: Sequence[float], longest: int, divisor: int) -> list[int]:
    """Multiples of the divisor, in proportion, none longer than ``longest``."""
    factor = min(1.0, longest / max(sides))
    return [_multiple(side * factor, divisor) for side in sides]


def _crop(shape: Sequence[float], voxels: int, square: bool, divisor: int) -> list[int]:
    """Sides of a crop in proportion to the volumes, of about so many voxels."""
    sides = [float(side) for side in shape]
    if square:
        sides[:2] = [math.sqrt(sides[0] * sides[1])] * 2
    factor = (voxels / math.prod(sides)) ** (1 / 3)
    whole = [max(2 * divisor, divisor * math.ceil(side / divisor)) for side in sides]
    if factor >= 1:
        return whole
    return [min(_multiple(s * factor, divisor), w) for s, w in zip(sides, whole, strict=True)]


def _multiple(side: float, divisor: int) -> int:
    """The nearest multiple of the divisor; two at least, for the normalization at the bottom."""
    return max(2 * divisor, divisor * math.floor(side / divisor + 0.5))


def _width_reason(width: int, template: int, machine: Machine) -> str:
    if width == template:
        return "channels of each level, as in the template"
    return f"channels of each level, for this {'GPU' if machine.cuda else 'CPU'}"


def _paired_classes(names: Sequence[str]) -> bool:
    """Whether a class is the mirror image of another one."""
    lower = {name.lower() for name in names}
    mirrored = {
        _LEFT.sub(lambda left: "right" if left[0] == "left" else "r", name)
        for name in lower
        if _LEFT.search(name)
    }
    return bool(mirrored & lower)
