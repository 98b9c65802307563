"""Which weights a bundle predicts with, and what is said where there are none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mixseg.handlers import LoadWeights, find_weights


def weights(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}, path)
    return path


def test_the_order_of_places(tmp_path: Path) -> None:
    """A file that is asked for, the training's, those that the bundle came with."""
    shipped = weights(tmp_path / "models" / "model.pt", 1)
    assert find_weights(tmp_path) == shipped
    own = weights(tmp_path / "eval" / "models" / "model.pt", 2)
    assert find_weights(tmp_path) == own
    assert find_weights(tmp_path, ckpt_dir=f"{tmp_path}/./eval/models") == own
    assert find_weights(tmp_path, ckpt_dir=tmp_path / "models") == own
    other = weights(tmp_path / "run" / "models" / "model.pt", 3)
    assert find_weights(tmp_path, ckpt_dir=other.parent) == other
    assert find_weights(tmp_path, other, tmp_path) == other


def test_a_bundle_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence: the training's command, and bundles that come with weights."""
    (tmp_path / "la_single").mkdir()
    monkeypatch.chdir(tmp_path / "la_single")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        find_weights(".")
    assert str(caught.value) == (
        "'la_single' has no trained weights: train it in its folder with 'python -m monai.bundle "
        "run training --config_file configs/train.yaml --dataset_dir DATA', or use a bundle that "
        "comes with weights: acdc_mixed, acdc_lv_mixed or la_mixed"
    )


def test_what_was_asked_for_is_not_replaced_by_something_else(tmp_path: Path) -> None:
    weights(tmp_path / "models" / "model.pt", 1)
    with pytest.raises(ValueError, match=r"there is no '.*x\.pt': give the weights with"):
        find_weights(tmp_path, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"there is no '.*run/model\.pt': give the folder that a"):
        find_weights(tmp_path, ckpt_dir=tmp_path / "run")


def test_loading_is_strict_and_says_which(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = weights(tmp_path / "models" / "model.pt", 3)
    network = nn.Linear(1, 1)
    engine = Engine(lambda engine, batch: None)
    with caplog.at_level(logging.INFO):
        LoadWeights(network, tmp_path).attach(engine)
    assert f"weights: {path}" in caplog.text
    engine.run([0])
    assert network.weight.item() == 3
    LoadWeights(nn.Sequential(network), tmp_path).attach(engine)
    with pytest.raises(ValueError, match=r"do not fit the network: .* Missing key"):
        engine.run([0])
