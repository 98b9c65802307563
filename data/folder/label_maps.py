"""One label map of a case, whatever it is stored as: a file, segments, a file a structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mixseg.data.file_checks import INTERPOLATED
from mixseg.files.finding import find_images
from mixseg.files.geometry import AFFINE_TOLERANCE, place_on_grid
from mixseg.files.reading import Remark, UnreadableError, Volume, open_volume, voxels


@dataclass(frozen=True)
class LabelMap:
    """A label map in memory.

    Attributes:
        volume: its grid and values; integers where they are whole.
        names: where names decide the classes, those of the values 1, 2, … of ``volume``.
        reasons: why a copy must replace the file, apart from the values.
        remarks: what is odd about it.
    """

    volume: Volume
    names: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()


def structure_files(folder: Path) -> list[tuple[str, Path]]:
    """Name and file of each structure of a folder that holds a mask a structure."""
    found = [image for image in find_images(folder).images if not image.parents]
    return [(image.stem, image.path) for image in found]


def read_label_map(path: Path, image: Volume | None, threshold: float | None = None) -> LabelMap:
    """Read a label file, or a folder with a mask for each structure.

    Raises:
        UnreadableError: what cannot be used, with the file's name where ``path`` is a folder.
    """
    if path.is_dir():
        return _structures(path, image)
    volume = open_volume(path)
    if volume.segments:
        return _placed(_segments(volume), image)
    data, reasons = voxels(volume), []
    if not volume.opaque and not bool((data != data.flat[0]).any()):
        raise UnreadableError(
            "its mask is in the opacity, and all colors are alike",
            "store class indices as gray values",
        )
    if volume.channels > 1:
        if not bool((data == data[..., :1]).all()):
            raise UnreadableError(
                f"it is a color image of {volume.channels} channels",
                "store class indices in one channel",
            )
        data = data[..., 0]
        reasons.append(f"{volume.channels} equal channels→1")
    if threshold is not None:
        if not np.isfinite(data).all():
            raise UnreadableError("it has NaN or infinite voxels", "export it again")
        data = (data >= threshold).astype(np.uint8)
        reasons.append(f"threshold {threshold:g}")
    volume = replace(volume, data=data, channels=1)
    return LabelMap(volume, reasons=tuple(reasons), remarks=volume.remarks)


def _segments(volume: Volume) -> LabelMap:
    """Each segment's voxels by its own layer and value, numbered in the order of the segments."""
    layers = voxels(volume).reshape((*volume.shape, volume.channels))
    data = np.zeros(volume.shape, np.uint8 if len(volume.segments) < 255 else np.int32)
    covered = np.zeros(layers.shape, bool)
    twice = 0
    for number, segment in enumerate(volume.segments, start=1):
        layer = segment.layer if segment.layer < volume.channels else 0
        mask = layers[..., layer] == segment.value
        covered[..., layer] |= mask
        twice += int(np.count_nonzero(data[mask]))
        data[mask] = number
    left = layers[~covered]
    if left.any():
        value = int(left[left != 0][0])
        raise UnreadableError(
            f"it holds the value {value}, which is not one of its {len(volume.segments)} segments",
            "open it in 3D Slicer and save it again",
        )
    remarks = volume.remarks
    if twice:
        text = f"its segments overlap in {twice} voxels"
        remarks = (*remarks, Remark(text, "the later segment has these voxels"))
    names = tuple(segment.name for segment in volume.segments)
    volume = replace(volume, data=data, channels=1)
    return LabelMap(volume, names, ("segments by name",), remarks)


def _same_grid(one: Volume, other: Volume) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=AFFINE_TOLERANCE)


def _placed(label: LabelMap, image: Volume | None) -> LabelMap:
    """A segmentation that 3D Slicer cropped to its segments, on the image's grid."""
    volume = label.volume
    if image is None or volume.shape == image.shape:
        return label
    data = place_on_grid(voxels(volume), volume.affine, image.shape, image.affine)
    if data is None:
        return label  # the check of the grid says what is wrong
    volume = replace(volume, shape=image.shape, affine=image.affine, data=data)
    return replace(label, volume=volume, reasons=(*label.reasons, "cropped→whole grid"))


def _structures(folder: Path, image: Volume | None) -> LabelMap:
    """The masks of a folder in one map; where two overlap, the later has the voxels."""
    files = structure_files(folder)
    grid: Volume | None = None
    data = np.zeros(0, np.uint8)
    twice = 0
    for number, (_, path) in enumerate(files, start=1):
        try:
            volume = open_volume(path)
        except UnreadableError as error:
            raise UnreadableError(f"{path.name}: {error}", error.fix) from error
        mask = _binary(path, volume)
        if grid is None:
            grid = volume
            data = np.zeros(volume.shape, np.uint8 if len(files) < 255 else np.int32)
        elif not _same_grid(volume, grid):
            one, other = path.name, files[0][1].name
            if image is not None and _same_grid(volume, image):
                one, other = other, one
            raise UnreadableError(f"{one} has another grid than {other}", f"resample {one}")
        twice += int(np.count_nonzero(data[mask]))
        data[mask] = number
    assert grid is not None, "a folder without files is not a label"
    remarks: tuple[Remark, ...] = ()
    if twice:
        text = f"its structures overlap in {twice} voxels"
        remarks = (Remark(text, "the later one by name has these voxels"),)
    names = tuple(name for name, _ in files)
    return LabelMap(replace(grid, data=data, channels=1), names, ("one file a structure",), remarks)


def _binary(path: Path, volume: Volume) -> np.ndarray:
    data = voxels(volume)
    values: Sequence[float] = np.unique(data).tolist()
    if volume.channels > 1 or len(values) > 2 or (values[0] != 0 and len(values) > 1):
        listed = ", ".join(f"{value:g}" for value in values[:6])
        raise UnreadableError(
            f"{path.name} is not a mask of one structure: it holds the values {listed}",
            INTERPOLATED if any(v != round(v) for v in values) else "store 0 and 1 alone",
        )
    return data != 0
