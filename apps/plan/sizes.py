"""Sizes that ``mixseg new`` fits to the data and the machine: images, networks, trainings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixseg.apps.plan.choices import Choice, Schedule, numbers, slice_axis
from mixseg.apps.plan.machine import CORE_FLOPS, Machine, network_cost
from mixseg.apps.plan.measure import DataFacts

__all__ = ["Sizes", "slice_sizes", "volume_sizes"]

#: Sides of both networks' images are multiples of this: five levels.
DIVISOR = 16
#: Peak memory of a training step over that of the activations that autograd keeps.
OVERHEAD = 1.3
#: Longest side of a slice as it is resized.
LONGEST_SIDE = 512
#: Share of a volume that a crop should show at least, where coarser voxels can help.
COVERAGE = 1 / 16

_Batch = tuple[int, int]
# From the best to the smallest; the last is taken where none fits.
_CUDA_SLICES: tuple[tuple[int, int, _Batch], ...] = tuple(
    (side, width, batch)
    for side in (LONGEST_SIDE, 384, 256, 128)
    for width, batch in ((64, (8, 16)), (64, (4, 8)), (32, (8, 16)), (32, (4, 8)), (16, (4, 8)))
)
_CPU_SLICES: tuple[tuple[int, int, _Batch], ...] = tuple(
    (side, width, batch)
    for side in (256, 192, 160, 128, 96, 64)
    for width in (12, 8)
    for batch in ((8, 16), (4, 8))
)
_CUDA_CROPS: tuple[tuple[int, int, _Batch], ...] = tuple(
    (voxels, 16, batch)
    for voxels in (112 * 112 * 80, 96 * 96 * 64, 80 * 80 * 64, 64 * 64 * 48, 48 * 48 * 32)
    for batch in ((4, 8), (2, 4))
)
_CPU_CROPS: tuple[tuple[int, int, _Batch], ...] = tuple(
    (voxels, 8, (2, 4)) for voxels in (80 * 80 * 64, 64 * 64 * 48, 48 * 48 * 32, 32 * 32 * 32)
)
#: Codes that bring an anatomical axis (right, anterior, superior) to the end.
_ORIENTATIONS = ("ASR", "RSA", "RAS")
#: left, or an l that stands alone.
_LEFT = re.compile(r"left|(?<![a-z])l(?![a-z])")


@dataclass(frozen=True)
class Sizes:
    """Choices of sizes, the schedule they go with, and on a CPU a rough time.

    Attributes:
        choices: of the knobs.
        schedule: batches and iterations.
        seconds: rough time of the training on a CPU; None on CUDA.
        notes: what the user should know, sentences.
    """

    choices: list[Choice]
    schedule: Schedule
    seconds: float | None
    notes: tuple[str, ...] = ()


def slice_sizes(facts: DataFacts, machine: Machine) -> Sizes:
    """Sizes for a network of slices or pictures."""
    axis = slice_axis(facts)
    letters = "RAS" if facts.pictures else _ORIENTATIONS[axis]
    plane = [facts.shape["RAS".index(letter)] for letter in letters[:2]]
    whole = _scaled(plane, LONGEST_SIDE)
    iterations = 8000 if machine.cuda else _shortened(3000, machine)

    def options() -> Iterator[tuple[int, list[int], int, _Batch]]:
        for side, width, batch in _CUDA_SLICES if machine.cuda else _CPU_SLICES:
            sides = _scaled(whole, side)
            yield math.prod(sides), sides, width, batch

    sides, width, schedule, seconds = _first_that_fits(options(), facts, machine, 2, iterations)
    resized = sides != whole
    unit = "picture" if facts.pictures else "slice"
    allowed = "what memory and time allow" if resized else "nothing is lost to memory or time"
    choices = [
        Choice("slice_size", whole, f"the median {unit} has {numbers(plane)} pixels"),
        Choice("crop_size", "$@slice_size", f"the whole {unit}: objects may lie anywhere"),
        Choice("spatial_size", sides if resized else "$@crop_size", allowed),
        Choice("features", _features(width), _width_reason(width, 64, machine)),
    ]
    if not facts.pictures:
        why = "slices lie across the last axis, the thickest or shortest one"
        choices.append(Choice("orientation", letters, why))
    if width < 64:
        choices.append(Choice("lr", 5.0e-4, "Adam; a narrow network bears a higher rate"))
    counts = (facts.slices("full", axis), facts.slices("partial", axis))
    choices += _epochs(counts, schedule, f"{unit}s")
    needed = sum(counts) * math.prod(sides) * (4 * facts.channels + 2)
    notes: tuple[str, ...] = ()
    if needed > machine.host_memory:
        notes = (
            f"the {sum(counts)} training {unit}s take {needed / 1e9:.1f} GB of memory, "
            f"{machine.host_memory / 1e9:.1f} GB is half of what is free: lower spatial_size, "
            "num_full or num_partial if that is too much",
        )
    return Sizes(choices, schedule, seconds, notes)


def volume_sizes(facts: DataFacts, machine: Machine) -> Sizes:
    """Sizes for a network of crops of volumes."""
    paired = _paired_classes(facts.classes)
    iterations = 6000 if machine.cuda else _shortened(2000, machine)

    def options() -> Iterator[tuple[int, list[int], int, _Batch]]:
        for voxels, width, batch in _CUDA_CROPS if machine.cuda else _CPU_CROPS:
            crop = _crop(facts.shape, voxels, square=not paired)
            yield math.prod(crop), crop, width, batch

    crop, width, schedule, seconds = _first_that_fits(options(), facts, machine, 3, iterations)
    share = math.prod(crop) / math.prod(facts.shape)
    spacing, why = list(facts.spacing), "the median of the training scans"
    shape = facts.shape
    if share < COVERAGE:
        factor = min(2.0, (COVERAGE / share) ** (1 / 3))
        spacing = [size * factor for size in spacing]
        shape = (shape[0] / factor, shape[1] / factor, shape[2] / factor)
        crop = _crop(shape, math.prod(crop), square=not paired)
        why = f"{factor:.2g} times the median, {numbers(facts.spacing)}: crops show more"
    spacing = [float(f"{size:.4g}") for size in spacing]
    shown = min(1.0, math.prod(min(c / s, 1) for c, s in zip(crop, shape, strict=True)))
    choices = [
        Choice("spacing", spacing, f"mm, {why}"),
        Choice("crop_size", crop, f"{100 * shown:.0f} % of the median scan of {numbers(shape)}"),
        Choice("features", _features(width), _width_reason(width, 16, machine)),
    ]
    if paired:
        names = "left and right are classes of their own"
        choices += [Choice("flip_axes", [], names), Choice("rotate", False, names)]
    if width < 16:
        few = "half of so few channels is too much to lose"
        choices += [
            Choice("dropout", 0, few),
            Choice("lr", 0.03, "SGD; a narrow network bears a higher rate"),
        ]
    epochs = _epochs(None, schedule, "crops")
    length = next(choice.value for choice in epochs if choice.knob == "max_epochs")
    share = 0.7 if width < 16 else 25 / 60
    why = f"epochs between two steps of the rate, {share:.0%} of all"
    choices += [*epochs, Choice("lr_step", max(1, round(share * length)), why)]
    choices += _cache(facts, machine, spacing)
    return Sizes(choices, schedule, seconds)


def _shortened(iterations: int, machine: Machine) -> int:
    """Fewer iterations, and not smaller images alone, where there is little time."""
    share = min(1.0, machine.seconds / Machine.seconds)
    return max(300, 100 * math.floor(iterations * math.sqrt(share) / 100))


def _first_that_fits(
    options: Iterator[tuple[int, list[int], int, _Batch]],
    facts: DataFacts,
    machine: Machine,
    spatial_dims: int,
    iterations: int,
) -> tuple[list[int], int, Schedule, float | None]:
    """The first option within memory and, on a CPU, within time; else the last."""
    best = 64 if spatial_dims == 2 else 16
    for voxels, sides, width, (full, partial) in options:
        cost = network_cost(
            spatial_dims, tuple(_features(width)), facts.channels, len(facts.classes)
        )
        batch = voxels * (full + partial)
        seconds = None
        if not machine.cuda:
            seconds = iterations * batch * cost.flops / (machine.cores * CORE_FLOPS)
        memory = OVERHEAD * batch * cost.bytes + cost.fixed_bytes
        chosen = sides, width, Schedule(full, partial, iterations, width < best), seconds
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


def _scaled(sides: Sequence[float], longest: int) -> list[int]:
    """Multiples of the divisor, in proportion, none longer than ``longest``."""
    factor = min(1.0, longest / max(sides))
    return [_multiple(side * factor) for side in sides]


def _crop(shape: Sequence[float], voxels: int, square: bool) -> list[int]:
    """Sides of a crop in proportion to the volumes, of about so many voxels."""
    sides = [float(side) for side in shape]
    if square:
        sides[:2] = [math.sqrt(sides[0] * sides[1])] * 2
    factor = (voxels / math.prod(sides)) ** (1 / 3)
    if factor >= 1:
        return [max(2 * DIVISOR, DIVISOR * math.ceil(side / DIVISOR)) for side in sides]
    return [
        min(_multiple(side * factor), max(2 * DIVISOR, DIVISOR * math.ceil(side / DIVISOR)))
        for side in sides
    ]


def _multiple(side: float) -> int:
    """The nearest multiple of the divisor; two at least, for the normalisation at the bottom."""
    return max(2 * DIVISOR, DIVISOR * math.floor(side / DIVISOR + 0.5))


def _features(width: int) -> list[int]:
    return [width * 2**level for level in range(5)]


def _width_reason(width: int, papers: int, machine: Machine) -> str:
    if width == papers:
        return "channels of each level, as in the papers"
    return f"channels of each level, for this {'GPU' if machine.cuda else 'CPU'}"


def _paired_classes(names: Sequence[str]) -> bool:
    """Whether a class is the mirror image of another one."""
    lower = {name.lower() for name in names}
    mirrored = {_LEFT.sub(_right, name) for name in lower if _LEFT.search(name)}
    return bool(mirrored & lower)


def _right(left: re.Match[str]) -> str:
    return "right" if left[0] == "left" else "r"
