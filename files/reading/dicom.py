"""A DICOM series as one volume, through ITK (GDCM)."""

from __future__ import annotations

import locale
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixseg.files.reading.suffixes import is_dicom
from mixseg.files.reading.volume import (
    DAMAGED,
    UnreadableError,
    Volume,
    checked_affine,
    checked_size,
    lps_to_ras,
)

#: Objects that lie beside images and are none.
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG")
#: Largest deviation of a gap between slices from the usual one, as a share of it.
_UNEVEN = 0.1
#: Least cosine between the directions of slices of one stack.
_PARALLEL = 0.999
_ONE_SERIES = "put each series into a folder of its own, and give that folder"


@dataclass(frozen=True)
class _Slice:
    """One slice: its series, where it lies (LPS, mm), and what its pixels are.

    A file holds one, or several as frames; ``frame`` is None for a file that is taken as a whole.
    """

    path: str
    frame: int | None
    series: str
    description: str
    shape: tuple[int, ...]
    spacing: np.ndarray
    origin: np.ndarray
    directions: np.ndarray
    floating: bool
    components: int

    @property
    def name(self) -> str:
        """How a fault names it."""
        name = Path(self.path).name
        return name if self.frame is None else f"frame {self.frame + 1} of {name}"


@contextmanager
def _same_locale() -> Iterator[None]:
    """Undo what GDCM does to the process: it sets the locale to C, and files are ASCII then."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@_same_locale()
def read_dicom(path: Path, voxels: bool) -> Volume:
    """Read the one series of a folder, or a file with all frames of a volume, or one slice.

    Slices and frames are ordered along their normal. Frames need the places that enhanced objects
    (CT, MR, PET and others) state for each, which pydicom reads. What the tags scale (rescale slope
    and intercept) is scaled.

    Raises:
        UnreadableError: no series, several (all are listed), missing or doubled slices, or frames
            without places.
    """
    slices = _series(path)
    first = slices[0]
    if first.components > 1:
        raise UnreadableError("its slices are in color", "give the scan, not its screenshots")
    if len(slices) > 1:
        step = (slices[-1].origin - first.origin) / (len(slices) - 1)
        shape = (*first.shape[:2], len(slices))
        vectors = np.column_stack([first.directions[:, :2] * first.spacing[:2], step])
    else:
        # One frame is a volume of one slice.
        shape = (*first.shape, 1)[:3]
        vectors = first.directions * first.spacing
    checked_size(shape, 4)
    affine = checked_affine(lps_to_ras(vectors, first.origin), 3)
    data = _pixels(slices, shape) if voxels else None
    return Volume(shape, affine, data)


@_same_locale()
def dicom_files(path: Path) -> list[Path]:
    """The files of the one series of a folder, in the order of the slices, or the file itself."""
    return list(dict.fromkeys(Path(one.path) for one in _series(path)))


def _series(path: Path) -> list[_Slice]:
    """The slices of the one series of a folder, or of a file, in their order."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if _counts(p))
    if not files:
        raise UnreadableError(
            "the folder holds no DICOM file", "give the folder that holds the slices themselves"
        )
    slices = [one for file in files if (found := _header(file)) for one in _frames(found)]
    if not slices:
        raise UnreadableError("its DICOM files hold no images", "give the folder of the scan")
    _refuse_several(slices)
    return _ordered(slices)


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file() and is_dicom(path)


def _header(path: Path) -> _Slice | None:
    """The tags of a file; None for objects that are not images."""
    import itk

    _check_lengths(path)
    itk.Object.SetGlobalWarningDisplay(False)
    reader = itk.GDCMImageIO.New(FileName=str(path))
    if not reader.CanReadFile(str(path)):
        if _modality(path) in _NO_IMAGES:
            return None
        raise UnreadableError(
            f"{path.name} is not a readable DICOM file",
            "copy it again, or take it out of the folder",
        )
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if _modality(path) in _NO_IMAGES:
            return None
        raise UnreadableError(f"{path.name} cannot be read as an image") from error
    tags = reader.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(tags[key]).strip(" \0") if tags.HasKey(key) else ""

    if tag("0008|0060") in _NO_IMAGES:
        return None
    dims = reader.GetNumberOfDimensions()
    described = " ".join(filter(None, (tag("0008|0060"), tag("0008|103e"))))
    spacing = np.array([reader.GetSpacing(axis) for axis in range(3)])
    directions = np.column_stack([np.array(reader.GetDirection(axis))[:3] for axis in range(3)])
    return _Slice(
        path=str(path),
        frame=None,
        series=tag("0020|000e"),
        description=described,
        shape=tuple(int(reader.GetDimensions(axis)) for axis in range(dims)),
        spacing=spacing,
        origin=np.array([reader.GetOrigin(axis) for axis in range(3)]),
        directions=directions,
        floating=reader.GetComponentType()
        in (itk.CommonEnums.IOComponent_FLOAT, itk.CommonEnums.IOComponent_DOUBLE),
        components=int(reader.GetNumberOfComponents()),
    )


def _frames(file: _Slice) -> list[_Slice]:
    """The frames of a file of several, each where it lies; else the file itself."""
    # Nuclear medicine states its slices in another way, which GDCM understands.
    if len(file.shape) < 3 or file.shape[2] == 1 or file.description.split()[:1] == ["NM"]:
        return [file]
    import pydicom  # slow to import; few files need it

    name = Path(file.path).name
    tags = pydicom.dcmread(file.path, stop_before_pixels=True)
    own = tags.get("PerFrameFunctionalGroupsSequence", [])
    shared = (tags.get("SharedFunctionalGroupsSequence") or [None])[0]

    def of(group: Any, sequence: str, key: str) -> Any:
        for place in (group, shared):
            found = place.get(sequence) if place is not None else None
            if found and key in found[0]:
                return found[0].get(key)
        return None

    frames, scales = [], set()
    for number, group in enumerate(own):
        origin = of(group, "PlanePositionSequence", "ImagePositionPatient")
        axes = of(group, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = of(group, "PixelMeasuresSequence", "PixelSpacing")
        if origin is None or axes is None or spacing is None:
            break
        x, y = np.array(axes[:3], float), np.array(axes[3:], float)
        thickness = of(group, "PixelMeasuresSequence", "SliceThickness") or 1
        transformation = "PixelValueTransformationSequence"
        scales.add(
            tuple(of(group, transformation, k) for k in ("RescaleSlope", "RescaleIntercept"))
        )
        frames.append(
            replace(
                file,
                frame=number,
                shape=file.shape[:2],
                spacing=np.array([spacing[1], spacing[0], thickness], float),
                origin=np.array(origin, float),
                directions=np.column_stack([x, y, np.cross(x, y)]),
            )
        )
    if len(frames) != file.shape[2]:
        raise UnreadableError(
            f"{name} holds {file.shape[2]} frames without places in space, such as a series in "
            "time",
            "store each frame as a file, or convert a volume to NIfTI from its source",
        )
    if len(scales) > 1:
        raise UnreadableError(
            f"the frames of {name} are scaled by {len(scales)} different slopes and intercepts",
            "convert it to NIfTI, for example with dcm2niix",
        )
    return frames


#: Value representations, those whose length takes four bytes first.
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_SHORT = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT"),
    *("PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
)
_UNDEFINED = 0xFFFFFFFF
#: Transfer syntaxes: without value representations; and those that this check leaves alone.
_IMPLICIT = "1.2.840.10008.1.2"
_OTHERS = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")


def _check_lengths(path: Path) -> None:
    """Refuse elements that are longer than the file, for which GDCM would take the memory."""
    content = path.read_bytes()
    place, size, syntax = 132, len(content), ""
    if content[128:132] != b"DICM":
        return
    while place + 8 <= size:
        group, element = struct.unpack_from("<HH", content, place)
        kind = content[place + 4 : place + 6].decode("latin-1")
        if group != 2 and syntax in _OTHERS:
            return
        if group != 2 and syntax == _IMPLICIT:
            (length,), place = struct.unpack_from("<I", content, place + 4), place + 8
        elif kind in _SHORT:
            (length,), place = struct.unpack_from("<H", content, place + 6), place + 8
        elif kind in _LONG and place + 12 <= size:
            (length,), place = struct.unpack_from("<I", content, place + 8), place + 12
        else:
            raise UnreadableError(f"the header of {path.name} is damaged", DAMAGED)
        if length == _UNDEFINED:  # sequences and compressed pixels, which GDCM reads part by part
            return
        if place + length > size:
            raise UnreadableError(f"{path.name} ends before its data do", DAMAGED)
        if (group, element) == (2, 0x10):
            syntax = content[place : place + length].decode("latin-1").strip("\0 ")
        place += length


def _modality(path: Path) -> str:
    """Modality of a file whose pixels GDCM does not know, from its first bytes."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    place = head.find(b"\x08\x00\x60\x00")
    return (
        head[place + 8 : place + 24]
        .split(b"\0")[0]
        .decode("ascii", "ignore")
        .strip("\x02\x04\x06\x08 CS")
        if place >= 0
        else ""
    )


def _refuse_several(slices: list[_Slice]) -> None:
    series: dict[str, list[_Slice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    if len(series) > 1:
        listed = "; ".join(
            f"{members[0].description or 'no description'}, {len(members)} files ({uid})"
            for uid, members in series.items()
        )
        raise UnreadableError(f"the folder holds {len(series)} series: {listed}", _ONE_SERIES)


def _ordered(slices: list[_Slice]) -> list[_Slice]:
    """The slices along their normal."""
    if len(slices) == 1:
        return slices
    first = slices[0]
    normal = np.cross(first.directions[:, 0], first.directions[:, 1])
    for one in slices[1:]:
        if one.shape != first.shape or not np.allclose(one.spacing[:2], first.spacing[:2]):
            raise UnreadableError(
                f"its slices differ in size: {one.name} has "
                f"{'×'.join(map(str, one.shape))} pixels, {Path(first.path).name} has "
                f"{'×'.join(map(str, first.shape))}",
                _ONE_SERIES,
            )
        cosines = (one.directions[:, :2] * first.directions[:, :2]).sum(axis=0)
        if (cosines < _PARALLEL).any():
            raise UnreadableError(f"its slices are not parallel ({one.name})", _ONE_SERIES)
    if any(len(one.shape) > 2 and one.shape[2] > 1 for one in slices):
        raise UnreadableError("it holds several files of several frames each", _ONE_SERIES)
    places = [float(one.origin @ normal) for one in slices]
    order = np.argsort(places, kind="stable")
    slices, sorted_places = [slices[i] for i in order], np.array(places)[order]
    gaps = np.diff(sorted_places)
    usual = float(np.median(gaps))
    twice = np.flatnonzero(gaps < 0.01 * max(usual, 1e-3))
    if len(twice) == len(slices) - 1:
        raise UnreadableError(
            f"all {len(slices)} slices have one position: their tags state none, or they are time "
            "points of one slice",
            "export the series again with its positions (ImagePositionPatient); of a series in "
            "time, give one frame",
        )
    if len(twice):
        one, two = slices[twice[0]], slices[twice[0] + 1]
        raise UnreadableError(
            f"{len(twice)} slices have the position of another slice, such as "
            f"{one.name} and {two.name}: several time points or echoes, or copies",
            "put each series, time point and echo into a folder of its own, without copies",
        )
    wide = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if len(wide):
        named = "; ".join(
            f"{gaps[i]:.4g} mm between {slices[i].name} and {slices[i + 1].name}" for i in wide[:3]
        )
        raise UnreadableError(
            f"slices are missing or uneven: {named}, where others are {usual:.4g} mm apart",
            "export the whole series again; if it was scanned so, resample it to even slices",
        )
    return slices


def _pixels(slices: list[_Slice], shape: tuple[int, ...]) -> np.ndarray:
    import itk

    if len(slices) == 1:
        return _frame(itk, slices[0].path).reshape(shape)
    files = {one.path for one in slices}
    # One file is read once; of many, each when its turn comes.
    whole = _frame(itk, slices[0].path) if len(files) == 1 else None
    # Slices with scales of their own (PET) differ in their type.
    data = np.empty(shape, np.float32 if any(one.floating for one in slices) else np.int32, "F")
    for place, one in enumerate(slices):
        array = _frame(itk, one.path) if whole is None else whole
        data[..., place] = array[..., one.frame or 0] if array.ndim == 3 else array
    low, high = data.min(), data.max()
    small = data.dtype == np.int32 and low >= -(1 << 15) and high < 1 << 15
    return data.astype(np.int16) if small else data


def _frame(itk: Any, path: str) -> np.ndarray:
    try:
        image = itk.imread(path)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnreadableError(f"{Path(path).name}: {''.join(lines[-1:])}") from error
    return np.asarray(itk.array_from_image(image)).transpose()
