"""Trainings as the server's process runs them, on scans of a few thousand voxels."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mixseg.apps.label import model as model_folder
from mixseg.apps.label import training
from mixseg.engines import NetworkSet

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
TINY: dict[str, Any] = {
    "features": [2, 4, 8],
    "slice_size": [32, 32],
    "epoch_length": 2,
    "batch_full": 2,
    "batch_partial": 2,
    "val_interval": 1,
}
FLAGSHIP = BUNDLE.with_name("acdc_lv_mixed")
#: Settings of its own in place of those of TINY.
FLAGSHIP_TINY = {**TINY, "features": [4, 8, 8], "crop_size": [32, 32], "spatial_size": [32, 32]}
Make = Callable[..., tuple[Path, Path]]


def settings(**options: Any) -> Any:
    return training.TrainSettings(**{"max_epochs": 4, **options})


def scan(index: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and the complete mask of its bright disc."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:32, :32]
    disc = (rows - 15) ** 2 + (columns - 16) ** 2 < 50
    mask = np.repeat(disc[..., None], 3, axis=2).astype(np.uint8)
    return (mask + rng.normal(0, 0.1, mask.shape)).astype(np.float32), mask


def submit(studies: Path, labels: dict[str, np.ndarray | None]) -> None:
    """A datastore with these labels in the values that a viewer gives them."""
    (studies / "labels" / "final").mkdir(parents=True, exist_ok=True)
    objects = {}
    for index, (name, values) in enumerate(labels.items()):
        nib.save(nib.Nifti1Image(scan(index)[0], np.eye(4)), studies / f"{name}.nii.gz")
        stored = {}
        if values is not None:
            path = studies / "labels" / "final" / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(values.astype(np.uint8), np.eye(4)), path)
            stored = {"final": {"ext": ".nii.gz", "info": {}}}
        objects[name] = {"image": {"ext": ".nii.gz"}, "labels": stored}
    (studies / "datastore_v2.json").write_text(json.dumps({"objects": objects}))


def scribble() -> np.ndarray:
    drawn = np.zeros((32, 32, 3), np.uint8)
    drawn[12:18, 16] = 1
    drawn[2, 4:28] = 3  # the brush
    return drawn


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model and a folder of studies: one complete mask, one scribble, one scan without."""

    def build(name: str, bundle: Path = BUNDLE) -> tuple[Path, Path]:
        folder, studies = tmp_path / name / "model", tmp_path / name / "studies"
        settings = TINY if bundle == BUNDLE else FLAGSHIP_TINY
        model_folder.make_model_folder(bundle, folder, None, settings)
        submit(studies, {"a": scan(0)[1], "b": scribble(), "c": None})
        return folder, studies

    return build


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


def epochs(run: Path) -> list[int]:
    with (run / "history.csv").open() as file:
        return [int(float(row["epoch"])) for row in csv.DictReader(file)]


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("bundle", [BUNDLE, FLAGSHIP], ids=lambda path: path.name)
def test_a_killed_training_resumes_to_the_same_weights(
    make: Make, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    whole, studies = make("whole", bundle)
    before = weights(whole)
    run = training.train_model(whole, studies, settings(), "")
    status = training.read_status(whole)
    assert (status["status"], status["epoch"], status["total_epochs"]) == ("done", 4, 4)
    assert epochs(run) == [1, 2, 3, 4]
    trained = "student" if bundle == BUNDLE else "main"
    assert trained in "".join(differ(before, weights(whole)))

    cut, studies = make("cut", bundle)
    steps, update = itertools.count(1), NetworkSet.update_averages

    def gone(self: NetworkSet, epoch: int) -> None:
        if next(steps) == 5:
            raise SystemExit("gone")
        update(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(NetworkSet, "update_averages", gone)
        with pytest.raises(SystemExit):
            training.train_model(cut, studies, settings(), "")
    assert training.read_status(cut)["status"] == "interrupted"
    run = training.train_model(cut, studies, settings(), "")
    assert run.name == "0001"
    assert epochs(run) == [1, 2, 3, 4]
    assert differ(weights(whole), weights(cut)) == []


def test_a_new_label_begins_a_new_training_from_the_present_weights(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, studies = make("m")
    run = training.train_model(folder, studies, settings(max_epochs=1), "")
    # As if it had been killed after its first epoch.
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "status": "running"}))
    first = weights(folder)
    submit(studies, {"a": scan(0)[1], "b": scribble(), "c": scan(2)[1]})
    # A rate of 0 leaves the parameters where they began.
    again = training.train_model(folder, studies, settings(max_epochs=1, settings={"lr": 0.0}), "")
    assert again.name == "0002"
    moved = differ(first, weights(folder))
    assert all("running" in name or "num_batches" in name for name in moved), moved


def test_from_random_weights_where_pretrained_is_off(make: Make) -> None:
    folder, studies = make("m")
    torch.save({k: torch.zeros_like(v) for k, v in weights(folder).items()},
               folder / "models" / "model.pt")  # fmt: skip
    options = settings(max_epochs=1, pretrained=False, settings={"lr": 0.0})
    training.train_model(folder, studies, options, "")
    state = weights(folder)
    assert any(v.is_floating_point() and v.abs().max() > 0.01 for v in state.values())


@pytest.mark.parametrize("bundle", [BUNDLE, FLAGSHIP], ids=lambda path: path.name)
def test_complete_cases_validate_and_the_best_weights_are_kept(make: Make, bundle: Path) -> None:
    folder, studies = make("m", bundle)
    metric = "val_dice_student" if bundle == BUNDLE else "val_dice_main"
    labels: dict[str, np.ndarray | None] = {f"f{i}": scan(i)[1] for i in range(5)}
    submit(studies, {**labels, "s": scribble()})
    run = training.train_model(folder, studies, settings(max_epochs=2), "")
    datalist = json.loads((run / "datalist.json").read_text())
    assert [len(datalist[name]) for name in ("training", "validation")] == [5, 1]
    status = training.read_status(folder)
    assert status["eval"]["key_metric_name"] == metric
    with (run / "history.csv").open() as file:
        dice = [float(row[metric]) for row in csv.DictReader(file)]
    assert len(dice) == 2
    assert status["best_metric"] == pytest.approx(max(dice))
    best = torch.load(run / "checkpoint.pt", weights_only=True)["handlers"]["selection"]
    assert best["best_epoch"] == int(np.argmax(dice)) + 1
    if best["best_epoch"] == 2:
        last = torch.load(run / "model_last.pt", weights_only=True)
        assert differ(last, weights(folder)) == []


def test_a_label_that_cannot_be_used_fails_with_its_name_and_leaves_the_weights(
    make: Make,
) -> None:
    folder, studies = make("m")
    before = weights(folder)
    submit(studies, {"a": 9 * scan(0)[1], "b": None})
    with pytest.raises(ValueError, match=r"a\.nii\.gz': label holds \[9\]"):
        training.train_model(folder, studies, settings(), "")
    status = training.read_status(folder)
    assert status["status"] == "failed"
    assert "label holds [9]" in status["error"]
    assert differ(before, weights(folder)) == []
    # Faults of the files are found by the bundle's own checks.
    submit(studies, {"a": scan(0)[1][:, :, :2], "b": None})
    with pytest.raises(ValueError, match=r"shape \(32, 32, 2\) is not the image's \(32, 32, 3\)"):
        training.train_model(folder, studies, settings(), "")


def test_a_model_that_does_not_load_never_replaces_the_working_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that diverge in the last step, after the loss that the trainer looks at."""
    folder, studies = make("m")
    before = weights(folder)

    def diverge(self: Any, epoch: int) -> None:
        with torch.no_grad():
            next(self["network"].parameters()).fill_(torch.nan)

    monkeypatch.setattr(NetworkSet, "update_averages", diverge)
    options = settings(max_epochs=1, settings={"epoch_length": 1})
    with pytest.raises(ValueError, match="holds values that are not finite in"):
        training.train_model(folder, studies, options, "")
    assert training.read_status(folder)["status"] == "failed"
    assert differ(before, weights(folder)) == []


def test_a_model_of_another_network_never_replaces_the_working_one(make: Make) -> None:
    folder, studies = make("m")
    before = weights(folder)
    # As a request could ask for it before: other features, from random weights.
    options = settings(max_epochs=1, pretrained=False, settings={"features": [4, 8, 16]})
    with pytest.raises(ValueError, match="do not fit the network that predicts"):
        training.train_model(folder, studies, options, "")
    assert differ(before, weights(folder)) == []
