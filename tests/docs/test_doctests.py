"""Every ``>>>`` example, in a docstring or on a page, does what it shows."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Entries of the packages that a reader looks up first: each has to show an example.
SHOWN = {
    "data": ("MixedBatchSampler", "MixedDataLoader"),
    "engines": ("VolumeInferer",),
    "losses": (
        "bhattacharyya_distance", "distillation", "entropy_map", "kl_divergence",
        "partial_cross_entropy", "pseudo_label_cross_entropy", "shannon_entropy",
        "tsallis_divergence",
    ),
    "metrics": (
        "average_symmetric_surface_distance", "dice_coefficient", "hd95_pooled", "score_case",
        "surface_distances", "surface_voxels", "volume_diagonal",
    ),
    "handlers": ("ramp_factor",),
    "networks": ("DualBranchDynUNet", "DualBranchUNet", "DualBranchVNet"),
    "objectives": ("ConfKD",),
    "transforms": (
        "ConvertUnlabeled", "MaskUnannotatedClasses", "SelectClasses", "erode_to_core",
        "label_kind", "scribble_by_erosion",
    ),
}  # fmt: skip


def with_examples(pattern: str) -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob(pattern)
        if ">>> " in path.read_text(encoding="utf-8")
    )


MODULES = [name for package in SHOWN for name in with_examples(f"{package}/*.py")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str) -> None:
    module = importlib.import_module("mixseg." + name.removesuffix(".py").replace("/", "."))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", with_examples("docs/**/*.md"))
def test_examples_of_a_page(name: str) -> None:
    result = doctest.testfile(str(ROOT / name), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("package", sorted(SHOWN))
def test_main_entries_show_an_example(package: str) -> None:
    module = importlib.import_module(f"mixseg.{package}")
    documented = {name: getattr(module, name).__doc__ or "" for name in SHOWN[package]}
    assert [name for name, text in documented.items() if ">>> " not in text] == []
