"""Meaning of the values in label files: classes, unlabeled voxels, or faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixseg.data.datalist import names_fault
from mixseg.data.file_checks import listed
from mixseg.data.folder.contents import LabelFacts, PairFacts
from mixseg.data.folder.pairs import Faults, Stated

#: Values by which many tools mean unlabeled. They are never taken so unless somebody says it.
_CUSTOMARY = (-1, 255)
#: Labels of more values that are not in a row may be smoothed masks.
_MANY = 8


@dataclass(frozen=True)
class ClassMap:
    """The meaning of every value.

    Attributes:
        names: of the C classes, background first.
        codes: value of each class in the files.
        unlabeled: values of unlabeled voxels in labels and scribbles.
        scribble_unlabeled: values of unlabeled voxels in scribbles alone, though they are classes
            in labels: 0 where only the foreground was drawn.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...]
    unlabeled: frozenset[int]
    scribble_unlabeled: frozenset[int] = frozenset()

    def indices(self, values: Iterable[int], scribble: bool = False) -> dict[int, int | None]:
        """Class of each value, C for unlabeled; None for a value that means nothing."""
        unlabeled = self.unlabeled | (self.scribble_unlabeled if scribble else frozenset())
        places = {code: index for index, code in enumerate(self.codes)}
        return {v: len(self.codes) if v in unlabeled else places.get(v) for v in values}

    def check_values(self, label: LabelFacts, scribble: bool, faults: Faults) -> None:
        """Note values of a label that are neither a class nor unlabeled."""
        table = self.indices(label.counts, scribble)
        unknown = [value for value, index in table.items() if index is None]
        if not unknown:
            return
        named = ", ".join(f"{c} {n}" for c, n in zip(self.codes, self.names, strict=True))
        stated = sorted(self.unlabeled | (self.scribble_unlabeled if scribble else frozenset()))
        unlabeled = f"unlabeled ({listed(stated)})" if stated else "declared unlabeled"
        faults.add(
            label.path,
            f"label values [{listed(unknown)}] are not a class ({named}) and not {unlabeled}",
            _unknown_fix(label, unknown, self, stated),
        )


def decide_classes(
    facts: Sequence[PairFacts], stated: Stated, root: Path, faults: Faults
) -> ClassMap | None:
    """The classes, as stated or as the values of all labels show them.

    Args:
        facts: the cases. Labels that name their classes get the common numbers.
        stated: names, values and unlabeled values as far as somebody says them; these win.
        root: what a fault of all labels together is put down to.
        faults: takes what makes the values ambiguous.

    Returns:
        None where the values cannot be told.

    Raises:
        ValueError: ``stated`` contradicts itself.
    """
    stated = _number_names(facts, stated, faults)
    labels = _labels(facts)
    drawn = any(fact.pair.scribble for fact in facts)
    if 0 in stated.unlabeled and not drawn:
        raise ValueError(
            "0 cannot be the unlabeled value of full masks, where it is background; put scribbles "
            "that leave untouched voxels 0 into a folder of their own and give --scribbles FOLDER"
        )
    names, codes = stated.names, stated.codes
    if codes is not None and len(set(codes)) < len(codes):
        raise ValueError(f"--values names a value twice: {list(codes)}")
    if names is not None and codes is not None and len(names) != len(codes):
        raise ValueError(
            f"--classes names {len(names)} classes and --values {len(codes)} values; give one "
            "value for each class"
        )
    if codes is None and names is not None:
        codes = tuple(range(len(names)))
    if codes is None:
        given = [
            x for fact in facts for x in (fact.pair.label, fact.pair.scribble) if x is not None
        ]
        lost = len(given) > len(labels) or (faults and not given)
        if lost and not any(set(label.counts) - {0} for label in labels):
            return None  # the others have faults of their own
        codes = _codes_from_values(labels, stated.unlabeled, root, faults)
        if codes is None:
            return None
    if names is None:
        names = ("background", *(f"class{i}" for i in range(1, len(codes))))
    if not 2 <= len(names) <= 255:
        raise ValueError(f"{len(names)} classes; 2 to 255 are possible, background included")
    if odd := names_fault(names):
        faults.add(root, odd, "rename the classes, segments or files")
        return None
    if both := sorted((stated.unlabeled & set(codes)) - {0}):
        raise ValueError(f"{both[0]} is the value of a class and cannot be unlabeled")
    present = sorted({value for label in labels for value in label.counts} - stated.unlabeled)
    if 255 in present and 255 not in codes and not set(present) & set(codes[1:]):
        faults.add(
            root,
            f"the labels hold {listed(present)}, and no voxel of a class but background "
            f"'{names[0]}': they look like gray levels",
            f'if each is a class, give --values "{_joined(present)}"; if one means unlabeled, '
            "--unlabeled",
        )
        return None
    zero = frozenset({0} & stated.unlabeled)
    return ClassMap(names, codes, stated.unlabeled - zero, zero)


def _number_names(facts: Sequence[PairFacts], stated: Stated, faults: Faults) -> Stated:
    """Give the classes of labels that name them one number in all files.

    3D Slicer numbers the segments of a file in their order, which differs from file to file; a
    folder with a mask a structure has no numbers at all. The labels of ``facts`` are replaced:
    their counts are of the common numbers then, and ``table`` says which value of a file has which.

    Returns:
        ``stated`` with the names that the files give, background first, where it had none.
    """
    named = [label for label in _labels(facts) if label.names]
    if not named:
        return stated
    known = list(stated.names or ())
    if not known:
        first = {"background": "background"}
        for name in (name for label in named for name in label.names):
            first.setdefault(name.casefold(), name)
        known = list(first.values())
        if len(known) > 2:  # of one class there is no order
            for plain in (label for label in _labels(facts) if not label.names):
                if values := [v for v in plain.counts if v not in {0, *stated.unlabeled}]:
                    faults.add(
                        plain.path,
                        f"it has no names for its values {listed(values)}, as "
                        f"'{named[0].path.name}' has",
                        "save it with its segments' names, or say what the values 0, 1, 2, … mean: "
                        f'--classes "{",".join(known)}" in the order of these values',
                    )
    codes = stated.codes or tuple(range(len(known)))
    code_of = {name.casefold(): code for name, code in zip(known, codes, strict=False)}
    # Where a segment is the background, scribbles leave the rest untouched.
    numbered = (v for label in _labels(facts) if not label.names for v in label.counts)
    untouched = max(*codes, *numbered) + 1
    unlabeled = stated.unlabeled
    for fact in facts:
        for role in ("label", "scribble"):
            label: LabelFacts | None = getattr(fact, role)
            if label is None or not label.names:
                continue
            strange = [n for n in label.names if n.casefold() not in code_of]
            for name in strange:
                faults.add(
                    label.path,
                    f"its segment '{name}' is not one of the classes ({', '.join(known)})",
                    "rename the segment, or name all the classes with --classes",
                )
            if strange:
                setattr(fact, role, None)
                continue
            drawn = any(code_of[name.casefold()] == codes[0] for name in label.names)
            if drawn and role == "label" and label.counts.get(0):
                faults.add(
                    label.path,
                    f"it has a segment for '{known[0]}', and {label.counts[0]:,} voxels in no "
                    "segment",
                    f"if these are '{known[0]}' too, remove that segment; if they are "
                    "unlabeled, move the file to a folder of scribbles and give --scribbles",
                )
                setattr(fact, role, None)
                continue
            table = {0: untouched if drawn else codes[0]}
            unlabeled |= {untouched} if drawn else set()
            table |= {i: code_of[n.casefold()] for i, n in enumerate(label.names, start=1)}
            counts: Counter[int] = Counter()
            for value, number in label.counts.items():
                counts[table[value]] += number
            setattr(fact, role, replace(label, counts=dict(sorted(counts.items())), table=table))
    return Stated(tuple(known), tuple(codes), unlabeled)


def _labels(facts: Sequence[PairFacts]) -> list[LabelFacts]:
    return [label for fact in facts for label, _ in fact.labels]


def _unknown_fix(
    label: LabelFacts, unknown: Sequence[int], classes: ClassMap, stated: Sequence[int]
) -> str:
    """What helps against values that are neither a class nor unlabeled."""
    present = sorted(label.counts)
    customary = [v for v in unknown if v in _CUSTOMARY or v == len(classes.names)]
    if len(classes.names) == 2 and present in ([0, 255], [255]):
        return (
            "this file seems to have its foreground as 255, others as "
            f"{classes.codes[1]}: if so, give --threshold 1"
        )
    if customary and len(customary) == len(unknown):
        given = _joined([*stated, *unknown])
        return f"if that means unlabeled, give --unlabeled {given}; else name it with --classes"
    if len(present) == len(classes.names) and present[0] == 0:
        return (
            f'if each value is a class, give --values "{_joined(present)}" where all files hold '
            "these values; where this one numbers the classes otherwise, store it as the others are"
        )
    return (
        "correct the label, or name all the classes with --classes (and their values with "
        "--values where these are not 0, 1, 2, …)"
    )


def _codes_from_values(
    labels: Sequence[LabelFacts], unlabeled: frozenset[int], root: Path, faults: Faults
) -> tuple[int, ...] | None:
    """0…C−1 where the values are just that; else faults that say what to state."""
    present = {value for label in labels for value in label.counts}
    values = sorted(present - (unlabeled - {0}))
    if values == [0] or not values:
        faults.add(root, "no label holds a foreground class", "name them with --classes")
        return None
    if values != list(range(len(values))):
        _note_odd_values(labels, values, unlabeled, root, faults)
        return None
    top = values[-1]
    holders = [label for label in labels if top in label.counts]
    share = sum(x.counts[top] for x in holders) / sum(sum(x.counts.values()) for x in holders)
    if not unlabeled and len(values) > 2 and share > 0.5:
        faults.add(
            holders[0].path,
            f"the value {top} fills {100 * share:.0f} % of the {len(holders)} files that hold "
            "it, which looks like 'unlabeled' rather than a class",
            f"if it is, give --unlabeled {top}; if it is a class, name the classes with --classes",
        )
        return None
    return tuple(values)


def _note_odd_values(
    labels: Sequence[LabelFacts],
    values: Sequence[int],
    unlabeled: frozenset[int],
    root: Path,
    faults: Faults,
) -> None:
    """Say what helps against values that are not 0, 1, 2, … in a row."""
    foregrounds: dict[int, list[LabelFacts]] = {}
    for label in labels:
        own = [v for v in label.counts if v != 0 and v not in unlabeled]
        if len(own) > 1:
            break
        for value in own:
            foregrounds.setdefault(value, []).append(label)
    else:
        if len(foregrounds) > 1:
            kinds = "; ".join(f"{v} in {_files(found)}" for v, found in sorted(foregrounds.items()))
            stray = [value for value in _CUSTOMARY if value in foregrounds]
            means = f"; if {stray[0]} means unlabeled, --unlabeled {stray[0]}" if stray else ""
            faults.add(
                root,
                f"each label has one foreground, of the value {kinds}",
                "if these mean the same class, give --threshold 1; if they are several, "
                f'--values "{_joined([0, *sorted(foregrounds)])}"{means}',
            )
            return
    # The longest run 0, 1, 2, … counts as the classes that are meant.
    run = next(i for i in range(len(values) + 1) if i not in values)
    strange = [v for v in values if v >= run or v < 0]
    # Background first, whose value is 0 wherever it occurs.
    every = _joined([0, *(v for v in values if v != 0)])
    if run > 1 and all(v in _CUSTOMARY for v in strange):
        classes = ", ".join(str(v) for v in range(run))
        given = _joined(sorted(unlabeled | set(strange)))
        for label in labels:
            for value in (value for value in strange if value in label.counts):
                fix = (
                    f"if it means unlabeled, give --unlabeled {given}; if it is a class, give "
                    f'--values "{every}"'
                )
                if sorted(label.counts) == [0, value]:
                    fix = (
                        f"the file holds 0 and {value} alone: if {value} is its foreground, as in "
                        "a picture, store it as a class index; if it means unlabeled, give "
                        f"--unlabeled {given}"
                    )
                faults.add(label.path, f"the value {value} is not one of {classes} in a row", fix)
        return
    holders = [label for label in labels if set(label.counts) & set(strange)]
    where = otherwise = smoothed = ""
    if run > 1 and len(holders) < len(labels):
        where = f"; {listed(strange)} in {_files(holders)}"
        otherwise = "; files that number the classes otherwise than the others must be converted"
    if len(values) > _MANY:
        smoothed = (
            "; if they are gray levels of a smoothed mask of one class, give --threshold "
            f"{max(values) / 2:g} alone"
        )
    faults.add(
        root,
        f"the labels hold the values {listed(values)}, which are not 0, 1, 2, … in a row{where}",
        f'give the value of each class, background first: --values "{every}"; a value that '
        f"means unlabeled goes to --unlabeled instead{smoothed}{otherwise}",
    )


def _files(labels: Sequence[LabelFacts]) -> str:
    names = ", ".join(label.path.name for label in labels[:3])
    more = ", …" if len(labels) > 3 else ""
    return f"{len(labels)} file{'' if len(labels) == 1 else 's'} ({names}{more})"


def _joined(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
