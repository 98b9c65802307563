from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from mixseg.apps.label import model as model_folder
from mixseg.configuration.loading import load
from mixseg.networks import DualBranchUNet

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
TINY: dict[str, Any] = {"features": [2, 4, 8], "crop_size": [64, 64]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.pt"
    network = DualBranchUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features=TINY["features"], dropout=0.5
    )
    # As weights may be shipped.
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(state, path)
    return path


def test_both_configurations_become_complete(tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "model" / "acdc_lv_confkd"
    assert model_folder.make_model_folder(BUNDLE, target, weights, TINY | {"lambda_w": 1})
    train, inference = (load(target / "configs" / f"{n}.yaml") for n in ("train", "inference"))
    assert train["features"] == inference["features"] == [2, 4, 8]
    assert train["crop_size"] == inference["crop_size"] == [64, 64]
    assert train["lambda_w"] == 1
    assert "lambda_w" not in inference
    # Labels are what the annotator draws, and every case counts as what it is.
    assert train["source_classes"] == ["background", "LV"]
    assert train["target_classes"] == [1]
    assert train["num_full"] is None
    assert train["num_partial"] is None
    assert train["num_unlabeled"] == 0
    made, given = (torch.load(p, weights_only=True) for p in (target / "models/model.pt", weights))
    assert made.keys() == given.keys()
    assert all(torch.equal(made[name], given[name]) for name in given)
    assert [p.name for p in (target / "models").iterdir()] == ["model.pt"]
    assert model_folder.model_classes(target) == ["background", "LV"]
    # The rest of train.yaml is the bundle's, comments included.
    text = (target / "configs" / "train.yaml").read_text()
    assert "# partial cross-entropy of the student" in text


@pytest.mark.parametrize("name", ["acdc_lv_uamt", "acdc_lv_ssco", "la_glmi", "la_uamt"])
def test_semi_supervised_methods_take_all_scans_without_full_masks(
    tmp_path: Path, name: str
) -> None:
    """Their numbers follow from num_full, which an annotation loop does not know."""
    target = tmp_path / name
    model_folder.make_model_folder(BUNDLE.parent / name, target, None, {})
    train = ConfigParser(load(target / "configs" / "train.yaml"))
    counts = ("num_full", "num_partial", "num_unlabeled")
    assert [train[count] for count in counts] == [None, 0, None]
    ramps = train.get_parsed_content("ramps")  # nothing of it hangs on the numbers
    lengths = [ramp["length"] if isinstance(ramp, dict) else ramp for ramp in ramps.values()]
    assert all(length > 0 for length in lengths)
    assert train.get_parsed_content("epoch_length") > 0


def test_trained_weights_stay_when_the_server_starts_again(tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "model" / "acdc_lv_confkd"
    assert model_folder.make_model_folder(BUNDLE, target, weights, TINY)
    (target / "models" / "model.pt").write_bytes(b"trained")
    assert not model_folder.make_model_folder(BUNDLE, target, weights, TINY)
    assert (target / "models" / "model.pt").read_bytes() == b"trained"
    other = {**TINY, "slice_size": [128, 128]}
    with pytest.raises(ValueError, match="with other settings: give the same ones, choose another"):
        model_folder.make_model_folder(BUNDLE, target, weights, other)
    assert (target / "models" / "model.pt").read_bytes() == b"trained"


def test_trained_weights_learn_at_a_tenth_of_the_rate(tmp_path: Path, weights: Path) -> None:
    def rate(name: str, given: Path | None, **settings: Any) -> float:
        model_folder.make_model_folder(BUNDLE, tmp_path / name, given, TINY | settings)
        return float(load(tmp_path / name / "configs" / "train.yaml")["lr"])

    usual = float(load(BUNDLE / "configs" / "train.yaml")["lr"])
    assert rate("trained", weights) == pytest.approx(usual / 10)
    assert rate("random", None) == usual
    assert rate("chosen", weights, lr=usual) == usual
    # Started again without the weights, or with them: the folder is the same.
    assert rate("trained", None) == pytest.approx(usual / 10)
    assert rate("random", weights) == usual


def test_weights_of_another_network_leave_nothing_behind(tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "model" / "acdc_lv_confkd"
    with pytest.raises(ValueError, match=r"w\.pt' does not fit the network of acdc_lv_confkd: .*"
                                         "Give the folder of the run that trained it"):  # fmt: skip
        model_folder.make_model_folder(BUNDLE, target, weights, {"features": [4, 8, 16]})
    assert list((tmp_path / "model").iterdir()) == []


def test_unknown_settings_and_incomplete_bundles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"lamda: no such setting in train\.yaml or inference\.yaml"
    ):
        model_folder.make_model_folder(BUNDLE, tmp_path / "t", None, {"lamda": 1})
    with pytest.raises(ValueError, match=r"is not a complete bundle, it has no .*train\.yaml"):
        model_folder.make_model_folder(tmp_path, tmp_path / "t", None)


def test_random_weights_are_the_same_every_time(tmp_path: Path) -> None:
    states = []
    for name in "ab":
        model_folder.make_model_folder(BUNDLE, tmp_path / name / "m", None, TINY)
        states.append(torch.load(tmp_path / name / "m" / "models" / "model.pt"))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
