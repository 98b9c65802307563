from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mixseg.apps.label import labels as submitted
from mixseg.apps.label.studies import StoredScan, StoreError, read_label_store
from mixseg.data.checks import validate_datalist
from mixseg.data.datalist import Datalist
from mixseg.data.subset import select_cases

from .conftest import AFFINE, Store

CLASSES = ["background", "LV"]  # C = 2: unlabeled 2, the brush 3
FULL = [0, 1, 1, 0, 0, 0, 0, 0]
SCRIBBLED = [0, 1, 3, 0, 0, 0, 0, 0]


def test_labels_are_converted_and_every_scan_is_listed(store: Store, tmp_path: Path) -> None:
    folder = store({"a": {"values": FULL}, "b": {"values": SCRIBBLED}, "c": None})
    result = submitted.write_submitted(read_label_store(folder), CLASSES, tmp_path / "run")
    assert (result.full, result.partial, result.none) == (("a",), ("b",), ("c",))
    assert result.validation == ()
    datalist = Datalist.load(result.datalist)
    assert [e.supervision for e in datalist.training] == ["full", "partial", "none"]
    scribble = nib.load(tmp_path / "run" / "labels" / "b.nii.gz")
    assert np.asarray(scribble.dataobj).ravel().tolist() == [2, 1, 0, 2, 2, 2, 2, 2]
    assert scribble.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(scribble.affine, AFFINE)
    # The project's own checks and selection take it as it is; 'none' is left out.
    assert validate_datalist(datalist, splits=["training"]) == []
    cases = select_cases(datalist, None)
    assert [(c["case_id"], c["supervision"], c["erode"]) for c in cases] == [
        ("a", "full", False),
        ("b", "partial", False),
    ]
    assert "label" not in datalist.training[2].model_dump(exclude_none=True)


def test_only_complete_patients_validate_and_their_other_frames_do_not_train(
    store: Store, tmp_path: Path
) -> None:
    labels: dict = {f"p{i}_frame01": {"values": FULL} for i in range(4)}
    labels |= {f"p{i}_frame12": None for i in range(4)}
    labels["s_frame01"] = {"values": SCRIBBLED}
    # Complete, but with a scribbled frame of the same patient: it stays in training.
    labels["s_frame12"] = {"values": FULL}
    result = submitted.write_submitted(
        read_label_store(store(labels)),
        CLASSES,
        tmp_path / "run",
        val_split=0.5,
        patient_pattern=r"^(.+?)_frame\d+$",
    )
    assert len(result.validation) == 2
    assert {c[0] for c in result.validation} == {"p"}
    held = {c.partition("_")[0] for c in result.validation}
    trained = {c.partition("_")[0] for c in (*result.full, *result.partial, *result.none)}
    assert held & trained == set()
    assert "s_frame12" in result.full
    assert validate_datalist(Datalist.load(result.datalist)) == []


@pytest.mark.parametrize(
    ("count", "share", "wanted"),
    [(1, 0.9, 0), (2, 0.2, 0), (3, 0.34, 1), (5, 0.2, 1), (10, 0.2, 2), (4, 0.0, 0)],
)
def test_how_many_validate(count: int, share: float, wanted: int) -> None:
    patients = [f"p{i}" for i in range(count)]
    assert len(submitted.validation_patients(patients, share)) == wanted


def test_a_new_patient_moves_no_other_out_of_the_validation_but_by_taking_its_place() -> None:
    before = submitted.validation_patients([f"p{i}" for i in range(10)], 0.3)
    after = submitted.validation_patients([f"p{i}" for i in range(11)], 0.3)
    assert len(before) == len(after) == 3
    assert len(before & after) >= 2
    assert after - before <= {"p10"}
    with pytest.raises(ValueError, match="val_split is -1"):
        submitted.validation_patients(["a"], -1)


def test_only_the_annotated_classes_are_known(store: Store) -> None:
    values = [0, 1, 2, 2, 0, 0, 0, 0]
    (scan,) = read_label_store(store({"a": {"values": values, "annotated_classes": ["lv"]}}))
    label, _ = submitted.convert_label(scan, ["background", "RV", "LV"])
    # By hand: LV (2) stays; a 0 or 1 may be anything, so it is unlabeled (3).
    assert label.ravel().tolist() == [3, 3, 2, 2, 3, 3, 3, 3]
    (scan,) = read_label_store(store({"a": {"values": values, "annotated_classes": ["aorta"]}}))
    with pytest.raises(
        StoreError, match=r"a\.nii\.gz': annotated_classes \['aorta'\] are not among"
    ):
        submitted.convert_label(scan, ["background", "RV", "LV"])


def test_all_faults_are_told_at_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no label has been submitted yet"):
        submitted.write_submitted(read_label_store(store({"a": None})), CLASSES, tmp_path / "r")
    bad = [9, *FULL[1:]]
    folder = store({"a": {"values": bad}, "b": {"values": FULL}, "c": {"values": FULL}})
    (folder / "labels" / "final" / "c.nii.gz").write_bytes(b"broken")
    with pytest.raises(StoreError) as error:
        submitted.write_submitted(read_label_store(folder), CLASSES, tmp_path / "r")
    first, second = str(error.value).splitlines()
    assert "a.nii.gz': label holds [9], but only values up to 3 have a segment" in first
    assert "c.nii.gz' cannot be read" in second


def test_overlapping_segments_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a has no label"):
        submitted.convert_label(StoredScan("a", tmp_path / "a.nii.gz"), CLASSES)
    scan = StoredScan("a", tmp_path / "a.nii.gz", tmp_path / "a.seg.nrrd")
    with pytest.raises(StoreError, match=r"choose \.nii\.gz or \.nrrd as file extension"):
        submitted.convert_label(scan, CLASSES)
