"""What scans may be like, and what ends with a clear message."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Tools = SimpleNamespace


def train(tools: Tools, folder: Path, **given: Any) -> None:
    places = {"output_dir": folder / "output", "ckpt_dir": folder / "models"}
    settings = {**tools.tiny, "dataset_dir": folder, **places, **given}
    tools.run_bundle("training", "train.yaml", **settings)


def test_a_scan_smaller_than_the_crop_trains_on(tmp_path: Path, la_tools: Tools) -> None:
    content = la_tools.write_datalist(tmp_path)
    image, label = la_tools.atrium((24, 20, 9), 0)
    la_tools.save(tmp_path / content["training"][0]["image"], image)
    la_tools.save(tmp_path / content["training"][0]["label"], label)
    train(la_tools, tmp_path, max_epochs=1)
    (row,) = (tmp_path / "output" / "history.csv").read_text().splitlines()[1:]
    assert np.isfinite([float(cell) for cell in row.split(",") if cell]).all()


def test_a_series_over_time_is_refused(tmp_path: Path, la_tools: Tools) -> None:
    content = la_tools.write_datalist(tmp_path)
    image, _ = la_tools.atrium((36, 34, 20), 0)
    la_tools.save(tmp_path / content["training"][0]["image"], np.stack([image, image], axis=-1))
    with pytest.raises(RuntimeError) as caught:
        train(la_tools, tmp_path)
    message = la_tools.cause(caught.value)
    assert "that of c0 is 3D with 2 channels" in message
    assert "image/c0.nii.gz" in message
    assert "of a series in time, store one frame per file" in message
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda label: label * 7, "label values [7] are outside the classes 0..1"),
        (lambda label: label[:-1], "the label's shape (35, 34, 20) is not the image's"),
        (lambda label: label * np.float32(0.5), "values that are not whole numbers"),
    ],
    ids=["value", "shape", "float"],
)
def test_a_fault_in_the_data(tmp_path: Path, la_tools: Tools, spoil: Any, fault: str) -> None:
    content = la_tools.write_datalist(tmp_path)
    label = la_tools.atrium((36, 34, 20), 0)[1]
    la_tools.save(tmp_path / content["training"][0]["label"], spoil(label))
    with pytest.raises(RuntimeError) as caught:
        train(la_tools, tmp_path)
    message = la_tools.cause(caught.value)
    assert message.startswith("1 fault in the data; nothing is trained:\n")
    assert "label/c0.nii.gz" in message
    assert fault in message


def test_nrrd_trains_like_nifti(tmp_path: Path, la_tools: Tools) -> None:
    """The same scans in another format give the same first steps."""
    histories = []
    for kind in ("nifti", "nrrd"):
        folder = tmp_path / kind
        content = la_tools.write_datalist(folder)
        if kind == "nrrd":
            for split in ("training", "validation", "test"):
                for entry in content[split]:
                    for key in ("image", "label"):
                        i = int(entry["case_id"][1:])
                        values = la_tools.atrium((36 + i, 34, 20), i)[key == "label"]
                        entry[key] = entry[key].replace(".nii.gz", ".nrrd")
                        la_tools.save_nrrd(folder / entry[key], values, np.eye(4))
            la_tools.save_datalist(folder, content)
        train(la_tools, folder, max_epochs=1)
        histories.append((folder / "output" / "history.csv").read_text())
    assert histories[0] == histories[1]
