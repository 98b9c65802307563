"""A DICOM series as one volume: its voxels and grid, or what is wrong with the folder."""

from __future__ import annotations

import locale
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from mixseg.files.finding import find_images
from mixseg.files.reading import UnreadableError, dicom_files, open_volume

Write = Callable[..., Path]


def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".dcm", "", ".IMA"])
def test_a_series_is_a_volume(tmp_path: Path, write_series: Write, suffix: str) -> None:
    folder = write_series(
        tmp_path / "pt00", scan(), spacing=(0.5, 0.75, 2), origin=(3, -4, 10), suffix=suffix
    )
    (folder / "notes.txt").write_text("left by the viewer")
    opened = open_volume(folder)
    assert open_volume(folder, voxels=False).data is None
    np.testing.assert_array_equal(opened.data, scan())
    expected = np.diag([-0.5, -0.75, 2.0, 1.0])
    expected[:3, 3] = (-3, 4, 10)
    np.testing.assert_allclose(opened.affine, expected, atol=1e-6)
    (found,) = find_images(tmp_path).images
    assert (found.path, found.stem, found.suffix) == (folder, "pt00", "")


def test_the_locale_stays_as_it_was(tmp_path: Path, write_series: Write) -> None:
    """GDCM sets it to C, after which Python reads every file without a stated encoding as ASCII."""
    folder = write_series(tmp_path / "a", scan())
    before = locale.setlocale(locale.LC_ALL)
    open_volume(folder)
    assert locale.setlocale(locale.LC_ALL) == before


def test_slices_across_another_axis(tmp_path: Path, write_series: Write) -> None:
    """Coronal slices: x to the left, y downward, so that z runs to anterior."""
    folder = write_series(tmp_path / "a", scan(), directions=(1, 0, 0, 0, 0, -1))
    opened = open_volume(folder)
    np.testing.assert_array_equal(opened.data, scan())
    # The normal of (1, 0, 0) and (0, 0, −1) is (0, 1, 0), posterior.
    expected = [[-1, 0, 0, 0], [0, 0, -2, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(opened.affine, expected, atol=1e-6)


def test_rescaled_values(tmp_path: Path, write_series: Write) -> None:
    tags = {"0028|1052": "-1024", "0028|1053": "2"}
    folder = write_series(tmp_path / "a", scan() * 2 - 1024, tags=tags)
    np.testing.assert_array_equal(open_volume(folder).data, scan() * 2 - 1024)


def test_several_series_are_listed_and_not_guessed(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path / "a", scan())
    write_series(tmp_path / "b", scan()[..., :3], uid="1.2.826.2", tags={"0008|103e": "scout"})
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / f"other_{path.name}")
    with pytest.raises(UnreadableError) as caught:
        open_volume(tmp_path / "a", voxels=False)
    assert "the folder holds 2 series: " in str(caught.value)
    assert "CT scan, 5 files (1.2.826.1)" in str(caught.value)
    assert "CT scout, 3 files (1.2.826.2)" in str(caught.value)
    assert "a folder of its own" in caught.value.fix


def test_missing_slices_are_named(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path / "a", scan())
    next(folder.glob("*_002.dcm")).unlink()
    with pytest.raises(UnreadableError, match=r"4 mm between I\d+_001\.dcm and I\d+_003\.dcm"):
        open_volume(folder)


def test_slices_at_one_place(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path / "a", scan())
    again = write_series(tmp_path / "b", scan()[..., :1])
    next(again.iterdir()).rename(folder / "copy.dcm")
    with pytest.raises(
        UnreadableError, match=r"1 slices have the position of another slice, .*copy\.dcm"
    ):
        open_volume(folder)
    (folder / "copy.dcm").unlink()
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        del slice_.ImagePositionPatient
        slice_.save_as(path)
    with pytest.raises(UnreadableError, match="slices have one position: their tags state none"):
        open_volume(folder)


@pytest.mark.parametrize(
    "syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian]
)
def test_structures_and_plans_beside_the_slices_are_left_out(
    tmp_path: Path, write_series: Write, syntax: str
) -> None:
    """As treatment planning systems export them: slices, RTSTRUCT and RTPLAN in one folder."""
    folder = write_series(tmp_path / "a", scan())
    for kind, number in (("RTSTRUCT", 3), ("RTPLAN", 5)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.481.{number}"
        meta.MediaStorageSOPInstanceUID = f"1.2.826.0.{number}"
        meta.TransferSyntaxUID = syntax
        beside = Dataset()
        beside.SOPClassUID = meta.MediaStorageSOPClassUID
        beside.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        beside.StudyInstanceUID, beside.SeriesInstanceUID = "1.2.826.9", f"1.2.826.9.{number}"
        beside.Modality = kind
        beside.file_meta = meta
        beside.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(open_volume(folder).data, scan())


def test_damaged_slices_and_folders_without_any(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path / "a", scan())
    path = next(folder.glob("*_003.dcm"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableError, match=r"I\d+_003\.dcm"):
        open_volume(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableError, match="holds no DICOM file"):
        open_volume(tmp_path / "empty")


def test_a_slice_by_itself_is_a_volume_of_one_slice(tmp_path: Path, write_series: Write) -> None:
    folder = write_series(tmp_path / "a", scan()[..., :1])
    opened = open_volume(next(folder.iterdir()))
    assert opened.shape == (7, 6, 1)
    np.testing.assert_array_equal(opened.data, scan()[..., :1])


def test_an_element_that_is_longer_than_its_file_is_refused_before_memory_is_taken(
    tmp_path: Path, write_series: Write
) -> None:
    path = next(write_series(tmp_path / "a", scan()[..., :1]).iterdir())
    whole = path.read_bytes()
    # The pixels: group 7FE0, element 0010, and their length; ITK writes no value representations.
    place = whole.index(b"\xe0\x7f\x10\x00") + 4
    path.write_bytes(whole[:place] + b"\xf0\xff\xff\x7f" + whole[place + 4 :])
    with pytest.raises(UnreadableError, match=r"ends before its data do"):
        open_volume(path)
    place = whole.index(b"UI")
    path.write_bytes(whole[:place] + b"SJ" + whole[place + 2 :])
    with pytest.raises(UnreadableError, match=r"the header of .* is damaged"):
        open_volume(path)


def write_enhanced(
    path: Path, values: np.ndarray, order: list[int], *, groups: bool = True, slopes: str = "1"
) -> Path:
    """An enhanced MR object of (x, y, z) values; frame k is the slice ``order[k]``."""

    def item(**tags: Any) -> Any:
        found = Dataset()
        found.update(tags)
        return found

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.826.1.9"
    file.Modality, file.SeriesInstanceUID = "MR", "1.2.826.1"
    file.Columns, file.Rows, file.NumberOfFrames = *values.shape[:2], len(order)
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 1, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    if groups:
        measures = item(PixelSpacing=[0.75, 0.5], SliceThickness=2)
        axes = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        shared = item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[axes])
        file.SharedFunctionalGroupsSequence = [shared]
        file.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[3, -4, 10 + 2 * z])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=slopes[k % len(slopes)], RescaleIntercept=0)
                ],
            )
            for k, z in enumerate(order)
        ]
    file.PixelData = b"".join(values[:, :, z].T.tobytes() for z in order)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_frames_of_one_file_lie_where_each_says(tmp_path: Path, order: list[int]) -> None:
    path = write_enhanced(tmp_path / "scan" / "all.dcm", scan(), order)
    expected = np.diag([-0.5, -0.75, 2.0, 1.0])
    expected[:3, 3] = (-3, 4, 10)
    for place in (path, path.parent):
        opened = open_volume(place)
        np.testing.assert_array_equal(opened.data, scan())
        np.testing.assert_allclose(opened.affine, expected, atol=1e-6)
    assert dicom_files(path.parent) == [path]


def test_frames_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UnreadableError) as caught:
            open_volume(path, voxels=False)
        return f"{caught.value}; {caught.value.fix}"

    gap = write_enhanced(tmp_path / "gap.dcm", scan(), [0, 1, 3, 4])
    assert "4 mm between frame 2 of gap.dcm and frame 3 of gap.dcm" in refused(gap)
    twice = write_enhanced(tmp_path / "twice.dcm", scan(), [0, 1, 2, 2, 3, 4])
    assert "such as frame 3 of twice.dcm and frame 4 of twice.dcm" in refused(twice)
    film = write_enhanced(tmp_path / "film.dcm", scan(), [0, 1, 2], groups=False)
    assert "film.dcm holds 3 frames without places in space" in refused(film)
    scaled = write_enhanced(tmp_path / "scaled.dcm", scan(), [0, 1, 2], slopes="12")
    assert "scaled.dcm are scaled by 2 different slopes and intercepts" in refused(scaled)


def test_an_index_of_dicom_files_is_no_image(tmp_path: Path, write_series: Write) -> None:
    series = write_series(tmp_path / "cd" / "pt00", scan())
    index = bytes(128) + b"DICM" + bytes(200)
    (tmp_path / "cd" / "DICOMDIR").write_bytes(index)
    (series / "DICOMDIR").write_bytes(index)
    assert [image.path for image in find_images(tmp_path / "cd").images] == [series]
    np.testing.assert_array_equal(open_volume(series).data, scan())
