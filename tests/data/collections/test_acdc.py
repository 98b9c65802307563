from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixseg.data.collections.acdc import acdc_layout, deal_groups, prepare_acdc, split_sizes
from mixseg.data.datalist import SPLITS, Datalist, DatalistError
from mixseg.data.find import find_datalist

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


def write_patient(folder: Path, number: int, group: str | None, suffix: str = ".nii.gz") -> Path:
    """The files of one patient as ACDC names them; their content is not read here."""
    name = f"patient{number:03d}"
    place = folder / name
    place.mkdir(parents=True)
    for stem in ("4d", "frame01", "frame01_gt", "frame12", "frame12_gt"):
        (place / f"{name}_{stem}{suffix}").touch()
    if group is not None:
        (place / "Info.cfg").write_text(f"ED: 1\nES: 12\nGroup: {group}\nHeight: 180.0\n")
    return place


def official(folder: Path, count: int, first: int = 1) -> Path:
    """Patients in blocks of equal size per group, as in the challenge."""
    for index in range(count):
        write_patient(folder, first + index, GROUPS[index * 5 // count])
    return folder


def patients(datalist: Datalist, split: str) -> list[str]:
    return list(dict.fromkeys(entry.patient_id for entry in getattr(datalist, split)))


def group_of(folder: Path, patient: str) -> str:
    return next(folder.rglob(f"{patient}/Info.cfg")).read_text().split("Group: ")[1].split()[0]


def test_a_hundred_patients_split_80_5_15_with_the_groups_in_turn(tmp_path: Path) -> None:
    datalist = prepare_acdc(official(tmp_path, 100))
    found = {split: patients(datalist, split) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [80, 5, 15]
    assert len({p for names in found.values() for p in names}) == 100
    for names in found.values():
        assert [group_of(tmp_path, p) for p in names] == list(GROUPS) * (len(names) // 5)


def test_the_split_is_seeded(tmp_path: Path) -> None:
    official(tmp_path, 20)
    assert prepare_acdc(tmp_path) == prepare_acdc(tmp_path)
    assert patients(prepare_acdc(tmp_path, seed=1), "training") != patients(
        prepare_acdc(tmp_path), "training"
    )


def test_entries_are_relative_and_leave_the_cine_series_out(tmp_path: Path) -> None:
    datalist = prepare_acdc(official(tmp_path, 5))
    entry = datalist.training[0]
    name = entry.patient_id
    assert entry.model_dump(exclude_none=True) == {
        "image": f"{name}/{name}_frame01.nii.gz",
        "label": f"{name}/{name}_frame01_gt.nii.gz",
        "supervision": "full",
        "case_id": f"{name}_frame01",
        "patient_id": name,
        "groups": {"phase": "ED", "disease": group_of(tmp_path, name)},
    }
    assert datalist.classes == ["background", "RV", "myocardium", "LV"]
    assert (datalist.unlabeled, datalist.base_dir) == (4, tmp_path)
    assert sum(len(getattr(datalist, split)) for split in SPLITS) == 10


def test_uncompressed_files_and_scribbles_beside_the_masks(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        place = write_patient(tmp_path, number, "NOR", ".nii")
        (place / f"patient{number:03d}_frame01_scribble.nii").touch()
    entries = [e for split in SPLITS for e in getattr(prepare_acdc(tmp_path), split)]
    for first, second in zip(entries[::2], entries[1::2], strict=True):
        assert first.image == f"{first.patient_id}/{first.patient_id}_frame01.nii"
        assert first.scribble == f"{first.patient_id}/{first.patient_id}_frame01_scribble.nii"
        assert second.scribble is None


def test_the_challenges_test_patients_never_enter_training(tmp_path: Path) -> None:
    official(tmp_path / "database" / "training", 100)
    official(tmp_path / "database" / "testing", 50, first=101)
    datalist = prepare_acdc(tmp_path)
    assert [len(patients(datalist, split)) for split in SPLITS] == [80, 5, 65]
    assert patients(datalist, "test")[15:] == [f"patient{i}" for i in range(101, 151)]
    alone = prepare_acdc(tmp_path / "database" / "training")
    assert patients(alone, "training") == patients(datalist, "training")
    (tmp_path / "database" / "training").rename(tmp_path.parent / f"{tmp_path.name}_away")
    with pytest.raises(DatalistError, match=r"holds only the challenge's testing/ patients"):
        prepare_acdc(tmp_path)


def test_all_missing_masks_are_named(tmp_path: Path) -> None:
    official(tmp_path, 5)
    for number, frame in ((2, "01"), (4, "12")):
        name = f"patient{number:03d}"
        (tmp_path / name / f"{name}_frame{frame}_gt.nii.gz").unlink()
    with pytest.raises(DatalistError) as caught:
        prepare_acdc(tmp_path)
    message = str(caught.value)
    assert message.startswith("2 faults in the ACDC folder")
    for case in ("patient002_frame01", "patient004_frame12"):
        assert f"{case}.nii.gz: its mask {case}_gt.nii.gz is missing" in message


def test_phase_and_disease_are_those_of_info_cfg(tmp_path: Path) -> None:
    place = write_patient(tmp_path, 1, "DCM")
    for number in (2, 3, 4):
        write_patient(tmp_path, number, "NOR")
    (place / "Info.cfg").write_text("ED: 01\nES: 9\nGroup: DCM\n")  # frame 12 is neither
    datalist = prepare_acdc(tmp_path)
    groups = {entry.case_id: entry.groups for split in SPLITS for entry in getattr(datalist, split)}
    assert groups["patient001_frame01"] == {"phase": "ED", "disease": "DCM"}
    assert groups["patient001_frame12"] == {"disease": "DCM"}
    assert groups["patient002_frame12"] == {"phase": "ES", "disease": "NOR"}


def test_missing_info_is_one_warning_and_one_group(tmp_path: Path) -> None:
    for number in range(1, 11):
        write_patient(tmp_path, number, None)
    with pytest.warns(UserWarning, match="Info.cfg is missing or names no Group for 10 patients"):
        datalist = prepare_acdc(tmp_path)
    assert sum(len(patients(datalist, split)) for split in SPLITS) == 10


def test_folders_without_patients(tmp_path: Path) -> None:
    assert acdc_layout(tmp_path) is None
    with pytest.raises(DatalistError, match=r"no ACDC patients found in .*patientXXX/"):
        prepare_acdc(tmp_path)
    with pytest.raises(DatalistError, match="gone' is not a folder"):
        prepare_acdc(tmp_path / "gone")
    official(tmp_path, 2)
    with pytest.raises(DatalistError, match="2 patients cannot fill three splits"):
        prepare_acdc(tmp_path)


@pytest.mark.parametrize(
    ("count", "sizes"), [(100, (80, 5, 15)), (3, (1, 1, 1)), (20, (16, 1, 3)), (40, (32, 2, 6))]
)
def test_split_sizes(count: int, sizes: tuple[int, int, int]) -> None:
    assert split_sizes(count) == sizes


def test_unequal_groups_are_dealt_in_proportion() -> None:
    # (i + 1/2)/n: a at 1/8, 3/8, 5/8, 7/8; b at 1/4, 3/4.
    dealt = deal_groups({"a": ["a1", "a2", "a3", "a4"], "b": ["b1", "b2"]})
    assert dealt == ["a1", "b1", "a2", "a3", "b2", "a4"]


def folders(root: Path, split: dict[str, list[str]], kinds: tuple[str, ...]) -> Path:
    for kind in kinds:
        (root / kind).mkdir()
        for patient in (p for names in split.values() for p in names):
            for frame in ("01", "12"):
                (root / kind / f"{patient}_frame{frame}.nii.gz").touch()
    (root / "split.json").write_text(json.dumps(split))
    return root


SPLIT = {
    "train": ["patient009", "patient002", "patient005"],
    "val": ["patient001"],
    "test": ["patient003"],
}


def test_the_prepared_layout_keeps_the_order_of_split_json(tmp_path: Path) -> None:
    datalist = prepare_acdc(folders(tmp_path, SPLIT, ("image", "label", "scribble")))
    assert [patients(datalist, split) for split in SPLITS] == list(SPLIT.values())
    assert datalist.training[1].model_dump(exclude_none=True) == {
        "image": "image/patient009_frame12.nii.gz",
        "label": "label/patient009_frame12.nii.gz",
        "scribble": "scribble/patient009_frame12.nii.gz",
        "supervision": "full",
        "case_id": "patient009_frame12",
        "patient_id": "patient009",
    }
    assert find_datalist(tmp_path) == datalist


def test_faults_of_the_prepared_layout(tmp_path: Path) -> None:
    folders(tmp_path, SPLIT, ("image", "label"))
    (tmp_path / "label" / "patient002_frame01.nii.gz").unlink()
    listed = SPLIT | {"val": ["patient001", "patient077"], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(listed))
    with pytest.raises(DatalistError) as caught:
        prepare_acdc(tmp_path)
    assert "'patient077' of 'val' has no file in image/" in str(caught.value)
    assert "its mask label/patient002_frame01.nii.gz is missing" in str(caught.value)
    (tmp_path / "label" / "patient002_frame01.nii.gz").touch()
    (tmp_path / "split.json").write_text(json.dumps(SPLIT | {"test": []}))
    with pytest.warns(UserWarning, match="no split for 1 patients, .* left out: patient003"):
        prepare_acdc(tmp_path)
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(DatalistError, match="needs the lists 'train', 'val' and 'test'"):
        prepare_acdc(tmp_path)


@pytest.mark.realdata
def test_the_real_folder(acdc_dir: Path) -> None:
    datalist = prepare_acdc(acdc_dir)
    assert [len(patients(datalist, split)) for split in SPLITS] == [60, 5, 15]
    assert [len(getattr(datalist, split)) for split in SPLITS] == [120, 10, 30]
    assert all(entry.scribble for _, entry in datalist.items())
