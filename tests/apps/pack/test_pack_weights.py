"""Weights that are packed: read without trust, compared name by name, converted with care."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixseg.apps.bundle.precision import Precision
from mixseg.apps.bundle.weights import convert, misfits, read_weights
from mixseg.apps.pack.pack import pack_bundle
from mixseg.networks import DualBranchUNet, MeanVarianceNetwork


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))


def test_what_does_not_fit_is_named() -> None:
    weights = network().state_dict()
    assert misfits(network(), {k: v.half() for k, v in weights.items()}) == []
    weights["0.bias"] = torch.full((3,), float("nan"))
    weights["2.bias"] = weights.pop("1.bias")
    weights["0.weight"] = torch.zeros(4, 2)
    assert misfits(network(), weights) == [
        "the network lacks 2.bias",
        "the weights lack 1.bias",
        "other shapes 0.weight (4, 2) instead of (3, 2)",
        "values that are not finite in 0.bias",
    ]


def test_weights_of_before_the_only_branch_was_called_main_fit() -> None:
    new = DualBranchUNet(features=(2, 4), branches=1)
    old = {re.sub("^main", "teacher", name): value for name, value in new.state_dict().items()}
    assert misfits(new, old) == []
    heads = MeanVarianceNetwork(
        DualBranchUNet(out_channels=4, features=(2, 4), branches=1),
        num_classes=2,
        encoder_layers=["encoder.center"],
        class_layer="encoder.center",
        class_channels=4,
    )
    inside = {
        re.sub("^backbone.main", "backbone.teacher", name): value
        for name, value in heads.state_dict().items()
    }
    assert any(name.startswith("backbone.teacher.") for name in inside)
    assert misfits(heads, inside) == []
    heads.load_state_dict(inside, strict=True)
    two = DualBranchUNet(features=(2, 4))
    first, second = misfits(two, new.state_dict())
    assert first.startswith("the network lacks main.")
    assert second.startswith("the weights lack teacher.")


def test_long_lists_of_names_are_cut() -> None:
    weights = {f"layer{i}": torch.zeros(1) for i in range(6)}
    assert misfits(torch.nn.Identity(), weights) == [
        "the network lacks layer0, layer1, layer2, layer3 and 2 more"
    ]


def test_numbers_change_their_type_and_counters_do_not() -> None:
    weights = {"w": torch.tensor([1.0, 2.0**-24]), "n": torch.tensor(70000)}
    halved = convert(weights, Precision.FLOAT16)
    assert halved["w"].dtype is torch.float16
    assert halved["w"].tolist() == [1.0, 2.0**-24]  # the smallest number that float16 has
    assert halved["n"].dtype is torch.int64
    assert halved["n"].item() == 70000
    with pytest.raises(ValueError, match="w: too large for float16"):
        convert({"w": torch.tensor([65520.0])}, Precision.FLOAT16)


def test_a_checkpoint_with_its_weights_under_a_key(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": {"lr": 1}}, tmp_path / "a.pt")
    assert list(read_weights(tmp_path / "a.pt")) == ["w"]
    with pytest.raises(ValueError, match=r"there is no '.*b\.pt'"):
        read_weights(tmp_path / "b.pt")
    # A pickle that would build an object of ours is not loaded.
    torch.save({"w": SimpleNamespace()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt' cannot be read as weights: it is not a file"):
        read_weights(tmp_path / "c.pt")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unexpected pos 94656 vs 94608")  # PyTorch's words for it

    monkeypatch.setattr(torch, "save", full)
    bundle = Path(__file__).resolve().parents[3] / "bundles" / "la_mixed"
    with pytest.raises(OSError, match=r"model\.pt could not be written"):
        pack_bundle(bundle, output=tmp_path)
    assert not list(tmp_path.iterdir())
