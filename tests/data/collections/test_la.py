"""The left atrium's two layouts and its split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixseg.data.collections.la import find_scans, la_layout, prepare_la, split_scans
from mixseg.data.collections.la_crop import crop_la
from mixseg.data.datalist import Datalist, DatalistError


def touch_whole(folder: Path, names: list[str]) -> Path:
    """The files of whole scans; their content is not read here."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for stem in ("lgemri", "laendo"):
            (folder / name / f"{stem}.nrrd").touch()
    return folder


def ids(datalist: Datalist) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for split, entry in datalist.items():
        splits[split].append(entry.case_id)
    return splits


# --- the layout of cropped scans


def cropped_layout(folder: Path) -> Path:
    names = [f"s{i}" for i in range(5)]
    for kind in ("image", "label"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / f"{name}.nii.gz").touch()
    split = {"train": ["s3", "s0", "s4"], "val": ["s1"], "test": ["s2"]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_cropped_layout_follows_split_json_and_opens_nothing(tmp_path: Path) -> None:
    folder = cropped_layout(tmp_path / "la")
    assert la_layout(folder) == "folders"
    datalist = prepare_la(folder)  # the files are empty: opening one would fail
    assert ids(datalist) == {"training": ["s3", "s0", "s4"], "validation": ["s1"], "test": ["s2"]}
    assert datalist.training[0].model_dump(exclude_none=True) == {
        "image": "image/s3.nii.gz",
        "label": "label/s3.nii.gz",
        "supervision": "full",
        "case_id": "s3",
        "patient_id": "s3",
    }
    assert (datalist.classes, datalist.unlabeled) == (["background", "LA"], 2)
    with pytest.raises(DatalistError, match="holds cropped scans already"):
        crop_la(folder, tmp_path / "out")


def test_cropped_layout_names_all_missing_files(tmp_path: Path) -> None:
    folder = cropped_layout(tmp_path / "la")
    (folder / "label" / "s0.nii.gz").unlink()
    (folder / "image" / "s2.nii.gz").unlink()
    with pytest.raises(DatalistError) as caught:
        prepare_la(folder)
    message = str(caught.value)
    assert message.startswith("2 faults in the LA folder")
    assert f"{folder / 'label' / 's0'}.nii.gz, of 'train', is missing" in message
    assert f"{folder / 'image' / 's2'}.nii.gz, of 'test', is missing" in message


@pytest.mark.realdata
def test_real_layout(la_dir: Path) -> None:
    splits = json.loads((la_dir / "split.json").read_text())
    found = ids(prepare_la(la_dir))
    assert found == {
        "training": splits["train"],
        "validation": splits["val"],
        "test": splits["test"],
    }


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"no left-atrium scans found in .*lgemri\.nrrd"):
        prepare_la(tmp_path)
    with pytest.raises(DatalistError, match=r"no left-atrium scans found in .*lgemri\.nrrd"):
        crop_la(tmp_path, tmp_path / "out")
    with pytest.raises(DatalistError, match="gone' is not a folder"):
        crop_la(tmp_path / "gone", tmp_path / "out")
    folder = cropped_layout(tmp_path / "acdc")
    for kind in ("image", "label"):
        for file in (folder / kind).iterdir():
            file.rename(file.with_name(f"patient00{file.name[1]}_frame01.nii.gz"))
    with pytest.raises(DatalistError, match="10 faults in the LA folder"):
        prepare_la(folder)
    whole = touch_whole(tmp_path / "whole", ["a", "b", "c"])
    with pytest.raises(DatalistError, match=r"holds whole scans.*mixseg prepare la .* OUTPUT"):
        prepare_la(whole)


# --- the split


def test_split_is_80_5_15_by_scan_and_seeded(tmp_path: Path) -> None:
    touch_whole(tmp_path / "Training Set", [f"case{number:03d}" for number in range(100)])
    scans = find_scans(tmp_path)
    splits = split_scans(scans, seed=0)
    assert [len(part) for part in splits.values()] == [80, 5, 15]
    assert {scan for part in splits.values() for scan in part} == set(scans)
    assert split_scans(scans, seed=0) == splits
    assert split_scans(scans, seed=1) != splits

    touch_whole(tmp_path / "Testing Set", ["challenge"])
    more = split_scans(find_scans(tmp_path), seed=0)
    assert more["training"] == splits["training"]
    assert [scan.case_id for scan in more["test"]][15:] == ["challenge"]
