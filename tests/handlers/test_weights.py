"""Which weights a bundle predicts with, and what is said where there are none."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mixseg.handlers import InitialWeights, LoadWeights, find_weights
from mixseg.networks import DualBranchDynUNet


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
    (tmp_path / "la_uamt").mkdir()
    monkeypatch.chdir(tmp_path / "la_uamt")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        find_weights(".")
    assert str(caught.value) == (
        "'la_uamt' has no trained weights: train it in its folder with 'python -m monai.bundle "
        "run training --config_file configs/train.yaml --dataset_dir DATA', or use a bundle that "
        "comes with weights: acdc_mixed, acdc_lv_mixed, la_mixed or wbc_mixed"
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


# --- weights to start from


def network(classes: int = 2, **options: Any) -> DualBranchDynUNet:
    torch.manual_seed(classes)
    settings = {"in_channels": 1, "features": (2, 4, 8), "branches": 1, **options}
    return DualBranchDynUNet(spatial_dims=2, out_channels=classes, **settings)


def started(net: nn.Module, source: Path) -> dict[str, torch.Tensor]:
    InitialWeights(source)(SimpleNamespace(network=net))
    return net.state_dict()


def saved(path: Path, net: nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.parametrize("place", ["own.pt", "run/models/model.pt", "bundle/eval/models/model.pt"])
def test_a_training_starts_from_a_file_a_run_or_a_bundle(tmp_path: Path, place: str) -> None:
    before, own = network(), network()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter += 1
    path = saved(tmp_path / place, before)
    source = path if place == "own.pt" else tmp_path / place.split("/")[0]
    found = started(own, source)
    assert all(torch.equal(value, found[name]) for name, value in before.state_dict().items())


def test_a_head_of_other_classes_is_learned_anew_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, own = saved(tmp_path / "two.pt", network(2)), network(3)
    drawn = {name: value.clone() for name, value in own.state_dict().items()}
    trained = network(2).state_dict()
    found = started(own, path)
    head = [name for name in found if found[name].shape != trained[name].shape]
    assert len(head) == 2  # weight and bias
    for name, value in found.items():
        assert torch.equal(value, drawn[name] if name in head else trained[name])
    assert "two.pt is of 2 classes, this network of 3: " in caplog.text
    assert all(name in caplog.text for name in head)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"features": (4, 8, 16)}, r"is \(2, 1, 3, 3\) instead of \(4, 1, 3, 3\)"),
        ({"in_channels": 3}, r"is \(2, 1, 3, 3\) instead of \(2, 3, 3, 3\)"),
        ({"features": (2, 4, 8, 16)}, "it lacks "),
        ({"branches": 2}, "it lacks teacher"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    path = saved(tmp_path / "one.pt", network())
    with pytest.raises(ValueError, match=rf"one\.pt' is of another network: .*{problem}"):
        started(network(**options), path)


def test_what_holds_no_weights_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="init_weights: there is no 'gone': give a run"):
        InitialWeights("gone")
    with pytest.raises(ValueError, match="has no trained weights"):
        InitialWeights(tmp_path)
    torch.save({"epoch": 3, "networks": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt' holds no state dict"):
        started(network(), tmp_path / "checkpoint.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.pt' cannot be read"):
        started(network(), tmp_path / "text.pt")
