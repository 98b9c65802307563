"""White blood cells (Zheng et al., Micron 2018): layouts, and masks that hold gray levels."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Literal

from mixseg.data.collections.base import (
    TEST_SHARE,
    VALIDATION_SHARE,
    Collection,
    Prepared,
    listed_faults,
    save_datalist,
    split_entries,
    split_sizes,
)
from mixseg.data.datalist import DATALIST_NAME, Datalist, DatalistError
from mixseg.data.folder.inspection import FolderOptions, inspect_folder
from mixseg.data.folder.writing import write_folder
from mixseg.files.reading import PICTURE_SUFFIXES

WBC_CLASSES = ("background", "cytoplasm", "nucleus")
#: Gray level of each class in the masks as they are published.
WBC_VALUES = (0, 128, 255)

_PICTURE = re.compile(r"^(?P<stem>\d+)\.bmp$", re.I)
_MASK = re.compile(r"^(?P<stem>\d+)\.png$", re.I)
_PREPARED = re.compile(r"^\d+(?:" + "|".join(map(re.escape, PICTURE_SUFFIXES)) + r")$", re.I)
#: Folder of the pictures in the published collection, which has a second one of another kind.
_FIRST = "Dataset 1"


class WhiteBloodCells(Collection):
    """Color pictures of single white blood cells."""

    name = "wbc"
    title = "white blood cells"
    hint = (
        "For white blood cells, as downloaded:   mixseg prepare wbc <folder with 001.bmp> {folder}"
    )

    def datalist(self, source: Path, seed: int = 0) -> Datalist | None:
        """:func:`prepare_wbc`."""
        return None if wbc_layout(source) is None else prepare_wbc(source)

    def prepare(
        self,
        source: Path,
        output: Path | None = None,
        *,
        seed: int | None = None,
        overwrite: bool = False,
        quiet: bool = False,
    ) -> Prepared:
        """Split the white blood cells (80/5/15) and convert their masks of 0, 128 and 255.

        128 is the cytoplasm and 255 the nucleus. Your files stay as they are: masks are copied.

        Examples:

          mixseg prepare wbc "segmentation_WBC/Dataset 1"

          mixseg prepare wbc segmentation_WBC wbc --seed 1

        Args:
            source: Folder with 001.bmp and its mask 001.png, or with image/, label/, split.json.
            output: Folder for converted masks and the datalist; default: SOURCE.
            seed: Seed of the split of SOURCE's 001.bmp … (default: 0).
            overwrite: Overwrite an existing datalist.
            quiet: No progress bar.
        """
        path = (source if output is None else output) / DATALIST_NAME
        if wbc_layout(source) == "official":
            datalist = convert_wbc(
                source, path.parent, seed=seed or 0, overwrite=overwrite, progress=not quiet
            )
            return Prepared(datalist, source, (path,))
        datalist = prepare_wbc(source)
        if seed is not None:
            raise DatalistError(f"--seed: '{source}' is split already (image/, label/, split.json)")
        return Prepared(datalist, source, (save_datalist(datalist, path, overwrite),))


def wbc_layout(source: str | os.PathLike[str]) -> Literal["official", "folders"] | None:
    """The layout of the white blood cells in a folder.

    Returns:
        ``"folders"`` for ``image/``, ``label/`` and ``split.json`` with numbered pictures,
        ``"official"`` for ``001.bmp`` beside its mask ``001.png``, in the folder or below it in
        ``Dataset 1``, None for neither.
    """
    source = Path(source)
    if (source / "split.json").is_file() and (source / "image").is_dir():
        found = any(_PREPARED.match(path.name) for path in (source / "image").iterdir())
        return "folders" if found else None
    return None if _picture_folder(source) is None else "official"


def prepare_wbc(source: str | os.PathLike[str]) -> Datalist:
    """Build the datalist of masks that hold 0, 1 and 2; nothing is written, copied or opened.

    Every picture is a patient of its own: which patient a cell is of is not published.

    Args:
        source: folder with ``image/NNN.png``, ``label/NNN.png`` and ``split.json`` (ordered lists
            ``train``, ``val`` and ``test`` of names).

    Returns:
        Datalist with the classes background, cytoplasm and nucleus, paths relative to ``source``
        and ``base_dir`` set to it.

    Raises:
        DatalistError: another layout, or files that ``split.json`` names and that are missing.
    """
    source = _checked(source)
    if wbc_layout(source) == "official":
        raise DatalistError(
            f"'{source}' holds white blood cells as downloaded, whose masks are 0, 128 and 255, "
            "but labels are 0, 1 and 2. This converts copies of the masks and splits the "
            f"pictures: mixseg prepare wbc '{source}'"
        )
    parts = split_entries(source, "WBC", PICTURE_SUFFIXES)
    datalist = Datalist(classes=list(WBC_CLASSES), unlabeled=len(WBC_CLASSES), **parts)
    return datalist.with_base_dir(source)


def convert_wbc(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Datalist:
    """Convert the masks of the official layout, split the pictures and write their datalist.

    The pictures ``NNN.bmp`` lie beside their masks ``NNN.png``, in ``source`` or in ``Dataset 1``
    below it; the files stay as they are. ``output`` receives ``converted_labels/NNN.png``, which
    hold 0, 1 and 2 for 0, 128 and 255, and ``datalist.json``. Pictures are split 80/5/15 (in
    proportion for other numbers), seeded; identical ones stay in one split, with a warning.

    Args:
        source: the folder.
        output: folder of the copies and the datalist; None for ``source``.
        seed: of the split.
        overwrite: overwrite an existing datalist.
        progress: show progress bars on standard error.

    Returns:
        The datalist, with ``base_dir`` set to ``output``.

    Raises:
        DatalistError: another layout; fewer than three pictures; pictures or masks that are
            missing, or else that are unreadable, of different sizes or with other values, all
            listed, and then nothing is written; a datalist is there and ``overwrite`` is False.
        OSError: ``output`` cannot be written to.
    """
    source = _checked(source)
    folder = _picture_folder(source)
    if folder is None:
        raise DatalistError(
            f"'{source}' is converted and split already (image/, label/, split.json)"
        )
    path = (source if output is None else Path(output)) / DATALIST_NAME
    if path.exists() and not overwrite:
        raise DatalistError(f"'{path}' exists; give --overwrite to replace it")
    _check_pairs(folder)
    report = inspect_folder(folder, _options(seed), progress)
    try:
        report.check()
    except DatalistError as error:
        raise DatalistError(
            f"{error}\nfix the files; options named here are those of mixseg prepare folder"
        ) from error
    for note in report.notes:
        warnings.warn(note, stacklevel=2)
    return write_folder(report, path, progress)


def _options(seed: int) -> FolderOptions:
    validation, test = 100 * VALIDATION_SHARE, 100 * TEST_SHARE
    return FolderOptions(
        classes=WBC_CLASSES,
        values=WBC_VALUES,
        split=f"{100 - validation - test:g}/{validation:g}/{test:g}",
        seed=seed,
    )


def _checked(source: str | os.PathLike[str]) -> Path:
    """The folder, absolute."""
    folder = Path(source).resolve()
    if not folder.is_dir():
        raise DatalistError(f"'{folder}' is not a folder: give the one with 001.bmp and 001.png")
    if wbc_layout(folder) is None:
        raise DatalistError(
            f"no white blood cells found in '{folder}': expected pictures 001.bmp, 002.bmp, … with "
            f"masks 001.png, 002.png, … (also under '{_FIRST}/'), or image/, label/ and split.json"
        )
    return folder


def _picture_folder(source: Path) -> Path | None:
    """Where the pictures of the official layout are: at least one has its mask beside it."""
    for folder in (source, source / _FIRST):
        if _numbered(folder, _PICTURE) & _numbered(folder, _MASK):
            return folder
    return None


def _check_pairs(folder: Path) -> None:
    """Refuse pictures without a mask, and masks, which look like pictures, without one."""
    pictures, masks = (_numbered(folder, pattern) for pattern in (_PICTURE, _MASK))
    faults = [
        f"{folder / stem}.png, the mask of {stem}.bmp, is missing" for stem in pictures - masks
    ]
    faults += [
        f"{folder / stem}.bmp, of the mask {stem}.png, is missing" for stem in masks - pictures
    ]
    if faults:
        raise DatalistError(listed_faults(f"the WBC folder '{folder}'", sorted(faults)))
    split_sizes(len(pictures), "pictures")


def _numbered(folder: Path, pattern: re.Pattern[str]) -> set[str]:
    """Names, without suffix, of the files in a folder that have such a name."""
    found = (pattern.match(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
    return {match["stem"] for match in found if match is not None}
