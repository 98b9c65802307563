"""``mixseg new``: which settings follow from the data and the machine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mixseg.apps.plan.choices import (
    choose_dimensions,
    data_choices,
    normalization_choices,
    slice_axis,
    supervision_choices,
)
from mixseg.apps.plan.machine import Machine, network_cost, this_machine
from mixseg.apps.plan.measure import DataFacts, Intensities
from mixseg.apps.plan.sizes import OVERHEAD, slice_sizes, volume_sizes
from mixseg.networks import DualBranchUNet, DualBranchVNet

GREY = Intensities(lowest=0, integer=True, byte=False, mean=50, sd=20, objects=(10, 90, 60, 5))
FACTS = DataFacts(
    classes=("background", "a", "b"),
    unlabeled=3,
    full=2,
    partial=10,
    eroded=False,
    full_cases=2,
    partial_cases=10,
    pictures=False,
    channels=1,
    shape=(200.0, 240.0, 12.0),
    spacing=(1.5, 1.5, 8.0),
    sizes=(("full", (200, 240, 12)),) * 2 + (("partial", (200, 240, 12)),) * 10,
    seen=frozenset({0, 1, 2}),
    background_drawn=False,
    intensities=GREY,
)
CPU = Machine(cuda=False, memory=8e9, cores=2, host_memory=8e9)
GPU = Machine(cuda=True, memory=70e9, cores=16, host_memory=60e9)


def values(choices: list[Any]) -> dict[str, Any]:
    return {choice.knob: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("changes", "dimensions", "why"),
    [
        ({}, 2, "slices are 5.3 times as thick as their pixels are wide"),
        ({"spacing": (1, 1, 1)}, 2, "volumes are 17 times as wide as deep, in voxels"),
        (
            {"spacing": (1, 1, 2), "shape": (100, 120, 80)},
            3,
            "voxels are 2.0 times as long as wide: volumes, not slices",
        ),
        ({"pictures": True, "shape": (100, 120, 1)}, 2, "the images are two-dimensional"),
    ],
)
def test_dimensions(changes: dict[str, Any], dimensions: int, why: str) -> None:
    assert choose_dimensions(replace(FACTS, **changes)) == (dimensions, why)


def test_dimensions_that_are_asked_for() -> None:
    assert choose_dimensions(FACTS, 3) == (3, "asked for with --dimensions")
    with pytest.raises(ValueError, match="--dimensions is 2 or 3, not 4"):
        choose_dimensions(FACTS, 4)
    with pytest.raises(ValueError, match="--dimensions 3 needs volumes, and the images are two"):
        choose_dimensions(replace(FACTS, pictures=True), 3)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis", "letters"),
    [
        ((200, 240, 12), (1.5, 1.5, 8), 2, "RAS"),
        ((12, 240, 200), (8, 1.5, 1.5), 0, "ASR"),
        ((200, 12, 240), (1, 1, 1), 1, "RSA"),
    ],
)
def test_slices_lie_across_the_thick_axis(
    shape: tuple[float, ...], spacing: tuple[float, ...], axis: int, letters: str
) -> None:
    facts = replace(FACTS, shape=shape, spacing=spacing)
    assert slice_axis(facts) == axis
    chosen = values(slice_sizes(facts, GPU).choices)
    assert chosen["orientation"] == letters
    # The sides in the plane are 200 and 240 in all three; 240 is a multiple of 16, 200 is not.
    assert sorted(chosen["slice_size"]) == [208, 240]


def test_scans_are_normalised_each_by_itself() -> None:
    choices, limits = normalization_choices(FACTS)
    assert values(choices) == {"normalization": "zscore"}
    assert limits == (-5, 15)


def test_ct_by_the_foreground() -> None:
    ct = replace(GREY, lowest=-1024.0, objects=(-20.4, 180.0, 100.0, 40.0))
    choices, limits = normalization_choices(replace(FACTS, intensities=ct))
    assert values(choices) == {
        "normalization": "fixed",
        "intensity_range": [-20, 180],
        "intensity_mean": 100.0,
        "intensity_sd": 40.0,
    }
    assert limits == (-3.0, 2.0)
    for changes in ({"integer": False}, {"objects": None}, {"lowest": -100.0}):
        other = replace(FACTS, intensities=replace(ct, **changes))
        assert values(normalization_choices(other)[0]) == {"normalization": "zscore"}


def test_pictures_of_bytes_by_all_images() -> None:
    facts = replace(FACTS, pictures=True, intensities=replace(GREY, byte=True, mean=200, sd=40))
    choices, limits = normalization_choices(facts)
    assert values(choices)["intensity_range"] == [0, 255]
    assert limits == (-5.0, 1.38)  # −200 / 40 and 55 / 40


def test_classes_of_slices_and_of_volumes() -> None:
    two = values(data_choices(replace(FACTS, channels=3, unlabeled=255), 2))
    assert two == {
        "class_names": ["background", "a", "b"],
        "source_classes": ["background", "a", "b"],
        "target_classes": [1, 2],
        "in_channels": 3,
        "unlabeled_value": 255,
    }
    assert set(values(data_choices(FACTS, 3))) == {"class_names", "in_channels"}


@pytest.mark.parametrize(
    ("dims", "features", "make"),
    [(2, (4, 8, 16), DualBranchUNet), (3, (2, 4, 8), DualBranchVNet)],
)
def test_the_cost_of_a_network(dims: int, features: tuple[int, ...], make: Any) -> None:
    cost = network_cost(dims, features, 3, 4)
    network = make(spatial_dims=dims, in_channels=3, out_channels=4, features=features)
    weights = sum(p.numel() for p in network.parameters())
    assert cost.fixed_bytes == 16 * weights  # weights, gradient and two moments, float32
    operations = []

    def count(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        # A multiplication and an addition for each weight that an output (of a transposed
        # convolution: an input) voxel meets; the backward pass does both products again.
        transposed = "Transpose" in type(module).__name__
        voxels = (inputs[0] if transposed else output)[0, 0].numel()
        first = inputs[0].shape[1] == 3
        operations.append(2 * voxels * module.weight.numel() * (2 if first else 3))

    for module in network.modules():
        if "Conv" in type(module).__name__ and hasattr(module, "weight"):
            module.register_forward_hook(count)
    side = 16
    network(torch.zeros(2, 3, *(side,) * dims))
    assert cost.flops == pytest.approx(sum(operations) / side**dims)
    # Activations: all convolutions' outputs at least, and less than ten times as much.
    assert 4 * 2 * features[0] < cost.bytes < 400 * features[0]


def test_slices_on_a_large_gpu_are_the_papers() -> None:
    sizes = slice_sizes(replace(FACTS, shape=(256, 256, 10)), GPU)
    chosen = values(sizes.choices)
    assert chosen["slice_size"] == [256, 256]
    assert chosen["spatial_size"] == "$@crop_size"
    assert chosen["features"] == [64, 128, 256, 512, 1024]
    assert (sizes.schedule.batch_full, sizes.schedule.batch_partial) == (8, 16)
    assert "lr" not in chosen
    assert (chosen["epoch_length"], chosen["max_epochs"]) == (100, 80)
    assert sizes.seconds is None


@pytest.mark.parametrize("memory", [70e9, 20e9, 6e9, 2e9])
def test_slices_fit_in_memory(memory: float) -> None:
    sizes = slice_sizes(replace(FACTS, shape=(900, 700, 10)), replace(GPU, memory=memory))
    chosen = values(sizes.choices)
    assert chosen["slice_size"] == [512, 400]  # 700 · 512 / 900 = 398
    sides = chosen["spatial_size"]
    sides = chosen["slice_size"] if isinstance(sides, str) else sides
    assert all(side % 16 == 0 for side in sides)
    cost = network_cost(2, tuple(chosen["features"]), 1, 3)
    batch = sizes.schedule.batch_full + sizes.schedule.batch_partial
    assert OVERHEAD * batch * math.prod(sides) * cost.bytes + cost.fixed_bytes <= memory


def test_less_time_makes_smaller_trainings() -> None:
    facts = replace(FACTS, shape=(256, 256, 10))
    times = [slice_sizes(facts, replace(CPU, seconds=s)) for s in (600.0, 5400.0, 50000.0)]
    sides = [values(sizes.choices)["spatial_size"] for sizes in times]
    # 3000 iterations of 12 slices at 113,000 operations a pixel and 2 · 10¹⁰ a second: 5,200 s with
    # 160², 7,500 s with 192².
    assert [s if isinstance(s, str) else s[0] for s in sides] == [64, 160, "$@crop_size"]
    iterations = [sizes.schedule.iterations for sizes in times]
    assert iterations == [1000, 3000, 3000]  # 3000 · √(600 / 5400), and never more than 3000
    for sizes, limit in zip(times, (600.0, 5400.0, 50000.0), strict=True):
        assert sizes.seconds is not None
        assert sizes.seconds <= limit


def test_an_epoch_is_one_pass_between_100_and_250_batches() -> None:
    for count, length in ((100, 100), (1200, 150), (9000, 250)):
        facts = replace(FACTS, sizes=(("full", (256, 256, count)),), shape=(256, 256, 10))
        facts = replace(facts, sizes=(*facts.sizes, ("partial", (256, 256, 10))))
        chosen = values(slice_sizes(facts, GPU).choices)
        assert chosen["epoch_length"] == length
        assert chosen["max_epochs"] == math.ceil(8000 / length)


def test_slices_that_do_not_fit_in_memory_are_told() -> None:
    facts = replace(FACTS, sizes=(("full", (512, 512, 9000)),), shape=(512, 512, 30))
    assert slice_sizes(facts, GPU).notes == ()
    # 9000 · 512² · (4 + 2) bytes
    (note,) = slice_sizes(facts, replace(GPU, host_memory=1e9)).notes
    assert note.startswith(
        "the 9000 training slices take 14.2 GB of memory, 1.0 GB is half of what is free"
    )


VOLUMES = replace(
    FACTS,
    shape=(200.0, 150.0, 88.0),
    spacing=(0.625, 0.625, 0.625),
    sizes=(("full", (200, 150, 88)),) * 3,
)


def test_volumes_on_a_large_gpu_are_the_papers() -> None:
    sizes = volume_sizes(VOLUMES, GPU)
    chosen = values(sizes.choices)
    assert chosen["spacing"] == [0.625, 0.625, 0.625]
    assert chosen["features"] == [16, 32, 64, 128, 256]
    assert (sizes.schedule.batch_full, sizes.schedule.batch_partial) == (4, 8)
    side, other, depth = chosen["crop_size"]
    assert side == other
    assert all(size % 16 == 0 for size in (side, depth))
    assert (chosen["epoch_length"], chosen["max_epochs"], chosen["lr_step"]) == (100, 60, 25)
    assert "flip_axes" not in chosen
    assert "cache_device" not in chosen


def test_small_crops_see_coarser_voxels() -> None:
    chosen = values(volume_sizes(VOLUMES, CPU).choices)
    spacing = chosen["spacing"]
    assert spacing[0] == spacing[1] == spacing[2]
    assert 0.625 < spacing[0] <= 1.25
    factor = spacing[0] / 0.625
    share = math.prod(chosen["crop_size"]) * factor**3 / math.prod(VOLUMES.shape)
    assert share == pytest.approx(1 / 16, rel=0.35)  # sides are multiples of 16
    assert chosen["features"] == [8, 16, 32, 64, 128]


def test_crops_are_no_larger_than_the_scans_need() -> None:
    small = replace(VOLUMES, shape=(40.0, 34.0, 20.0))
    assert values(volume_sizes(small, GPU).choices)["crop_size"] == [48, 48, 32]


@pytest.mark.parametrize(
    ("names", "paired"),
    [
        (("background", "left kidney", "Right kidney"), True),
        (("background", "lung_l", "lung_r"), True),
        (("background", "L lung", "R lung"), True),
        (("background", "left atrium"), False),
        (("background", "LV", "RV"), False),
        (("background", "liver", "river"), False),
    ],
)
def test_left_and_right_are_not_mirrored(names: tuple[str, ...], paired: bool) -> None:
    chosen = values(volume_sizes(replace(VOLUMES, classes=names), GPU).choices)
    assert ("flip_axes" in chosen) == paired
    if paired:
        assert (chosen["flip_axes"], chosen["rotate"]) == ([], False)


def test_large_sets_are_cached_elsewhere() -> None:
    many = replace(VOLUMES, sizes=VOLUMES.sizes * 700)  # 2100 · 2.64 M voxels · 4 bytes = 22 GB
    chosen = values(volume_sizes(many, GPU).choices)
    assert chosen["cache_device"] == "cpu"
    assert "cache_dir" not in chosen
    chosen = values(volume_sizes(many, replace(GPU, host_memory=10e9)).choices)
    assert chosen["cache_dir"] == "$@bundle_root + '/cache'"


def test_weights_of_the_method() -> None:
    plan = slice_sizes(replace(FACTS, shape=(256, 256, 10)), CPU).schedule
    eroded = values(supervision_choices(replace(FACTS, eroded=True), False, plan))
    assert (eroded["num_full"], eroded["num_partial"]) == (2, 10)
    assert eroded["lambda_w"] == 1
    assert eroded["ramps"] == {"lambda_ent": 1500}
    assert "lambda_ent" not in eroded
    drawn = values(supervision_choices(replace(FACTS, background_drawn=True), True, plan))
    assert (drawn["weak_label"], drawn["lambda_w"]) == ("drawn", 1)
    assert "ramps" not in drawn
    # The papers' network keeps the papers' weights.
    wide = replace(plan, small=False)
    assert "lambda_w" not in values(supervision_choices(FACTS, False, wide))


def test_without_partial_cases_the_lower_bound() -> None:
    plan = slice_sizes(replace(FACTS, shape=(256, 256, 10)), CPU).schedule
    chosen = values(supervision_choices(replace(FACTS, partial=0), False, plan))
    assert chosen == {
        "num_full": 2,
        "num_partial": 0,
        "batch_full": plan.batch_full + plan.batch_partial,
        "batch_partial": 0,
        "lambda_w": 0,
        "lambda_kd": 0,
        "lambda_ent": 0,
    }


def test_the_machine() -> None:
    machine = this_machine("cpu", 4, 10)
    assert (machine.cuda, machine.memory, machine.seconds) == (False, 4e9, 600)
    assert machine.cores >= 1
    gpu = this_machine("cuda", 24)
    assert (gpu.cuda, gpu.memory, gpu.seconds) == (True, 24e9, 5400)
    assert str(gpu) == "CUDA device, 24.0 GB for the training"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"no CUDA device here to measure: say .* --memory"):
            this_machine("cuda")
