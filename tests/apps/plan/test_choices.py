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
from mixseg.apps.plan.machine import NETWORKS, Machine, network_cost, this_machine
from mixseg.apps.plan.measure import DataFacts, Intensities
from mixseg.apps.plan.sizes import OVERHEAD, slice_sizes, volume_sizes

GRAY = Intensities(lowest=0, integer=True, byte=False, mean=50, sd=20, objects=(10, 90, 60, 5))
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
    single=True,
    intensities=GRAY,
)
CPU = Machine(cuda=False, memory=8e9, cores=2, host_memory=8e9)
GPU = Machine(cuda=True, memory=70e9, cores=16, host_memory=60e9)


def values(choices: list[Any]) -> dict[str, Any]:
    return {choice.setting: choice.value for choice in choices}


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
    chosen = values(slice_sizes(facts, GPU, "mixed").choices)
    assert chosen["orientation"] == letters
    # The sides in the plane are 200 and 240 in all three; 240 is a multiple of 16, 200 is not.
    assert sorted(chosen["slice_size"]) == [208, 240]


@pytest.mark.parametrize(
    ("method", "dims", "rule"),
    [("mixed", 2, "percentile"), ("mixed", 3, "zscore"), ("confkd", 2, "zscore")],
)
def test_scans_are_normalized_each_by_itself(method: str, dims: int, rule: str) -> None:
    choices, limits = normalization_choices(FACTS, method, dims)
    assert values(choices) == {"normalization": rule}
    assert limits == (-5, 15)


def test_ct_by_the_foreground() -> None:
    ct = replace(GRAY, lowest=-1024.0, objects=(-20.4, 180.0, 100.0, 40.0))
    choices, limits = normalization_choices(replace(FACTS, intensities=ct), "mixed", 3)
    assert values(choices) == {
        "normalization": "fixed",
        "intensity_range": [-20, 180],
        "intensity_mean": 100.0,
        "intensity_sd": 40.0,
    }
    assert limits == (-3.0, 2.0)
    for changes in ({"integer": False}, {"objects": None}, {"lowest": -100.0}):
        other = replace(FACTS, intensities=replace(ct, **changes))
        assert values(normalization_choices(other, "mixed", 3)[0]) == {"normalization": "zscore"}


def test_pictures_of_bytes_by_all_images() -> None:
    facts = replace(FACTS, pictures=True, intensities=replace(GRAY, byte=True, mean=200, sd=40))
    choices, limits = normalization_choices(facts, "mixed", 2)
    assert values(choices)["intensity_range"] == [0, 255]
    assert limits == (-5.0, 1.38)  # −200 / 40 and 55 / 40


@pytest.mark.parametrize(("method", "dims"), [("mixed", 2), ("mixed", 3), ("confkd", 2)])
def test_classes_of_slices_and_of_volumes(method: str, dims: int) -> None:
    found = values(data_choices(replace(FACTS, channels=3, unlabeled=255), method, dims))
    if method == "mixed":
        assert found.pop("keep_component") == "most_probable"
    assert found == {
        "class_names": ["background", "a", "b"],
        "source_classes": ["background", "a", "b"],
        "target_classes": [1, 2],
        "in_channels": 3,
        "unlabeled_value": 255,
    }
    assert set(values(data_choices(FACTS, "confkd", 3))) == {"class_names", "in_channels"}


def test_several_objects_of_a_class_are_kept() -> None:
    assert values(data_choices(replace(FACTS, single=False), "mixed", 2))["keep_component"] is None


@pytest.mark.parametrize("method", ["mixed", "confkd"])
@pytest.mark.parametrize(("dims", "features"), [(2, (4, 8, 16)), (3, (2, 4, 8))])
def test_the_cost_of_a_network(method: str, dims: int, features: tuple[int, ...]) -> None:
    cost = network_cost(method, dims, features, 3, 4)
    make = NETWORKS[method][dims]
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


@pytest.mark.parametrize(
    ("method", "features", "batches", "iterations"),
    [
        ("mixed", [32, 64, 128, 256, 256], (8, 8), 3000),
        ("confkd", [64, 128, 256, 512, 1024], (8, 16), 8000),
    ],
)
def test_slices_on_a_large_gpu_are_whole(
    method: str, features: list[int], batches: tuple[int, int], iterations: int
) -> None:
    sizes = slice_sizes(replace(FACTS, shape=(256, 256, 10)), GPU, method)
    chosen = values(sizes.choices)
    assert chosen["slice_size"] == [256, 256]
    assert chosen["spatial_size"] == "$@crop_size"
    assert chosen["features"] == features
    assert (sizes.schedule.batch_full, sizes.schedule.batch_partial) == batches
    assert "lr" not in chosen
    assert (chosen["epoch_length"], chosen["max_epochs"]) == (100, iterations // 100)
    assert sizes.seconds is None


@pytest.mark.parametrize("method", ["mixed", "confkd"])
@pytest.mark.parametrize("memory", [70e9, 20e9, 6e9, 2e9])
def test_slices_fit_in_memory(method: str, memory: float) -> None:
    facts = replace(FACTS, shape=(900, 700, 10))
    sizes = slice_sizes(facts, replace(GPU, memory=memory), method)
    chosen = values(sizes.choices)
    assert chosen["slice_size"] == [512, 400]  # 700 · 512 / 900 = 398
    sides = chosen["spatial_size"]
    sides = chosen["slice_size"] if isinstance(sides, str) else sides
    assert all(side % 16 == 0 for side in sides)
    cost = network_cost(method, 2, tuple(chosen["features"]), 1, 3)
    batch = sizes.schedule.batch_full + sizes.schedule.batch_partial
    assert OVERHEAD * batch * math.prod(sides) * cost.bytes + cost.fixed_bytes <= memory


def test_less_time_makes_smaller_trainings() -> None:
    facts = replace(FACTS, shape=(256, 256, 10))
    limits = (600.0, 5400.0, 50000.0)
    times = [slice_sizes(facts, replace(CPU, seconds=s), "mixed") for s in limits]
    iterations = [sizes.schedule.iterations for sizes in times]
    assert iterations == [1000, 3000, 3000]  # 3000 · √(600 / 5400), and never more than 3000
    for sizes, limit in zip(times, limits, strict=True):
        chosen = values(sizes.choices)
        side = chosen["spatial_size"]
        side = 256 if side == "$@crop_size" else side[0]
        # Sixteen slices on two cores of 2 · 10¹⁰ operations a second; a size more takes too long.
        cost = network_cost("mixed", 2, tuple(chosen["features"]), 1, 3)
        seconds = sizes.schedule.iterations * 16 * side**2 * cost.flops / 4e10
        assert sizes.seconds == pytest.approx(seconds)
        assert seconds <= limit
        larger = {64: 80, 80: 96, 96: 112, 112: 128, 128: 160, 160: 192, 192: 256}
        assert side == 256 or seconds * (larger[side] / side) ** 2 > limit


@pytest.mark.parametrize("dims", [2, 3])
def test_a_budget_that_is_too_short_is_called_a_smoke_test(dims: int) -> None:
    sizes = slice_sizes if dims == 2 else volume_sizes
    slow = Machine(cuda=False, memory=8e9, cores=1, host_memory=8e9, seconds=60)
    (note,) = sizes(FACTS, slow, "mixed").notes
    # 1/90 of the time: 3,000 · √(1/90) = 316 iterations in 2D; never fewer than 300.
    assert note.startswith("SMOKE TEST ONLY: a minute is too short for more than 300 iterations")
    assert f"of the recipe's {3000 if dims == 2 else 1500:,}" in note
    assert "give --minutes 90" in note
    assert sizes(FACTS, replace(slow, cores=64, seconds=5400), "mixed").notes == ()
    assert sizes(FACTS, replace(slow, cuda=True), "mixed").notes == ()


def test_an_epoch_is_one_pass_between_100_and_250_batches() -> None:
    for count, length in ((100, 100), (1200, 150), (9000, 250)):
        facts = replace(FACTS, sizes=(("full", (256, 256, count)),), shape=(256, 256, 10))
        facts = replace(facts, sizes=(*facts.sizes, ("partial", (256, 256, 10))))
        chosen = values(slice_sizes(facts, GPU, "mixed").choices)
        assert chosen["epoch_length"] == length
        assert chosen["max_epochs"] == math.ceil(3000 / length)


def test_slices_that_do_not_fit_in_memory_are_told() -> None:
    facts = replace(FACTS, sizes=(("full", (512, 512, 9000)),), shape=(512, 512, 30))
    assert slice_sizes(facts, GPU, "mixed").notes == ()
    # 9000 · 512² · (4 + 2) bytes
    (note,) = slice_sizes(facts, replace(GPU, host_memory=1e9), "mixed").notes
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
    sizes = volume_sizes(VOLUMES, GPU, "confkd")
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


def test_crops_show_nearly_a_whole_volume() -> None:
    """Of 200 × 150 × 88 voxels the left atrium's recipe takes every other along each axis."""
    sizes = volume_sizes(VOLUMES, replace(CPU, cores=8), "mixed")
    chosen = values(sizes.choices)
    assert chosen["spacing"] == [1.25, 1.25, 1.25]
    # 88 · 72 · 40 voxels in the proportions of 100 × 75 × 44, by steps of 8.
    assert chosen["crop_size"] == [88, 72, 40]
    assert chosen["features"] == [16, 32, 64, 128]
    assert (sizes.schedule.batch_full, sizes.schedule.batch_partial) == (1, 1)
    assert (chosen["epoch_length"], chosen["max_epochs"]) == (100, 15)
    assert not {"lr", "dropout", "lr_step", "flip_axes"} & set(chosen)


def test_small_crops_see_coarser_voxels() -> None:
    chosen = values(volume_sizes(VOLUMES, CPU, "confkd").choices)
    spacing = chosen["spacing"]
    assert spacing[0] == spacing[1] == spacing[2]
    assert 0.625 < spacing[0] <= 1.25
    factor = spacing[0] / 0.625
    share = math.prod(chosen["crop_size"]) * factor**3 / math.prod(VOLUMES.shape)
    assert share == pytest.approx(1 / 16, rel=0.35)  # sides are multiples of 16
    assert chosen["features"] == [8, 16, 32, 64, 128]


def test_crops_are_no_larger_than_the_scans_need() -> None:
    small = replace(VOLUMES, shape=(40.0, 34.0, 20.0))
    assert values(volume_sizes(small, GPU, "confkd").choices)["crop_size"] == [48, 48, 32]
    assert values(volume_sizes(small, GPU, "mixed").choices)["crop_size"] == [40, 40, 24]


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
    facts = replace(VOLUMES, classes=names)
    for sizes in (volume_sizes, slice_sizes):
        chosen = values(sizes(facts, GPU, "mixed").choices)
        found = {name: chosen[name] for name in ("flip_axes", "mirror_axes") if name in chosen}
        assert found == ({"flip_axes": [], "mirror_axes": []} if paired else {})
    chosen = values(volume_sizes(facts, GPU, "confkd").choices)
    found = {name: chosen[name] for name in ("flip_axes", "rotate") if name in chosen}
    assert found == ({"flip_axes": [], "rotate": False} if paired else {})


def test_large_sets_are_cached_elsewhere() -> None:
    many = replace(VOLUMES, sizes=VOLUMES.sizes * 700)  # 2100 · 2.64 M voxels · 4 bytes = 22 GB
    chosen = values(volume_sizes(many, GPU, "confkd").choices)
    assert chosen["cache_device"] == "cpu"
    assert "cache_dir" not in chosen
    chosen = values(volume_sizes(many, replace(GPU, host_memory=10e9), "confkd").choices)
    assert chosen["cache_dir"] == "$@bundle_root + '/cache'"


def test_supervision_of_the_recipe() -> None:
    plan = slice_sizes(FACTS, CPU, "mixed").schedule
    eroded = values(supervision_choices(replace(FACTS, eroded=True), "mixed", False, plan))
    assert eroded == {
        "num_full": 2,
        "num_partial": 10,
        "batch_full": plan.batch_full,
        "batch_partial": plan.batch_partial,
        "weak_label": "erosion",
        "free_negatives": "auto",
    }
    facts = replace(FACTS, background_drawn=True)
    drawn = values(supervision_choices(facts, "mixed", True, plan))
    assert drawn["weak_label"] == "drawn"
    assert "free_negatives" not in drawn


def test_weights_of_confkd() -> None:
    plan = slice_sizes(replace(FACTS, shape=(256, 256, 10)), CPU, "confkd").schedule
    eroded = values(supervision_choices(replace(FACTS, eroded=True), "confkd", False, plan))
    assert (eroded["num_full"], eroded["num_partial"]) == (2, 10)
    assert eroded["lambda_w"] == 1
    assert eroded["ramps"] == {"lambda_ent": 1500}
    assert "lambda_ent" not in eroded
    facts = replace(FACTS, background_drawn=True)
    drawn = values(supervision_choices(facts, "confkd", True, plan))
    assert (drawn["weak_label"], drawn["lambda_w"]) == ("drawn", 1)
    assert "ramps" not in drawn
    # The papers' network keeps the papers' weights.
    wide = replace(plan, small=False)
    assert "lambda_w" not in values(supervision_choices(FACTS, "confkd", False, wide))


@pytest.mark.parametrize("method", ["mixed", "confkd"])
def test_without_partial_cases_the_lower_bound(method: str) -> None:
    plan = slice_sizes(replace(FACTS, shape=(256, 256, 10)), CPU, method).schedule
    chosen = values(supervision_choices(replace(FACTS, partial=0), method, False, plan))
    weights = {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0}
    assert chosen == {
        "num_full": 2,
        "num_partial": 0,
        "batch_full": plan.batch_full + plan.batch_partial,
        "batch_partial": 0,
        **(weights if method == "confkd" else {}),
    }


def test_without_full_masks_all_of_a_batch_is_partial() -> None:
    plan = slice_sizes(FACTS, CPU, "mixed").schedule
    facts = replace(FACTS, full=0, full_cases=0, background_drawn=True)
    chosen = values(supervision_choices(facts, "mixed", False, plan))
    assert (chosen["num_full"], chosen["batch_full"]) == (0, 0)
    assert chosen["batch_partial"] == plan.batch_full + plan.batch_partial


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
