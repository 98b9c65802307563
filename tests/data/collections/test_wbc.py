"""The white blood cells' two layouts, their split and the conversion of their masks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixseg.data.checks import validate_datalist
from mixseg.data.collections.wbc import convert_wbc, prepare_wbc, wbc_layout
from mixseg.data.datalist import SPLITS, Datalist, DatalistError
from mixseg.data.find import find_datalist
from mixseg.data.slices import SliceDataset
from mixseg.data.subset import select_cases
from mixseg.metrics import score_case


def ids(datalist: Datalist) -> list[list[str]]:
    """Case ids of training, validation and test."""
    return [[entry.case_id for entry in getattr(datalist, split)] for split in SPLITS]


def classes_of(number: int) -> np.ndarray:
    """A mask (rows, columns) of 0, 1 and 2, another one for each number."""
    mask = np.zeros((6, 5), np.uint8)
    mask[1:5, 1:4] = 1
    mask[2 + number % 2, 2] = 2
    return mask


def official(folder: Path, count: int) -> Path:
    """Dataset 1 in small: pictures and masks of 5 × 6 pixels as they are published."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        picture = np.random.default_rng(number).integers(0, 256, (6, 5, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:03d}.bmp")
        gray = np.array([0, 128, 255], np.uint8)[classes_of(number)]
        Image.fromarray(gray).save(folder / f"{number:03d}.png")
    return folder


def prepared(folder: Path) -> Path:
    """The layout with a split; the files are empty: opening one would fail."""
    for kind in ("image", "label"):
        (folder / kind).mkdir(parents=True)
        for name in ("001", "002", "003", "010"):
            (folder / kind / f"{name}.png").touch()
    split = {"train": ["010", "001"], "val": ["003"], "test": ["002"]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def converted(source: Path, output: Path | None = None, **options: bool | int) -> Datalist:
    """Convert without the note that the masks are converted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ label files converted into copies")
        return convert_wbc(source, output, **options)  # type: ignore[arg-type]


# --- the layout with image/, label/ and split.json


def test_split_json_is_followed_and_nothing_is_opened(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "wbc")
    assert wbc_layout(folder) == "folders"
    datalist = find_datalist(folder)
    assert datalist == prepare_wbc(folder)
    assert ids(datalist) == [["010", "001"], ["003"], ["002"]]
    assert datalist.training[0].model_dump(exclude_none=True) == {
        "image": "image/010.png",
        "label": "label/010.png",
        "supervision": "full",
        "case_id": "010",
        "patient_id": "010",
    }
    assert datalist.classes == ["background", "cytoplasm", "nucleus"]
    assert datalist.unlabeled == 3
    with pytest.raises(DatalistError, match=r"wbc' is converted and split already \(image/"):
        convert_wbc(folder)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    (folder / "label" / "001.png").unlink()
    (folder / "image" / "002.png").unlink()
    with pytest.raises(DatalistError) as caught:
        find_datalist(folder)
    assert str(caught.value).splitlines() == [
        f"2 faults in the WBC folder '{folder}':",
        f"  {folder / 'label' / '001'}.png, of 'train', is missing",
        f"  {folder / 'image' / '002'}.png, of 'test', is missing",
    ]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"no white blood cells found in .*001\.bmp, 002"):
        prepare_wbc(tmp_path)
    with pytest.raises(DatalistError, match=r"gone' is not a folder: give the one with 001\.bmp"):
        convert_wbc(tmp_path / "gone")
    # Volumes, pictures without numbers, and pictures without any mask are somebody else's.
    folder = prepared(tmp_path / "named")
    for file in (folder / "image").iterdir():
        file.rename(file.with_name(f"cell{file.name}"))
    assert wbc_layout(folder) is None
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "001.bmp").touch()
    assert wbc_layout(tmp_path / "photos") is None
    with pytest.raises(DatalistError, match=r"mixseg prepare wbc <folder with 001\.bmp>"):
        find_datalist(tmp_path / "photos")


# --- the layout as it is published


@pytest.mark.parametrize("below", ["", "Dataset 1"])
def test_masks_are_converted_and_the_sources_stay(tmp_path: Path, below: str) -> None:
    source, output = tmp_path / "official", tmp_path / "out"
    pictures = official(source / below, 20)
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert wbc_layout(source) == "official"
    datalist = converted(source, output, seed=3)
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before
    assert sorted(p.name for p in output.iterdir()) == ["converted_labels", "datalist.json"]
    assert Datalist.load(output / "datalist.json") == datalist
    assert datalist.classes == ["background", "cytoplasm", "nucleus"]
    entries = [entry for _, entry in datalist.items()]
    assert sorted(entry.case_id for entry in entries) == [f"{i:03d}" for i in range(1, 21)]
    for entry in entries:
        # The picture is the BMP, never the mask beside it.
        assert entry.image == str(pictures / f"{entry.case_id}.bmp")
        assert entry.label == f"converted_labels/{entry.case_id}.png"
        assert (entry.supervision, entry.patient_id) == ("full", entry.case_id)
        mask = np.asarray(Image.open(output / entry.label))
        np.testing.assert_array_equal(mask, classes_of(int(entry.case_id)))
    assert validate_datalist(datalist) == []


def test_the_split_is_80_5_15_and_seeded(tmp_path: Path) -> None:
    source = official(tmp_path / "official", 40)
    first = converted(source, tmp_path / "a")
    assert [len(part) for part in ids(first)] == [32, 2, 6]
    assert ids(converted(source, tmp_path / "b", seed=0)) == ids(first)
    assert ids(converted(source, tmp_path / "c", seed=1)) != ids(first)


def test_the_folder_itself_can_take_the_datalist(tmp_path: Path) -> None:
    source = official(tmp_path / "official", 6)
    with pytest.raises(DatalistError) as caught:
        find_datalist(source)
    assert f"mixseg prepare wbc '{source}'" in str(caught.value)
    datalist = converted(source)
    assert find_datalist(source) == datalist
    assert datalist.training[0].image.endswith(".bmp")
    with pytest.raises(DatalistError, match=r"datalist\.json' exists; give --overwrite"):
        convert_wbc(source)
    # Once more: the copies of before are not masks of their own.
    assert ids(converted(source, overwrite=True)) == ids(datalist)


def test_identical_pictures_stay_in_one_split(tmp_path: Path) -> None:
    source = official(tmp_path / "official", 12)
    for number in range(1, 7):
        (source / f"{number + 6:03d}.bmp").write_bytes((source / f"{number:03d}.bmp").read_bytes())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        datalist = convert_wbc(source)
    notes = [str(warning.message) for warning in caught]
    assert any("007.bmp: the image is voxel for voxel that of case '001'" in n for n in notes)
    where = {entry.case_id: split for split, entry in datalist.items()}
    assert all(where[f"{i:03d}"] == where[f"{i + 6:03d}"] for i in range(1, 7))


def test_files_without_their_partner_are_all_named(tmp_path: Path) -> None:
    source = official(tmp_path / "official", 6)
    (source / "002.bmp").unlink()
    (source / "004.png").unlink()
    with pytest.raises(DatalistError) as caught:
        convert_wbc(source)
    assert str(caught.value).splitlines() == [
        f"2 faults in the WBC folder '{source}':",
        f"  {source / '002'}.bmp, of the mask 002.png, is missing",
        f"  {source / '004'}.png, the mask of 004.bmp, is missing",
    ]
    with pytest.raises(DatalistError, match="2 pictures cannot fill three splits"):
        convert_wbc(official(tmp_path / "two", 2))


def test_damaged_files_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = official(tmp_path / "official", 6)
    gray = np.array([0, 128, 200], np.uint8)[classes_of(3)]
    Image.fromarray(gray).save(source / "003.png")
    Image.fromarray(gray[:4]).save(source / "005.png")
    (source / "006.bmp").write_bytes(b"no picture")
    with pytest.raises(DatalistError) as caught:
        convert_wbc(source)
    message = str(caught.value)
    assert f"{source / '003'}.png: label values [200] are not a class" in message
    assert f"{source / '005'}.png: the label's shape (5, 4) is not the image's (5, 6)" in message
    assert f"{source / '006'}.bmp: the image is not a readable image file" in message
    assert not (source / "datalist.json").exists()
    assert not (source / "converted_labels").exists()


# --- the real pictures


@pytest.mark.realdata
def test_real_layout(wbc_dir: Path) -> None:
    splits = json.loads((wbc_dir / "split.json").read_text())
    datalist = find_datalist(wbc_dir)
    assert ids(datalist) == [splits["train"], splits["val"], splits["test"]]
    assert [len(part) for part in ids(datalist)] == [180, 20, 40]
    assert validate_datalist(datalist) == []


@pytest.mark.realdata
def test_real_cells_are_darker_inside_and_score_as_their_own_reference(wbc_dir: Path) -> None:
    """The stain is taken up by the nucleus most: that class 2 is it can be seen in the colors."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    cases = select_cases(find_datalist(wbc_dir), wbc_dir, 12)
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])
    for case in cases:
        dataset = SliceDataset([case], load, num_classes=3, progress=False)
        image, label = dataset[0]["image"].numpy(), dataset[0]["label"].numpy()[0]
        assert image.shape == (3, *label.shape)
        means = [image[:, label == index].mean() for index in range(3)]
        assert means[2] < means[1] < means[0]
        rows = score_case(
            label, label, case_id="a", branch="teacher",
            class_names=["background", "cytoplasm", "nucleus"], num_classes=3,
        )  # fmt: skip
        assert [(row.iou, row.precision, row.recall) for row in rows] == [(1.0, 1.0, 1.0)] * 2


@pytest.mark.realdata
def test_real_pictures_in_the_published_layout(wbc_dir: Path, tmp_path: Path) -> None:
    """Written as they are published, they come back with the same labels."""
    source = tmp_path / "Dataset 1"
    source.mkdir()
    for path in sorted((wbc_dir / "image").iterdir())[:40]:
        Image.open(path).save(source / f"{path.stem}.bmp")
        mask = np.asarray(Image.open(wbc_dir / "label" / path.name))
        Image.fromarray(np.array([0, 128, 255], np.uint8)[mask]).save(source / path.name)
    datalist = converted(tmp_path, tmp_path / "out")
    assert [len(part) for part in ids(datalist)] == [32, 2, 6]
    for _, entry in datalist.items():
        assert entry.label is not None
        mask = np.asarray(Image.open(tmp_path / "out" / entry.label))
        expected = np.asarray(Image.open(wbc_dir / "label" / f"{entry.case_id}.png"))
        np.testing.assert_array_equal(mask, expected)
    assert validate_datalist(datalist) == []
