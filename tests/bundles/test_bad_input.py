"""Bad data stop the bundle before anything is trained, with the file, the fault and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

Content = dict[str, Any]
Break = Callable[[Path, Content, SimpleNamespace], None]


def voxels(path: Path) -> np.ndarray:
    return np.array(nib.load(path).dataobj)


def missing(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    (folder / "image/c0.nii.gz").unlink()


def truncated(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    path = folder / "image/c6.nii.gz"  # of the validation split
    path.write_bytes(path.read_bytes()[:-900])


def nan(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    values = voxels(folder / "image/c1.nii.gz")
    values[3, 4, 0] = np.nan
    tools.save(folder / "image/c1.nii.gz", values)


def other_shape(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    tools.save(folder / "label/c3.nii.gz", voxels(folder / "label/c3.nii.gz")[:, :-1])


def other_affine(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    values = voxels(folder / "label/c3.nii.gz")
    tools.save(folder / "label/c3.nii.gz", values, np.diag([1.5, 1.25, 9.0, 1.0]))


def other_value(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    values = voxels(folder / "label/c0.nii.gz")
    values[0, 0, 0] = 7
    tools.save(folder / "label/c0.nii.gz", values)


def fractions(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    tools.save(folder / "label/c0.nii.gz", voxels(folder / "label/c0.nii.gz") * np.float32(0.5))


def shared_patient(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    content["training"][2]["patient_id"] = content["validation"][0]["patient_id"] = "p7"


def nothing_labeled(folder: Path, content: Content, tools: SimpleNamespace) -> None:
    for entry in content["training"][2:5]:
        entry["supervision"] = "partial"
        values = voxels(folder / entry["label"])
        tools.save(folder / entry["label"], np.full_like(values, 4))


FAULTS: dict[str, tuple[Break, str, str, str]] = {
    # how to break the data: file, fault, fix
    "missing file": (missing, "image/c0.nii.gz", "the image file is missing", "fix the path"),
    "truncated": (
        truncated,
        "image/c6.nii.gz",
        r"the image is not a readable NIfTI file \(",
        "copy or download it again",
    ),
    "NaN": (nan, "image/c1.nii.gz", "the image has 1 NaN or infinite voxels", "replace them"),
    "shape": (
        other_shape,
        "label/c3.nii.gz",
        r"shape \(29, 29, 3\) is not the image's \(29, 30, 3\)",
        "resample the label to the image's grid",
    ),
    "affine": (
        other_affine,
        "label/c3.nii.gz",
        "affine differs from the image's by up to 1 mm",
        "copy the image's header",
    ),
    "value": (
        other_value,
        "label/c0.nii.gz",
        r"label values \[7\] are outside the classes 0..3",
        "correct the label",
    ),
    "float label": (
        fractions,
        "label/c0.nii.gz",
        r"the label \(float32\) has values that are not whole numbers, such as 0.5",
        "export it again with nearest neighbor",
    ),
    "patient in two splits": (
        shared_patient,
        "image/c6.nii.gz",
        "patient 'p7' is in two splits, training and validation",
        "keep all cases of a patient in one split",
    ),
    "no labeled voxel at all": (
        nothing_labeled,
        "training",
        "none of the 3 partially labeled cases has a labeled voxel",
        "check the scribbles and the classes",
    ),
}


def train(tools: SimpleNamespace, folder: Path, **given: Any) -> None:
    places = {"output_dir": folder / "output", "ckpt_dir": folder / "models"}
    settings = {**tools.tiny, "dataset_dir": folder, **places, **given}
    tools.run_bundle("training", "train.yaml", **settings)


def assert_nothing_was_trained(folder: Path) -> None:
    written = [p for name in ("output", "models") for p in (folder / name).glob("*")]
    assert written == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_data(name: str, tmp_path: Path, tools: SimpleNamespace) -> None:
    spoil, file, fault, fix = FAULTS[name]
    content = tools.write_datalist(tmp_path)
    spoil(tmp_path, content, tools)
    tools.save_datalist(tmp_path, content)
    with pytest.raises(RuntimeError) as caught:
        train(tools, tmp_path)
    message = tools.cause(caught.value)
    assert re.match("1 fault in the data; nothing is trained:\n", message), message
    (line,) = message.splitlines()[1:]
    assert re.search(rf"{re.escape(file)}( \(case \w+, \w+\))?: .*{fault}.*; .*{fix}", line), line
    assert_nothing_was_trained(tmp_path)


def test_all_faults_are_listed_at_once(tmp_path: Path, tools: SimpleNamespace) -> None:
    content = tools.write_datalist(tmp_path)
    for spoil in (missing, truncated, nan, shared_patient):
        spoil(tmp_path, content, tools)
    tools.save_datalist(tmp_path, content)
    with pytest.raises(RuntimeError) as caught:
        train(tools, tmp_path)
    message = tools.cause(caught.value)
    assert message.startswith("4 faults in the data; nothing is trained:\n")
    assert len(message.splitlines()) == 5


def test_more_full_patients_than_there_are(tmp_path: Path, tools: SimpleNamespace) -> None:
    tools.write_datalist(tmp_path)
    with pytest.raises(RuntimeError) as caught:
        train(tools, tmp_path, num_full=7)
    assert tools.cause(caught.value) == (
        "num_full is 7, but the training split has 6 fully labeled patients (6 labeled in all)"
    )
    assert_nothing_was_trained(tmp_path)


@pytest.mark.parametrize("place", ["output_dir", "ckpt_dir"])
def test_a_folder_that_cannot_be_written(
    place: str, tmp_path: Path, tools: SimpleNamespace
) -> None:
    tools.write_datalist(tmp_path)
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "below"
    with pytest.raises(RuntimeError) as caught:
        train(tools, tmp_path, **{place: folder})
    assert tools.cause(caught.value).startswith(
        f"{folder} cannot be written (Not a directory): choose another folder with"
    )
    assert_nothing_was_trained(tmp_path)


def test_a_folder_without_data(tmp_path: Path, tools: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError) as caught:
        train(tools, tmp_path)
    message = tools.cause(caught.value)
    assert message.startswith(f"no datalist.json in '{tmp_path}'")
    assert "mixseg prepare acdc" in message


def test_a_partial_case_without_a_labeled_voxel_trains_on(
    tmp_path: Path, tools: SimpleNamespace
) -> None:
    content = tools.write_datalist(tmp_path)
    nothing_labeled(tmp_path, {"training": content["training"][:3]}, tools)
    content["training"][2]["supervision"] = "partial"
    tools.save_datalist(tmp_path, content)
    train(tools, tmp_path, max_epochs=1, batch_partial=8)
    rows = (tmp_path / "output" / "history.csv").read_text().splitlines()
    assert len(rows) == 2
    assert np.isfinite([float(cell) for cell in rows[1].split(",") if cell]).all()
    assert (tmp_path / "models" / "model.pt").is_file()


def test_inference_on_nothing(tmp_path: Path, tools: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError) as caught:
        tools.run_bundle(
            "inference",
            "inference.yaml",
            dataset_dir=tmp_path / "absent",
            output_dir=tmp_path / "output",
            device="cpu",
        )
    assert tools.cause(caught.value) == (
        f"{tmp_path / 'absent'} does not exist: set --dataset_dir to a folder of images"
    )
