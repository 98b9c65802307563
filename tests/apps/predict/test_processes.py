"""Images shared by several processes: each its own, one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mixseg.apps.predict.images import CaseError, InputCase
from mixseg.apps.predict.report import PredictionReport

HEADER = {"digest": "x", "classes": ["background", "LV"]}
FACTS: dict[str, Any] = {
    "shape": [30, 28, 4],
    "spacing_mm": None,
    "voxels": {"LV": 1},
    "ml": None,
    "mean_entropy": None,
    "seconds": 1.0,
    "warnings": [],
}


def enter(report: PredictionReport, image: Path) -> None:
    """What a process does with an image."""
    mask = Path(f"{image.name.removesuffix('.nii.gz')}_LV.nii.gz")
    (report.folder / mask).write_bytes(b"")
    case = InputCase(image, image.name)
    report.add(case, case.stamp, {"mask": mask}, FACTS)


def finished(report: PredictionReport, image: Path) -> bool:
    mask = Path(f"{image.name.removesuffix('.nii.gz')}_LV.nii.gz")
    return report.finished(InputCase(image, image.name), mask, ["mask"])


def test_a_case_is_finished_as_long_as_no_file_of_its_channels_changes(
    images: Path, tmp_path: Path
) -> None:
    output, mask = tmp_path / "masks", Path("a_LV.nii.gz")
    output.mkdir()
    (output / mask).write_bytes(b"")
    a, b, _ = sorted(images.iterdir())
    case = InputCase(a, "a", channels=(b,))
    report = PredictionReport(output, HEADER, 1)
    report.add(case, case.stamp, {"mask": mask}, FACTS)
    assert report.finished(case, mask, ["mask"])
    b.write_bytes(b.read_bytes() + b"\0")
    assert not report.finished(case, mask, ["mask"])


def test_reports_of_all_processes_become_one(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "masks"
    (output / ".ranks" / "1").mkdir(parents=True)
    a, b, c = sorted(images.iterdir())
    first, second = (PredictionReport(output, HEADER, 3, rank) for rank in (0, 1))
    enter(first, a)
    enter(second, b)
    second.fail(InputCase(c, "c"), Path("c_LV.nii.gz"), CaseError("failed", "why", "fix"))
    for report in (first, second):
        report.save()
    first.collect(2)
    first.save()
    content = json.loads((output / "report.json").read_text())
    assert content["images"] == {"given": 3, "predicted": 2, "found_finished": 0, "failed": 1}
    assert [case["case_id"] for case in content["cases"]] == ["a.nii.gz", "b.nii.gz"]
    assert [case["case_id"] for case in content["failures"]] == ["c"]
    assert "shared" not in content
    assert not (output / ".ranks").exists()


def test_what_an_interrupted_process_made_is_finished_for_any_number_of_them(
    images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "masks"
    (output / ".ranks" / "2").mkdir(parents=True)
    a, b, _ = sorted(images.iterdir())
    interrupted = PredictionReport(output, HEADER, 3, 2)
    enter(interrupted, a)
    interrupted.save()
    for rank in (0, 1):
        again = PredictionReport(output, HEADER, 3, rank)
        assert finished(again, a)
        assert not finished(again, b)
    assert not PredictionReport(output, {**HEADER, "digest": "y"}, 3).cases


@pytest.mark.slow
def test_two_processes_of_torchrun_make_the_masks_of_one(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert predictor(images, alone).exit_code == 0
    # One is finished already, one cannot be predicted.
    assert predictor(images / "c.nii.gz", together).exit_code == 0
    (images / "broken.nii.gz").write_bytes(b"nothing")
    words = ["--nproc_per_node=2", "-m", "mixseg", "predict", predictor.bundle, "-i", images]
    words += ["-o", together, "--checkpoint", predictor.weights, "--device", "cpu", "--no-preview"]
    for name, value in predictor.settings.items():
        words += [f"--{name}", json.dumps(value)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=variables, timeout=900, check=False
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "2 predicted, 1 were finished already" in done.stdout, done.stdout
    assert "1 of 4 images could not be predicted" in done.stdout + done.stderr
    report = read_report(together)
    assert report["images"] == {"given": 4, "predicted": 2, "found_finished": 1, "failed": 1}
    assert sorted(case["case_id"] for case in report["cases"]) == ["a", "b", "c"]
    assert not (together / ".ranks").exists()
    for name in ("a_LV.nii.gz", "b_LV.nii.gz", "c_LV.nii.gz"):
        masks = [np.asarray(nib.load(folder / name).dataobj) for folder in (alone, together)]
        np.testing.assert_array_equal(*masks)
