"""The datalist: one JSON that names every case, its files, its split and its supervision."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from mixseg.files.atomic import write_text_atomic
from mixseg.files.documents import read_json
from mixseg.files.reading import UnreadableError, count_values, open_volume, voxels

Supervision = Literal["full", "partial", "noisy", "none"]
Split = Literal["training", "validation", "test"]

SPLITS: tuple[Split, ...] = ("training", "validation", "test")
DATALIST_NAME = "datalist.json"


class DatalistError(ValueError):
    """A datalist or the files that it names cannot be used; the message lists every fault."""


class Entry(BaseModel):
    """One case of a datalist.

    Attributes:
        image: file of the scan (NIfTI, NRRD, MHA, or a picture such as PNG), relative to the
            dataset folder or absolute.
        channels: further files of the image, one each of its other channels, on the same grid. A
            list in the place of ``image`` is the image and these.
        label: label map of the same grid; absent for ``none`` (and for ``partial`` cases
            that have only a scribble).
        scribble: hand-drawn label map, used instead of ``label`` when the case is used as partial.
        supervision: what the label promises; where absent it is read from the label's values
            (any unlabeled voxel: ``partial``, else ``full``; no label: ``none``).
        case_id: unique name of the case.
        patient_id: patient the case belongs to; cases of one patient stay together in every
            split. Defaults to ``case_id``.
        annotated_classes: foreground classes that the annotator looked for; absent means all.
        complete: of a partial label or a scribble: every slice that holds a class bears a seed of
            it, so that slices without one are background
            (:func:`~mixseg.transforms.free_negatives.free_negatives`); absent means not known.
        groups: groups that the case belongs to, kind → group, such as a phase or a disease; the
            report of an evaluation scores each of them.
    """

    model_config = ConfigDict(extra="forbid", str_min_length=1)

    image: str
    channels: list[str] | None = None
    label: str | None = None
    scribble: str | None = None
    supervision: Supervision | None = None
    case_id: str
    patient_id: str = ""
    annotated_classes: list[int] | None = None
    complete: bool | None = None
    groups: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_metadata_like_keys(cls, values: Any) -> Any:
        # Said before pydantic's own "extra keys" message, which would hide the reason.
        if isinstance(values, dict):
            bad = sorted(k for k in values if str(k).startswith(("image_", "label_")))
            if bad:
                raise ValueError(
                    f"keys {bad} are refused: MONAI's Spacingd takes every key that begins with "
                    "'image_' or 'label_' for a metadata dictionary and fails on it; use names "
                    "such as 'case_id' and 'supervision'"
                )
        return values

    @model_validator(mode="before")
    @classmethod
    def _split_channels(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("image"), list) and values["image"]:
            first, *others = values["image"]
            if others and values.get("channels"):
                raise ValueError("give the channels in 'image' or in 'channels', not in both")
            return {**values, "image": first, **({"channels": others} if others else {})}
        return values

    @property
    def image_files(self) -> list[str]:
        """The files of the image, one or one a channel."""
        return [self.image, *(self.channels or ())]

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        if not self.patient_id:
            self.patient_id = self.case_id
        if self.supervision in ("full", "noisy") and self.label is None:
            raise ValueError(f"supervision '{self.supervision}' needs a 'label'")
        if self.supervision == "partial" and self.label is None and self.scribble is None:
            raise ValueError("supervision 'partial' needs a 'label' or a 'scribble'")
        if self.supervision is None and self.label is None:
            self.supervision = "none" if self.scribble is None else "partial"
        # A full mask may have a scribble beside it, which is used when the case counts as partial.
        drawn = self.supervision == "full" and self.scribble is not None
        if self.complete and self.supervision not in ("partial", None) and not drawn:
            raise ValueError(
                f"'complete' is about the seeds of a partially labeled case, but supervision is "
                f"'{self.supervision}'; remove 'complete' or declare supervision 'partial'"
            )
        return self


class Datalist(BaseModel):
    """Classes, the unlabeled value and the cases of the three splits.

    Attributes:
        classes: names of the classes, background first; a label map holds their indices.
        unlabeled: value of unlabeled voxels in the files; defaults to ``len(classes)``. Another
            value outside the classes (255, -1) may be declared.
        training: cases in the order that Set-N follows.
        validation: cases for model selection.
        test: cases scored once per finished run.
    """

    model_config = ConfigDict(extra="forbid")

    classes: list[str] = Field(min_length=2)
    unlabeled: int
    training: list[Entry] = Field(default_factory=list)
    validation: list[Entry] = Field(default_factory=list)
    test: list[Entry] = Field(default_factory=list)

    _base_dir: Path | None = PrivateAttr(default=None)
    _dataset_dir: Path | None = PrivateAttr(default=None)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if fault := names_fault(value):
            raise ValueError(f"{fault}: rename these classes")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_unlabeled(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("classes"), list):
            return {"unlabeled": len(values["classes"]), **values}
        return values

    @model_validator(mode="after")
    def _check_values(self) -> Datalist:
        count = len(self.classes)
        if 0 <= self.unlabeled < count:
            raise ValueError(
                f"'unlabeled' is {self.unlabeled}, which is the class "
                f"'{self.classes[self.unlabeled]}'; use {count} or another value outside "
                f"0..{count - 1}"
            )
        for _, entry in self.items():
            bad = [c for c in entry.annotated_classes or [] if not 1 <= c < count]
            if bad:
                raise ValueError(
                    f"case '{entry.case_id}': annotated_classes {bad} are outside the foreground "
                    f"classes 1..{count - 1}: remove them"
                )
        return self

    @property
    def base_dir(self) -> Path | None:
        """Folder that relative paths start from, where known (the JSON's folder)."""
        return self._base_dir

    def with_dataset_dir(self, folder: str | os.PathLike[str]) -> Datalist:
        """A copy whose relative paths are looked for in ``folder`` before :attr:`base_dir`."""
        copy = self.model_copy(deep=True)
        copy._dataset_dir = Path(folder).resolve()
        return copy

    def with_base_dir(self, folder: str | os.PathLike[str]) -> Datalist:
        """A copy whose relative paths start from ``folder``."""
        copy = self.model_copy(deep=True)
        copy._base_dir, copy._dataset_dir = Path(folder).resolve(), None
        return copy

    def items(self) -> Iterable[tuple[Split, Entry]]:
        """Every entry with its split, in file order."""
        for split in SPLITS:
            for entry in getattr(self, split):
                yield split, entry

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Datalist:
        """Read a datalist.

        Raises:
            DatalistError: the file is missing, is not JSON, or does not follow the schema; the
                message names the file and lists every fault with its place.
        """
        path = Path(path)
        try:
            raw = read_json(path)
        except ValueError as error:
            raise DatalistError(
                f"{error}: give a datalist.json, which 'mixseg prepare' writes"
            ) from error
        try:
            datalist = cls.model_validate(raw)
        except ValidationError as error:
            raise DatalistError(_explain(path, error)) from error
        datalist._base_dir = path.resolve().parent
        return datalist

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the datalist as JSON, atomically: a reader sees the old file or the new one.

        Keys keep the schema's order and absent values are left out, so that equal datalists are
        equal files.

        Raises:
            OSError: the folder cannot be written to.
        """
        text = json.dumps(self.model_dump(exclude_none=True), indent=1, ensure_ascii=False) + "\n"
        write_text_atomic(path, text)

    def resolve(self, dataset_dir: str | os.PathLike[str] | None = None) -> Datalist:
        """A copy with absolute paths.

        A relative path is looked for in ``dataset_dir`` (None for that of
        :meth:`with_dataset_dir`) and then in the folder of the datalist; where neither holds the
        file, the first of the two is named (the validator reports it).

        Raises:
            DatalistError: relative paths, and neither folder is known.
        """
        first = Path(dataset_dir).resolve() if dataset_dir else self._dataset_dir
        folders = [] if first is None else [first]
        if self._base_dir is not None and self._base_dir not in folders:
            folders.append(self._base_dir)
        return self._with_paths(lambda path: _absolute(path, folders))

    def relative_to(self, folder: str | os.PathLike[str]) -> Datalist:
        """A copy for a datalist file in ``folder``: paths below it relative, others absolute."""
        folder = Path(folder).resolve()
        copy = self.resolve()._with_paths(lambda path: _relative(path, folder))
        return copy.with_base_dir(folder)

    def _with_paths(self, change: Callable[[str], str]) -> Datalist:
        """A copy with other paths."""
        copy = self.model_copy(deep=True)
        for _, entry in copy.items():
            entry.image = change(entry.image)
            if entry.channels is not None:
                entry.channels = [change(path) for path in entry.channels]
            entry.label = None if entry.label is None else change(entry.label)
            entry.scribble = None if entry.scribble is None else change(entry.scribble)
        return copy


def names_fault(names: Sequence[str]) -> str:
    """What is wrong with the names of classes; empty where nothing is."""
    if len(set(names)) != len(names):
        return f"class names repeat: {list(names)}"
    if blank := [name for name in names if not name.strip() or not name.isprintable()]:
        return f"class names {blank} are blank or hold characters that cannot be printed"
    # Names come to stand in configurations, where such text is run or replaced.
    if marked := [n for n in names if n.startswith(("$", "@", "%")) or "#" in n or "::" in n]:
        return (
            f"class names {marked} begin with a sign that MONAI's configurations give a meaning "
            "($ @ %), or hold one (# ::)"
        )
    return ""


def supervision_of(entry: Entry, unlabeled: int) -> Supervision:
    """The entry's supervision; where it is not declared, read from the values of its label.

    Raises:
        DatalistError: the label must be read and cannot be.
    """
    if entry.supervision is not None:
        return entry.supervision
    try:
        values = voxels(open_volume(str(entry.label)))
    except UnreadableError as error:
        raise DatalistError(
            f"case '{entry.case_id}': cannot read {entry.label} to find its supervision "
            f"({error}); declare 'supervision' or fix the file"
        ) from error
    return "partial" if unlabeled in count_values(values)[0] else "full"


def data_hash(datalist: Datalist, dataset_dir: str | os.PathLike[str] | None = None) -> str:
    """SHA-256 of what a run was given, as a hexadecimal string.

    Hashed are the classes, the unlabeled value and, sorted by split and case id, each entry's
    split, case id, patient id, supervision, the size in bytes of each of its files (-1 where
    missing), whether it is complete, and its annotated classes. Paths do not enter, so that moving
    a data set keeps its hash; nor do voxel values, so that hashing costs no reading. The sizes of
    compressed files move with nearly any edit.
    """
    rows: list[list[Any]] = []
    for split, entry in datalist.resolve(dataset_dir).items():
        files = [entry.image, entry.label, entry.scribble]
        sizes = [None if f is None else _size(Path(f)) for f in files]
        row: list[Any] = [split, entry.case_id, entry.patient_id, entry.supervision, *sizes]
        # Only where it is said, so that the hashes of other datalists stay what they were.
        row += [_size(Path(path)) for path in entry.channels or ()]
        row += ["complete"] if entry.complete else []
        row += [] if entry.annotated_classes is None else [sorted(entry.annotated_classes)]
        rows.append(row)
    rows.sort(key=lambda row: (row[0], row[1]))
    content = json.dumps([datalist.classes, datalist.unlabeled, rows], separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def _absolute(path: str, folders: list[Path]) -> str:
    """The first existing ``folder / path``, or the first candidate where none exists."""
    if Path(path).is_absolute():
        return path
    if not folders:
        raise DatalistError(f"'{path}' is relative and no dataset_dir is given")
    candidates = [folder / path for folder in folders]
    return str(next((c for c in candidates if os.path.exists(c)), candidates[0]))


def _relative(path: str, folder: Path) -> str:
    """The path from ``folder`` on, or the path itself where it lies elsewhere."""
    # As it is written first: a link below the folder to data elsewhere is a path below it.
    for candidate in (Path(os.path.abspath(path)), Path(path).resolve()):
        if candidate.is_relative_to(folder):
            return candidate.relative_to(folder).as_posix()
    return path


def _size(path: Path) -> int:
    if path.is_dir():  # a DICOM series
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.is_file() else -1


def _explain(path: Path, error: ValidationError) -> str:
    """Pydantic's faults as lines that name the place in the file."""
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "top level"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = (Datalist if len(fault["loc"]) == 1 else Entry).model_fields
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            message = f"unknown key; is '{near[0]}' meant?" if near else "unknown key; remove it"
        elif fault["type"] == "missing":
            message = "it is missing; add it"
        elif fault["type"] == "model_type":
            message = "it is not an object of keys and values"
        lines.append(f"  {place}: {message}")
    return f"{path} does not follow the datalist schema:\n" + "\n".join(lines)
