"""Contents of each case's files: geometry, intensities and the values of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from mixseg.data.file_checks import (
    Case,
    Fault,
    examine_grid,
    examine_image,
    is_smoothed,
    odd_value_fix,
    read_file,
)
from mixseg.data.folder.label_maps import read_label_map
from mixseg.data.folder.pairs import Faults, Pair, Stated
from mixseg.data.threads import in_threads
from mixseg.files.reading import UnreadableError, Volume, count_values, is_picture, voxels

#: A file with more values than this is taken for an image.
_MOST_VALUES = 255
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageFacts:
    """An image file.

    Attributes:
        shape: spatial sizes; axis 0 is x.
        channels: colors or components.
        spacing: mm of each spatial axis; None for pictures.
        low: least intensity.
        high: greatest intensity.
        mean: mean intensity.
        digest: equal for images that are equal voxel by voxel.
    """

    shape: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...] | None
    low: float
    high: float
    mean: float
    digest: str


@dataclass(frozen=True)
class LabelFacts:
    """A label file, or a folder with a mask a structure.

    Attributes:
        path: the file or folder.
        counts: voxels of each value, in rising order.
        dtype: how it is stored, where that is not an integer type; else an empty string.
        names: where names decide the classes, those of the values 1, 2, … of the file's label map.
        table: code of each value of the file's label map, where names decided it.
        reasons: why a copy must replace the file, apart from values and type.
    """

    path: Path
    counts: dict[int, int]
    dtype: str
    names: tuple[str, ...] = ()
    table: Mapping[int, int] | None = None
    reasons: tuple[str, ...] = ()


@dataclass
class PairFacts:
    """Contents of one case's files; None if missing or unusable."""

    pair: Pair
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    scribble: LabelFacts | None = None
    faults: Faults = field(default_factory=Faults)
    notes: list[Fault] = field(default_factory=list)

    @property
    def labels(self) -> list[tuple[LabelFacts, bool]]:
        """The label, if any, with False, then the scribble, if any, with True."""
        both = ((self.label, False), (self.scribble, True))
        return [(label, drawn) for label, drawn in both if label is not None]


def read_pairs(
    pairs: Sequence[Pair],
    progress: bool = False,
    threshold: float | None = None,
    stated: Stated = Stated(),  # noqa: B008  # frozen
) -> list[PairFacts]:
    """Open every file once, first its header, and collect what it holds and what is wrong."""
    return in_threads(
        lambda pair: _read_pair(pair, threshold, stated), pairs, "reading files", progress
    )


def _read_pair(pair: Pair, threshold: float | None, stated: Stated) -> PairFacts:
    facts = PairFacts(pair)
    add = facts.faults.append
    # The split is not known yet, and the case's id says no more than the file.
    channels = tuple(str(path) for path in pair.channels)
    case = Case("training", "", "", str(pair.image), channels=channels)
    image = read_file(case, case.image, "image", True, add)
    if image is not None and image.data is not None:
        examine_image(case, image, add)
        if not any(fault.level == "error" for fault in facts.faults):
            facts.image = _image_facts(pair.image, image, image.data)
    for role, limit in (("label", threshold), ("scribble", None)):
        path: Path | None = getattr(pair, role)
        found = _read_label(case, path, role, image, facts.faults, limit, stated)
        setattr(facts, role, found)
    facts.notes = [fault for fault in facts.faults if fault.level == "note"]
    facts.faults = Faults(fault for fault in facts.faults if fault.level == "error")
    return facts


def _image_facts(path: Path, image: Volume, data: np.ndarray) -> ImageFacts:
    flat = np.ascontiguousarray(data.ravel(order="K"))
    digest = hashlib.blake2b(str((data.shape, data.dtype.str)).encode(), digest_size=16)
    digest.update(flat.data)
    spacing = None
    if not is_picture(path):
        spacing = tuple(float(size) for size in voxel_sizes(image.affine)[: len(image.shape)])
    return ImageFacts(
        tuple(image.shape),
        image.channels,
        spacing,
        float(flat.min()),
        float(flat.max()),
        float(flat.mean(dtype=np.float64)),
        digest.hexdigest(),
    )


def _read_label(
    case: Case,
    path: Path | None,
    name: str,
    image: Volume | None,
    faults: Faults,
    threshold: float | None,
    stated: Stated,
) -> LabelFacts | None:
    if path is None:
        return None
    if path.suffix.lower() in _LOSSY and threshold is None:
        faults.add(
            path,
            f"the {name} is a JPEG file, whose values are not exact",
            "export it again as PNG, or give --threshold 128 if it is a mask of one class",
        )
        return None
    before = len(faults)
    try:
        label = read_label_map(path, image, threshold)
    except UnreadableError as reason:
        kind = "NIfTI" if path.name.lower().endswith((".nii", ".nii.gz")) else "label"
        faults.add(path, f"the {name} is not a readable {kind} file ({reason})", reason.fix)
        return None
    for remark in label.remarks:
        faults.add(path, remark.problem, remark.fix, "note")
    if image is not None:
        examine_grid(case, str(path), name, image, label.volume, faults.append)
    data = voxels(label.volume)
    counts, odd = count_values(data)
    known = set(stated.codes or range(len(stated.names or ())))
    if odd is not None:
        faults.add(
            path,
            f"the {name} ({data.dtype}) has values that are not whole numbers, such as {odd:g}",
            odd_value_fix(odd, float(data.max())),
        )
    elif label.names or set(counts) <= known | stated.unlabeled:
        pass  # somebody says that each value is a class
    elif is_smoothed({value: n for value, n in counts.items() if value not in stated.unlabeled}):
        faults.add(
            path,
            f"the {name} holds {len(counts)} gray levels between {min(counts)} and "
            f"{max(counts)}: it looks like a mask of one class that was smoothed or resized",
            f"give --threshold {max(counts) / 2:g}, or export it again with nearest neighbor; "
            "if each value is a class, name them all with --values or --classes",
        )
    elif len(counts) > _MOST_VALUES:
        faults.add(
            path,
            f"the {name} holds {len(counts)} different values: it looks like an image",
            "give the images first and the labels second; if it numbers the objects of one "
            "class, give --threshold 1",
        )
    if any(fault.level == "error" for fault in faults[before:]):
        return None
    whole = np.issubdtype(data.dtype, np.integer) or data.dtype == bool
    return LabelFacts(
        path, counts, "" if whole else str(data.dtype), label.names, None, label.reasons
    )
