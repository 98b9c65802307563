"""Base of data collections, and their common parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixseg.data.datalist import SPLITS, Datalist, DatalistError, Entry, Split
from mixseg.files.documents import read_json

#: Shares for validation and test: 5 and 15 of 100 (the papers' 80/5/15).
VALIDATION_SHARE = 0.05
TEST_SHARE = 0.15

NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Prepared:
    """Result of :meth:`Collection.prepare`.

    Attributes:
        datalist: the cases.
        folder: where their files are.
        written: files that were written, the datalist last.
    """

    datalist: Datalist
    folder: Path
    written: tuple[Path, ...]


class Collection(ABC):
    """A public data set: how its folders are recognized, and how it is prepared.

    A package makes one known by an entry point of the group ``mixseg.collections``, whose name is
    that of the collection and whose value is the class.

    Attributes:
        name: ``mixseg prepare NAME`` prepares it.
        title: what tables call it.
        hint: what to do with a download of it, for the message where no datalist is found;
            ``{folder}`` stands for the data set's folder.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    hint: ClassVar[str]

    @abstractmethod
    def datalist(self, source: Path, seed: int = 0) -> Datalist | None:
        """The datalist of a folder that can be used without preparation; None for any other folder.

        Args:
            source: the folder.
            seed: of the split, where the folder does not name one.

        Raises:
            DatalistError: the folder is the collection's, and cannot be used.
        """

    #: The command ``mixseg prepare NAME``: takes the folder and returns :class:`Prepared`. Its
    #: positional parameters are the command's arguments, keyword-only ones its options; an entry
    #: under ``Args:`` is a parameter's help, what stands before it that of the command.
    prepare: Callable[..., Prepared]

    def instead_of_folder(self, source: Path) -> bool:
        """Whether ``mixseg prepare folder`` hands the folder over to :meth:`prepare`.

        It gives ``output``, ``seed`` and ``overwrite``, and calls :meth:`datalist` for a dry run.

        Raises:
            DatalistError: the folder is the collection's, and needs a command of its own.
        """
        return False

    def leaves_out(self, name: str) -> bool:
        """Whether to leave out a file of this name, such as a mask beside its image."""
        return False


def split_sizes(count: int, unit: str = "patients") -> tuple[int, int, int]:
    """Numbers of training, validation and test patients (or scans): 80/5/15 of 100, in proportion.

    Raises:
        DatalistError: fewer than 3, which cannot fill three splits.
    """
    if count < 3:
        raise DatalistError(f"{count} {unit} cannot fill three splits; at least 3 are needed")
    validation = max(1, round(VALIDATION_SHARE * count))
    test = max(1, round(TEST_SHARE * count))
    return count - validation - test, validation, test


def read_split_file(path: Path) -> dict[str, list[str]]:
    """The ordered lists ``train``, ``val`` and ``test`` of a split.json.

    Raises:
        DatalistError: the file cannot be read, or a list is missing.
    """
    try:
        splits = read_json(path)
    except ValueError as error:
        raise DatalistError(str(error)) from error
    if not isinstance(splits, dict) or not all(
        isinstance(splits.get(key), list) for key in ("train", "val", "test")
    ):
        raise DatalistError(f"{path} needs the lists 'train', 'val' and 'test'")
    return {key: [str(name) for name in splits[key]] for key in ("train", "val", "test")}


def find_file(folder: Path, stem: str, suffixes: Sequence[str] = NIFTI_SUFFIXES) -> Path | None:
    """``folder/stem`` with the first of these suffixes that there is, or None."""
    return next((p for s in suffixes if (p := folder / (stem + s)).is_file()), None)


def split_entries(source: Path, name: str, suffixes: Sequence[str]) -> dict[Split, list[Entry]]:
    """The cases of a folder with ``image/<id>``, ``label/<id>`` and ``split.json``; none is opened.

    Args:
        source: the folder; ``split.json`` names the ids of each split, in their order.
        name: of the collection, for the message.
        suffixes: of the files, the usual one first.

    Returns:
        Fully labeled cases, each a patient of its own, with paths relative to ``source``.

    Raises:
        DatalistError: files that ``split.json`` names and that are missing, all listed.
    """
    splits = read_split_file(source / "split.json")
    faults: list[str] = []
    parts: dict[Split, list[Entry]] = {}
    for split, key in zip(SPLITS, ("train", "val", "test"), strict=True):
        parts[split] = []
        for case_id in splits[key]:
            image, label = (
                find_file(source / kind, case_id, suffixes) for kind in ("image", "label")
            )
            for kind, file in (("image", image), ("label", label)):
                if file is None:
                    faults.append(f"{source / kind / case_id}{suffixes[0]}, of '{key}', is missing")
            if image is not None and label is not None:
                parts[split].append(
                    Entry(
                        image=image.relative_to(source).as_posix(),
                        label=label.relative_to(source).as_posix(),
                        supervision="full",
                        case_id=case_id,
                    )
                )
    if faults:
        raise DatalistError(listed_faults(f"the {name} folder '{source}'", faults))
    return parts


def listed_faults(place: str, faults: Sequence[str]) -> str:
    """The faults of ``place``, one a line."""
    count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
    return f"{count} in {place}:\n" + "\n".join(f"  {fault}" for fault in faults)


def save_datalist(datalist: Datalist, path: Path, overwrite: bool) -> Path:
    """Write a datalist of files that lie elsewhere.

    Raises:
        DatalistError: the file exists, and ``overwrite`` is not given.
    """
    if path.exists() and not overwrite:
        raise DatalistError(f"'{path}' exists; give --overwrite to replace it")
    datalist.relative_to(path.parent).save(path)
    return path
