"""A mask as DICOM SEG, read again by highdicom and by ITK's tags of the scan."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixseg.files import dicom_seg
from mixseg.files.dicom_seg import require_highdicom, write_dicom_seg
from mixseg.files.reading import UnreadableError, dicom_files, open_volume

Write = Callable[..., Path]
NAMES = ["background", "left atrium", "scar (LGE) – ü"]
TAGS = {
    "0008|0020": "20240102",
    "0008|0030": "101112",
    "0008|0050": "A1",
    "0008|0090": "",
    "0010|0010": "Doe^Jane",
    "0010|0020": "P7",
    "0010|0030": "19700101",
    "0010|0040": "F",
    "0020|0010": "S1",
}
#: Rows and columns of an oblique stack: orthogonal, of length 1.
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)


def mask() -> np.ndarray:
    """No symmetry: every flip or swap of axes would be seen; the first slice is empty."""
    found = np.zeros((7, 6, 5), np.uint8)
    found[1:4, 2:6, 1:4] = 1
    found[5, 0, 4] = found[2, 3, 2] = 2
    return found


@pytest.mark.parametrize("directions", [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), OBLIQUE])
def test_the_segments_lie_where_the_mask_does(
    tmp_path: Path, write_series: Write, directions: tuple[float, ...]
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    series = write_series(
        tmp_path / "pt", scan(), spacing=(0.5, 0.75, 2), origin=(3, -4, 10), tags=TAGS,
        directions=directions,
    )  # fmt: skip
    affine = open_volume(series).affine
    write_dicom_seg(tmp_path / "seg.dcm", series, mask(), affine, NAMES, ("la", "0.1"))
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(k).segment_label for k in (1, 2)] == NAMES[1:]
    volume = seg.get_volume(combine_segments=True, rescale_fractional=False)
    # Each voxel of the object, at its place in mm (LPS), has the class of the mask there.
    indices = np.argwhere(volume.array > 0)
    places = (volume.affine @ np.c_[indices, np.ones(len(indices))].T).T[:, :3] * [-1, -1, 1]
    back = (np.linalg.inv(affine) @ np.c_[places, np.ones(len(places))].T).T[:, :3]
    np.testing.assert_allclose(back, np.rint(back), atol=1e-4)
    again = np.zeros_like(mask())
    again[tuple(np.rint(back).astype(int).T)] = volume.array[tuple(indices.T)]
    np.testing.assert_array_equal(again, mask())


def test_each_frame_refers_to_the_slice_it_lies_on(tmp_path: Path, write_series: Write) -> None:
    pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    pydicom = pytest.importorskip("pydicom")
    series = write_series(tmp_path / "pt", scan(), tags=TAGS)
    affine = open_volume(series).affine
    for name in ("one.dcm", "two.dcm"):
        write_dicom_seg(tmp_path / name, series, mask(), affine, NAMES, ("la", "0.1"))
    one, two = (pydicom.dcmread(tmp_path / name) for name in ("one.dcm", "two.dcm"))
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert (one.Modality, one.PatientID, one.StudyInstanceUID) == ("SEG", "P7", "1.2.826.1.1")
    assert one.FrameOfReferenceUID == "1.2.826.1.2"
    (referenced,) = one.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.826.1"
    places = {pydicom.dcmread(f).SOPInstanceUID: pydicom.dcmread(f) for f in dicom_files(series)}
    assert len(one.PerFrameFunctionalGroupsSequence) == 3 + 2  # slices of each class
    for frame in one.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        lies = frame.PlanePositionSequence[0].ImagePositionPatient
        assert lies == places[source.ReferencedSOPInstanceUID].ImagePositionPatient


def test_an_empty_mask_is_an_object_too(tmp_path: Path, write_series: Write) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    series = write_series(tmp_path / "pt", scan(), tags=TAGS)
    affine, empty = open_volume(series).affine, np.zeros_like(mask())
    write_dicom_seg(tmp_path / "seg.dcm", series, empty, affine, NAMES, ("la", "0.1"))
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert seg.number_of_segments == 2
    assert not seg.pixel_array.any()


def test_a_series_that_lacks_a_tag(tmp_path: Path, write_series: Write) -> None:
    pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    pydicom = pytest.importorskip("pydicom")
    series = write_series(tmp_path / "pt", scan(), tags=TAGS)
    for file in dicom_files(series):
        content = pydicom.dcmread(file)
        del content.FrameOfReferenceUID
        content.save_as(file)
    affine = open_volume(series).affine
    with pytest.raises(UnreadableError, match="Frame Of Reference UID") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", series, mask(), affine, NAMES, ("la", "0.1"))
    assert "leave out --dicom-seg" in caught.value.fix


def test_the_extra_is_named_where_it_is_absent(monkeypatch: Any) -> None:
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "mixseg\[dicom\]", in another environment'):
        require_highdicom()


def test_pydicom_of_monai_label_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: object())
    real = builtins.__import__

    def imported(name: str, *arguments: Any) -> Any:
        if name == "pydicom":
            return type("pydicom", (), {"__version__": "2.4.4"})
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", imported)
    with pytest.raises(ValueError, match=r"needs pydicom 3, and here is 2\.4\.4"):
        require_highdicom()
