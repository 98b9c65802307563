"""``mixseg predict`` where something is wrong, or was interrupted: nothing lost, all named."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mixseg.apps.bundle.sums import write_sums
from mixseg.apps.predict import pipeline as predict_pipeline
from mixseg.apps.predict.images import InputCase
from mixseg.apps.predict.pipeline import BundlePipeline, choose_device
from mixseg.apps.predict.report import PredictionReport
from mixseg.apps.predict.run import PredictionRun, Wanted
from mixseg.data import NativeNiftiWriter
from mixseg.networks import DualBranchUNet


def stamps(folder: Path) -> dict[str, int]:
    """When each mask was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_LV.nii.gz")}


def spoil(folder: Path) -> None:
    """One file of each kind that cannot be predicted, beside the sound ones."""
    whole = (folder / "c.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("no image at all")
    series = np.random.default_rng(0).normal(size=(20, 20, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(series, np.eye(4)), folder / "series.nii.gz")
    holes = series[..., 0].copy()
    holes[3, 4, 1] = np.nan
    nib.save(nib.Nifti1Image(holes, np.eye(4)), folder / "holes.nii.gz")


def test_broken_files_are_named_and_do_not_stop_the_others(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    spoil(images)
    output = tmp_path / "masks"
    result = predictor(images, output)
    assert result.exit_code == 1
    assert sorted(stamps(output)) == ["a_LV.nii.gz", "b_LV.nii.gz", "c_LV.nii.gz"]
    assert f"3 predicted: masks and report.html are in {output}" in result.output
    assert "error: 4 of 7 images could not be predicted:" in result.output
    reasons = {
        "cut": r"is not a readable NIfTI file \(.*\); it may be truncated: copy or download it",
        "holes": "the image has NaN or infinite voxels; replace them, or leave the case out",
        "series": "the image has 3 channels (20×20×4), the bundle takes 1; store the channels that",
        "text": "is not a readable NIfTI file",
    }
    lines = result.output.splitlines()
    for name, reason in reasons.items():
        (line,) = [line for line in lines if f"{images / name}.nii.gz: " in line]
        assert reason in line or re.search(reason, line), line
    report = read_report(output)
    assert report["images"] == {"given": 7, "predicted": 3, "found_finished": 0, "failed": 4}
    assert {entry["case_id"]: entry["kind"] for entry in report["failures"]} == {
        "cut": "truncated",
        "holes": "not finite",
        "series": "wrong dimension",
        "text": "unreadable",
    }
    with (output / "report.csv").open() as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    assert rows["holes"]["status"] == "failed"
    assert rows["holes"]["notes"].startswith("the image has NaN")
    assert not (output / ".unfinished").exists()


def test_a_flat_image_is_predicted_with_a_warning(
    predictor: Any, tmp_path: Path, read_report: Any
) -> None:
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 20, 2), 7, np.int16), np.eye(4)), flat)
    # A student that only knows background.
    state = torch.load(predictor.weights, weights_only=True)
    for name in state:
        if name.startswith("student") and state[name].shape == (2,):
            state[name] = torch.tensor([50.0, -50.0])
    torch.save(state, predictor.weights)
    assert predictor(flat, tmp_path / "masks").exit_code == 0
    (case,) = read_report(tmp_path / "masks")["cases"]
    assert case["warnings"] == [
        "empty prediction: no voxel of any class",
        "the image is constant (all voxels are equal)",
        "the voxel size is not known: sizes are in voxels, not in ml",
    ]
    assert (case["ml"], case["voxels"]) == (None, {"LV": 0})


def test_finished_cases_are_skipped_until_something_changes(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    output = tmp_path / "masks"
    predictor(images, output)
    first = stamps(output)
    again = predictor(images, output)
    assert again.exit_code == 0
    assert "0 predicted, 3 were finished already" in again.output
    assert stamps(output) == first
    # One image changes, one mask is gone.
    shutil.copy(images / "c.nii.gz", images / "b.nii.gz")
    (output / "c_LV.nii.gz").unlink()
    assert "2 predicted, 1 were finished already" in predictor(images, output).output
    second = stamps(output)
    assert second["a_LV.nii.gz"] == first["a_LV.nii.gz"]
    assert second["b_LV.nii.gz"] != first["b_LV.nii.gz"]
    cases = {case["case_id"]: case for case in read_report(output)["cases"]}
    assert sorted(cases) == ["a", "b", "c"]
    assert cases["b"]["shape"] == [32, 28, 6]
    # A map that is missing, and --overwrite.
    assert "3 predicted:" in predictor(images, output, "--entropy").output
    assert "0 predicted, 3 were finished" in predictor(images, output, "--entropy").output
    assert "3 predicted:" in predictor(images, output, "--overwrite").output


def test_another_setting_or_other_weights_start_over_and_keep_the_report(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    output = tmp_path / "masks"
    predictor(images, output)
    digest = read_report(output)["digest"]
    result = predictor(images / "a.nii.gz", output, branch="teacher")
    assert "1 predicted:" in result.output
    assert f"their report is kept as report_{digest}.json" in result.output
    kept = json.loads((output / f"report_{digest}.json").read_text())
    assert [case["case_id"] for case in kept["cases"]] == ["a", "b", "c"]
    state = torch.load(predictor.weights, weights_only=True)
    torch.save({"model": state}, predictor.weights)
    assert "1 predicted:" in predictor(images / "a.nii.gz", output, branch="teacher").output


def test_an_interrupted_run_keeps_what_is_finished_and_resumes(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, calls = tmp_path / "masks", []
    write = NativeNiftiWriter.write

    def interrupted(self: Any, filename: Any, **options: Any) -> None:
        write(self, filename, **options)
        calls.append(filename)
        if len(calls) == 2:  # its mask is written, not yet in place
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NativeNiftiWriter, "write", interrupted)
        result = predictor(images, output)
    assert result.exit_code == 130
    assert "interrupted: 1 of 3 cases are finished; the same command resumes" in result.output
    assert list(stamps(output)) == ["a_LV.nii.gz"]
    assert [case["case_id"] for case in read_report(output)["cases"]] == ["a"]
    assert not (output / ".unfinished").exists()
    assert "2 predicted, 1 were finished already" in predictor(images, output).output


def test_a_full_disk_stops_the_run_at_once(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, calls = tmp_path / "masks", []
    write = NativeNiftiWriter.write

    def full(self: Any, filename: Any, **options: Any) -> None:
        calls.append(filename)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(filename))
        write(self, filename, **options)

    monkeypatch.setattr(NativeNiftiWriter, "write", full)
    result = predictor(images, output)
    assert result.exit_code == 1
    assert f"error: '{output}' cannot be written (" in result.output
    assert "No space left on device" in result.output
    assert "make room, or choose another -o; what is finished (1 cases) is kept" in result.output
    assert len(calls) == 2
    assert [case["case_id"] for case in read_report(output)["cases"]] == ["a"]


def test_an_output_that_cannot_be_written_is_said_before_any_work(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = predictor(images, tmp_path / "file" / "masks")
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'file' / 'masks'} cannot be written" in result.output
    assert "choose another folder with -o" in result.output


def test_masks_never_lie_among_the_images_nor_overwrite_each_other(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    result = predictor(images, images)
    assert result.exit_code == 1
    assert f"'{images}' is the folder of the images" in result.output
    inside = images / "masks"
    assert "3 predicted:" in predictor(images, inside).output
    assert "0 predicted, 3 were finished already" in predictor(images, inside).output
    shutil.copy(images / "a.nii.gz", images / "A.nii")
    refused = predictor(images, tmp_path / "masks")
    assert refused.exit_code == 1
    assert "images that share a name would overwrite each other's masks" in refused.output
    for image in (images / "a.nii.gz", images / "A.nii"):
        assert f"'{image}'" in refused.output
    assert stamps(tmp_path / "masks") == {}
    (images / "A.nii").rename(images / f"{'ä' * 120}.nii")
    refused = predictor(images, tmp_path / "masks")
    assert refused.exit_code == 1
    assert "is too long for its mask's: shorten it" in refused.output


def test_folders_a_patient_with_equal_file_names_keep_their_folders(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    for patient, name in (("p1", "a"), ("p2", "b")):
        (tmp_path / "in" / patient).mkdir(parents=True)
        shutil.copy(images / f"{name}.nii.gz", tmp_path / "in" / patient / "scan.nii.gz")
    (tmp_path / "in" / "._scan.nii.gz").write_bytes(b"left by a Mac")
    (tmp_path / "in" / "lost.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    output = tmp_path / "masks"
    result = predictor(tmp_path / "in", output, "--entropy")
    assert result.exit_code == 0, result.output
    for patient, name in (("p1", "a"), ("p2", "b")):
        mask = nib.load(output / patient / "scan_LV.nii.gz")
        assert mask.shape == nib.load(images / f"{name}.nii.gz").shape
        assert (output / patient / "scan_LV_entropy.nii.gz").is_file()
    report = read_report(output)
    assert [case["case_id"] for case in report["cases"]] == ["p1_scan", "p2_scan"]
    (left_out,) = report["left_out"]
    assert "lost.nii.gz is left out: a link to" in left_out
    assert left_out in result.output
    assert "0 predicted, 2 were finished already" in predictor(tmp_path / "in", output).output


def test_a_file_name_that_is_no_utf8_is_predicted_and_reported(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"lat\xe9.nii.gz")
    try:
        shutil.copy(images / "a.nii.gz", tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    result = predictor(tmp_path / "in", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "masks" / os.fsdecode(b"lat\xe9_LV.nii.gz")).is_file()
    (case,) = read_report(tmp_path / "masks")["cases"]
    assert case["case_id"] == os.fsdecode(b"lat\xe9")


def test_a_flat_image_gets_a_flat_mask(predictor: Any, images: Path, tmp_path: Path) -> None:
    volume = nib.load(images / "a.nii.gz")
    flat = np.asarray(volume.dataobj)[..., 0].astype(np.float32)
    flat[3, 4] = 1e30
    nib.save(nib.Nifti1Image(flat, volume.affine), tmp_path / "flat.nii.gz")
    result = predictor(tmp_path / "flat.nii.gz", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    mask = nib.load(tmp_path / "masks" / "flat_LV.nii.gz")
    assert mask.shape == flat.shape
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-5)
    (case,) = json.loads((tmp_path / "masks" / "report.json").read_text())["cases"]
    assert "the image has a voxel of 1e+30" in case["warnings"][0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--color", "1"), "'--color' is neither an option nor a setting of inference.yaml"),
        (("--dataset_dir", "x"), "'--dataset_dir' is set by --input here"),
        (("--checkpoint", "gone.pt"), "there is no 'gone.pt': give the weights with --weights"),
        (("--features", "[4,8,16]"), "do not fit the network of inference.yaml; give the folder"),
        (("--config", "gone.yaml"), "--config: there is neither 'gone.yaml' nor '"),
        (("--branch", "left"), "branch must be one of both, teacher, student, ensemble"),
        (("--device", "cuda:77"), "--device cuda:77 is not available: PyTorch"),
        (("--device", "gpu"), "--device gpu is not a device: give cpu, cuda or cuda:1"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    more: tuple[str, str], message: str, predictor: Any, images: Path, tmp_path: Path
) -> None:
    predictor.settings.pop(more[0][2:], None)
    result = predictor(images, tmp_path / "masks", *more)
    assert result.exit_code == 1
    assert message in result.output
    assert stamps(tmp_path / "masks") == {}


def test_weights_that_are_damaged_are_named(predictor: Any, images: Path, tmp_path: Path) -> None:
    predictor.weights.write_bytes(predictor.weights.read_bytes()[:500])
    result = predictor(images, tmp_path / "masks")
    assert result.exit_code == 1
    assert f"'{predictor.weights}' cannot be read as weights: " in result.output
    assert "Copy or download it again" in result.output


def test_weights_with_nan_are_refused(predictor: Any, images: Path, tmp_path: Path) -> None:
    state = torch.load(predictor.weights, weights_only=True)
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name][0] = torch.nan
    torch.save(state, predictor.weights)
    result = predictor(images, tmp_path / "masks")
    assert result.exit_code == 1
    assert f"weights.pt' holds values that are not finite in {name}: " in result.output
    assert stamps(tmp_path / "masks") == {}


@pytest.mark.parametrize("averaged", [False, True])
def test_the_full_state_of_a_training_is_taken_for_its_weights(
    averaged: bool, predictor: Any, images: Path, tmp_path: Path
) -> None:
    """The moving average where there is one: it is what the training validates and exports."""
    predictor(images / "a.nii.gz", tmp_path / "plain")
    state = torch.load(predictor.weights, weights_only=True)
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    networks = {"average": state, "network": other} if averaged else {"network": state}
    flat = {f"{n}.{k}": v for n, weights in networks.items() for k, v in weights.items()}
    predictor.weights = tmp_path / "checkpoint.pt"
    torch.save({"networks": flat, "optimizer": {}, "epoch": 3}, predictor.weights)
    result = predictor(images / "a.nii.gz", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    one, other_mask = (nib.load(tmp_path / f / "a_LV.nii.gz") for f in ("plain", "masks"))
    np.testing.assert_array_equal(one.get_fdata(), other_mask.get_fdata())


def test_a_case_that_fails_in_the_network_does_not_spoil_the_next(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RuntimeError as a GPU without memory for cuDNN gives it, in the middle of the engine."""
    forward = DualBranchUNet.forward
    seen: list[int] = []

    def fail_first(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("CUDNN_STATUS_ALLOC_FAILED")
        return forward(self, *arguments, **options)

    monkeypatch.setattr(DualBranchUNet, "forward", fail_first)
    result = predictor(images, tmp_path / "masks")
    assert result.exit_code == 1
    assert "error: 1 of 3 images could not be predicted:" in result.output
    assert "a.nii.gz: RuntimeError: CUDNN_STATUS_ALLOC_FAILED" in result.output
    assert sorted(stamps(tmp_path / "masks")) == ["b_LV.nii.gz", "c_LV.nii.gz"]


def test_a_folder_may_be_named_in_any_way(predictor: Any, images: Path, tmp_path: Path) -> None:
    """Upwards and down again, through a link, and by signs that a configuration would run."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for output in (tmp_path / "real" / ".." / "one", tmp_path / "link" / "$two", tmp_path / "@3"):
        result = predictor(images / "a.nii.gz", output)
        assert result.exit_code == 0, result.output
        assert list(stamps(output)) == ["a_LV.nii.gz"]
    assert list(stamps(tmp_path / "real" / "$two")) == ["a_LV.nii.gz"]


def test_a_second_prediction_into_the_folder_is_refused(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "masks"
    code = f"import filelock; l = filelock.FileLock({str(output / '.lock')!r}); l.acquire(); "
    code += "print('held', flush=True); input()"
    output.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        result = predictor(images, output)
        assert result.exit_code == 1
        assert f"'{output}' is in use: another process is running" in result.output
        first.kill()
    # What a killed one has left goes; a link that lies there is neither followed nor removed.
    (output / ".unfinished_left").mkdir()
    (output / ".unfinished_link").symlink_to(images)
    assert predictor(images, output).exit_code == 0
    assert sorted(p.name for p in output.glob(".unfinished*")) == [".unfinished_link"]
    assert len(list(images.iterdir())) == 3


def test_what_is_no_input_or_no_bundle_is_named(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    missing = predictor(tmp_path / "gone", tmp_path / "masks")
    assert f"there is no '{tmp_path / 'gone'}': give an image or a folder" in missing.output
    (tmp_path / "empty").mkdir()
    empty = predictor(tmp_path / "empty", tmp_path / "masks")
    assert f"{tmp_path / 'empty'} holds no image (.nii, " in empty.output
    assert "give an image or a folder of images with -i" in empty.output
    assert "--dataset_dir" not in empty.output
    predictor.bundle = images
    no_bundle = predictor(images, tmp_path / "masks")
    assert f"'{images}' is not a bundle, it has no configs/metadata.json" in no_bundle.output
    assert {missing.exit_code, empty.exit_code, no_bundle.exit_code} == {1}


def test_a_changed_bundle_is_refused(predictor: Any, images: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "packed"
    shutil.copytree(predictor.bundle / "configs", bundle / "configs")
    write_sums(bundle)
    predictor.bundle = bundle
    assert predictor(images / "a.nii.gz", tmp_path / "masks").exit_code == 0
    with (bundle / "configs" / "inference.yaml").open("a") as file:
        file.write("evil: $print('taken over')\n")
    result = predictor(images / "b.nii.gz", tmp_path / "masks")
    assert result.exit_code == 1
    assert f"'{bundle}' is not what was packed" in result.output
    assert "configs/inference.yaml is not the file that was packed" in result.output
    assert "taken over" not in result.output


def test_a_report_of_something_else_is_not_replaced(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "report.json").write_text('{"mine": 1}')
    result = predictor(images, tmp_path / "masks")
    assert result.exit_code == 1
    assert "report.json' is not a report of a prediction: choose another -o" in result.output
    assert json.loads((tmp_path / "masks" / "report.json").read_text()) == {"mine": 1}


class _Exhausted:
    """A pipeline on a device whose memory is too small."""

    device = torch.device("cuda")

    def __init__(self, real: BundlePipeline) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def predict(self, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def on(self, device: torch.device) -> BundlePipeline:
        assert device.type == "cpu"
        return self.real


def test_without_memory_on_the_device_the_cpu_takes_over(
    predictor: Any, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "masks"
    output.mkdir()
    files = [predictor.bundle / "configs" / "inference.yaml"]
    staging, cpu = output / ".unfinished", torch.device("cpu")
    real = BundlePipeline(
        predictor.bundle, files, predictor.settings, predictor.weights, cpu, staging
    )
    report = PredictionReport(output, {"digest": "x", "classes": real.class_names}, 1)
    cases = [InputCase(images / "a.nii.gz", "a")]
    exhausted: Any = _Exhausted(real)
    run = PredictionRun(exhausted, cases, output, report, Wanted(False, False, 0))
    run.predict_all(overwrite=False, progress=False)
    (case,) = report.cases.values()
    assert case["warnings"] == ["out of memory on cuda, predicted on the CPU"]
    assert "a.nii.gz: out of memory on cuda, predicted on the CPU" in caplog.text
    predictor(images / "a.nii.gz", tmp_path / "alone")
    written, alone = (nib.load(folder / "a_LV.nii.gz") for folder in (output, tmp_path / "alone"))
    np.testing.assert_array_equal(written.get_fdata(), alone.get_fdata())


class _Small(_Exhausted):
    """A pipeline on a device that has no memory for some of the cases."""

    def __init__(self, real: BundlePipeline, spare: BundlePipeline) -> None:
        super().__init__(real)
        self.spare = spare

    def predict(self, batch: Any) -> Any:
        return self.real.predict(batch)

    def on(self, device: torch.device) -> BundlePipeline:
        assert device.type == "cpu"
        return self.spare


def test_a_case_too_large_for_the_device_leaves_the_next_one_alone(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory ends inside the engine's run, in the network's pass over the second of three."""
    output = tmp_path / "masks"
    output.mkdir()
    files = [predictor.bundle / "configs" / "inference.yaml"]
    staging, cpu = output / ".unfinished", torch.device("cpu")
    on_device, spare = (
        BundlePipeline(predictor.bundle, files, predictor.settings, predictor.weights, cpu, staging)
        for _ in range(2)
    )
    network = on_device._evaluator.network
    passed, whole = [], network.forward

    def forward(image: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        passed.append(len(image))
        if len(image) == 5:  # slices, of 'b' alone
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(image, *arguments, **options)

    monkeypatch.setattr(network, "forward", forward)
    report = PredictionReport(output, {"digest": "x", "classes": spare.class_names}, 3)
    cases = [InputCase(images / f"{name}.nii.gz", name) for name in "abc"]
    small: Any = _Small(on_device, spare)
    PredictionRun(small, cases, output, report, Wanted(False, False, 0)).predict_all(False, False)
    assert 5 in passed
    assert passed[-1] != 5  # the device's own network took the third case again
    warned = [case["warnings"] for case in report.cases.values()]
    assert warned == [[], ["out of memory on cuda, predicted on the CPU"], []]
    predictor(images, tmp_path / "alone")
    for name in "abc":
        written, alone = (
            nib.load(folder / f"{name}_LV.nii.gz") for folder in (output, tmp_path / "alone")
        )
        np.testing.assert_array_equal(written.get_fdata(), alone.get_fdata())


def test_without_memory_on_the_cpu_the_case_fails(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict: Callable[..., Any] = BundlePipeline.predict

    def exhausted(self: BundlePipeline, batch: Any) -> Any:
        if batch["image"].shape[-1] == 5:
            raise torch.OutOfMemoryError("no memory")
        return predict(self, batch)

    monkeypatch.setattr(BundlePipeline, "predict", exhausted)
    result = predictor(images, tmp_path / "masks")
    assert result.exit_code == 1
    assert sorted(stamps(tmp_path / "masks")) == ["a_LV.nii.gz", "c_LV.nii.gz"]
    assert "b.nii.gz: out of memory; crop or resample the image" in result.output


def test_a_case_whose_files_cannot_be_written_fails_and_is_not_reported_as_finished(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_report: Any
) -> None:
    def refused(*arguments: Any) -> None:
        raise ValueError("no such type of voxels")

    monkeypatch.setattr(PredictionRun, "_write_map", refused)
    output = tmp_path / "masks"
    result = predictor(images / "a.nii.gz", output, "--entropy")
    assert result.exit_code == 1
    assert "a.nii.gz: ValueError: no such type of voxels" in result.output
    assert read_report(output)["cases"] == []


def test_what_cannot_be_drawn_costs_no_mask(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_report: Any
) -> None:
    def refused(*arguments: Any) -> None:
        raise ValueError("too thin")

    monkeypatch.setattr(PredictionRun, "_draw", refused)
    output = tmp_path / "masks"
    assert predictor(images / "a.nii.gz", output, "--preview").exit_code == 0
    (case,) = read_report(output)["cases"]
    assert "no preview: too thin" in case["warnings"]
    assert (output / case["outputs"]["mask"]).is_file()


def test_cuda_is_taken_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_pipeline.torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"--device cuda is not available: PyTorch .* sees no CUDA"
    ):
        choose_device("cuda")
    monkeypatch.setattr(predict_pipeline.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(predict_pipeline.torch.cuda, "device_count", lambda: 1)
    assert choose_device(None) == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(
        ValueError, match=r"--device cuda:1 is not available: .* sees 1 CUDA device"
    ):
        choose_device("cuda:1")
