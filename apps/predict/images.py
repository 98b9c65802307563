"""The images to predict: which there are, and what each is called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixseg.data.find import search_images
from mixseg.files.reading import is_dicom


class CaseError(Exception):
    """One image that cannot be predicted; the others can.

    Attributes:
        kind: ``unreadable``, ``truncated``, ``wrong dimension``, ``not finite`` or ``failed``.
        problem: what is wrong with it.
        fix: what to do about it.
    """

    def __init__(self, kind: str, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.kind = kind
        self.problem = problem
        self.fix = fix


_CHANNEL = re.compile(r"^(?P<case>.+)_\d{4}\.[^_]+$")


@dataclass(frozen=True)
class InputCase:
    """An image, its case's name, and the folder below the output folder that its files go to.

    ``channels`` are further files of the image, one each of its other channels.
    """

    image: Path
    case_id: str
    folder: Path = Path()
    channels: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The image's file, or its files."""
        return (self.image, *self.channels)

    @property
    def stamp(self) -> dict[str, int]:
        """Size and time of change, which tell whether a file is the one that was read; else empty.

        Of a DICOM series, and of several files, these are the sum of the sizes and the last change.
        """
        try:
            files = [file for i in self.files for file in (i.iterdir() if i.is_dir() else [i])]
            stats = [file.stat() for file in files]
        except OSError:
            return {}
        return {
            "input_bytes": sum(stat.st_size for stat in stats),
            "input_mtime_ns": max((stat.st_mtime_ns for stat in stats), default=0),
        }

    @property
    def source(self) -> str | list[str]:
        """What the reader opens."""
        return [str(path) for path in self.files] if self.channels else str(self.image)


def find_cases(
    sources: Sequence[Path], output: Path, channels: int, *, only_dicom: bool
) -> tuple[list[InputCase], list[str]]:
    """The images at and below several places, each a case of a name of its own.

    Args:
        channels: that an image has; files that hold one each are joined.
        only_dicom: refuse images that a DICOM SEG cannot refer to.

    Returns:
        The cases, and a sentence for each kind of file that is left out.

    Raises:
        ValueError: there is none, the masks would lie among the images, or one is no DICOM.
    """
    found = [search_cases(source, output) for source in sources]
    cases = place_cases([case for listed, _ in found for case in listed])
    images = [case.image for case in cases if only_dicom]
    others = [image for image in images if not (image.is_dir() or is_dicom(image))]
    if others:
        named = ", ".join(f"'{path}'" for path in others[:3])
        raise ValueError(
            f"--dicom-seg needs DICOM scans, but {len(others)} of {len(cases)} images are not "
            f"({named}{', …' if len(others) > 3 else ''}): give folders of DICOM series alone, or "
            "leave out --dicom-seg"
        )
    left_out = [sentence for _, sentences in found for sentence in sentences]
    return join_channels(cases, channels), left_out


def search_cases(source: Path, output: Path) -> tuple[list[InputCase], list[str]]:
    """The image at ``source``, or all images below it except those below ``output``.

    Returns:
        The cases, and a sentence for each kind of file that is left out.

    Raises:
        ValueError: there is none, or the masks would lie among the images.
    """
    if not source.exists():
        raise ValueError(f"there is no '{source}': give an image or a folder of images with -i")
    target = output.resolve()
    if source.is_dir() and source.resolve() == target:
        raise ValueError(
            f"'{output}' is the folder of the images: masks there would count as images the next "
            "time; give another -o, for example a folder in it"
        )
    try:
        found = search_images(source)
    except FileNotFoundError as error:
        what = str(error).removesuffix(": set --dataset_dir")
        raise ValueError(f"{what}: give an image or a folder of images with -i") from error
    cases = [InputCase(Path(item["image"]), item["case_id"]) for item in found.images]
    cases = [c for c in cases if target not in c.image.resolve().parents or source.is_file()]
    if not cases:
        raise ValueError(f"all images below '{source}' are in the output folder '{output}'")
    return cases, found.left_out


def place_cases(cases: Sequence[InputCase]) -> list[InputCase]:
    """The cases, each in its image's folder where one name occurs in several folders.

    So the masks of a folder per patient with equal file names lie in a folder per patient.
    """
    names = {case.case_id.lower() for case in cases}
    if len(names) == len(cases):
        return list(cases)
    root = Path(os.path.commonpath([case.image.parent.absolute() for case in cases]))
    placed = []
    for case in cases:
        folder = case.image.parent.absolute().relative_to(root)
        name = "_".join((*folder.parts, case.case_id))
        placed.append(replace(case, folder=folder, case_id=name))
    return placed


def join_channels(cases: Sequence[InputCase], channels: int) -> list[InputCase]:
    """The cases, with files named as nnU-Net names channels (``a_0000``, ``a_0001``) as one.

    Args:
        channels: that the bundle takes; files are joined where each case has that many.
    """
    groups: dict[tuple[Path, str], list[InputCase]] = {}
    for case in cases:
        match = _CHANNEL.match(case.image.name)
        if match is None:
            return list(cases)
        groups.setdefault((case.image.parent, match["case"]), []).append(case)
    if channels < 2 or any(len(group) != channels for group in groups.values()):
        return list(cases)
    return [
        replace(first, case_id=name, channels=tuple(case.image for case in others))
        for (_, name), (first, *others) in groups.items()
    ]


def root_cause(error: BaseException) -> BaseException:
    """The first of the errors that were raised from one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
