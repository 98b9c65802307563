"""What the values of label files mean: classes, unlabelled voxels, or faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixseg.data.file_checks import Fault
from mixseg.data.folder.contents import LabelFacts, PairFacts
from mixseg.data.folder.pairs import Stated, file_fault

__all__ = ["ClassMap", "decide_classes", "unknown_values"]

#: Values that mean unlabelled where they are no class and nobody says otherwise.
_CUSTOMARY = (-1, 255)


@dataclass(frozen=True)
class ClassMap:
    """The meaning of every value.

    Attributes:
        names: of the C classes, background first.
        codes: value of each class in the files.
        unlabeled: values of unlabelled voxels in labels and scribbles.
        scribble_unlabeled: values of unlabelled voxels in scribbles alone, though they are classes
            in labels: 0 where only the foreground was drawn.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...]
    unlabeled: frozenset[int]
    scribble_unlabeled: frozenset[int] = frozenset()

    def indices(self, values: Iterable[int], scribble: bool = False) -> dict[int, int | None]:
        """Class of each value, C for unlabelled; None for a value that means nothing."""
        unlabeled = self.unlabeled | (self.scribble_unlabeled if scribble else frozenset())
        places = {code: index for index, code in enumerate(self.codes)}
        return {v: len(self.codes) if v in unlabeled else places.get(v) for v in values}


def decide_classes(
    facts: Sequence[PairFacts], stated: Stated, root: Path, faults: list[Fault]
) -> ClassMap | None:
    """The classes, as stated or as the values of all labels show them.

    Args:
        facts: the cases.
        stated: names, values and unlabelled value as far as somebody says them.
        root: what a fault of all labels together is put down to.
        faults: takes what makes the values ambiguous.

    Returns:
        None where the values cannot be told.

    Raises:
        ValueError: ``stated`` contradicts itself.
    """
    labels = [x for fact in facts for x in (fact.label, fact.scribble) if x is not None]
    totals: Counter[int] = Counter()
    for label in labels:
        totals.update(label.counts)
    drawn = any(fact.pair.scribble for fact in facts)
    if stated.unlabeled == 0 and not drawn:
        raise ValueError(
            "0 cannot be the unlabelled value of full masks, where it is background; put scribbles "
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
    extra = set() if stated.unlabeled is None else {stated.unlabeled}
    if codes is None:
        codes = _codes_from_values(labels, extra, root, faults)
        if codes is None:
            return None
    if names is None:
        names = ("background", *(f"class{i}" for i in range(1, len(codes))))
    if not 2 <= len(names) <= 255:
        raise ValueError(f"{len(names)} classes; 2 to 255 are possible, background included")
    if stated.unlabeled in codes and stated.unlabeled != 0:
        raise ValueError(f"{stated.unlabeled} is the value of a class and cannot be unlabelled")
    grey = _proposal(totals, codes)
    if grey is not None and stated.unlabeled is None:
        faults.append(
            file_fault(
                root,
                f"the labels hold {_listed(sorted(totals))}, and no voxel of a class but "
                f"background '{names[0]}': they look like grey levels",
                f'if each is a class, give --values "{grey}"; if one is unlabelled, --unlabeled',
            )
        )
        return None
    plain = codes == tuple(range(len(codes)))
    customary = {v for v in (*_CUSTOMARY, *([len(codes)] if plain else [])) if v not in codes}
    zero = frozenset({0} if stated.unlabeled == 0 else ())
    return ClassMap(names, codes, frozenset(customary | (extra - zero)), zero)


def unknown_values(label: LabelFacts, classes: ClassMap, scribble: bool) -> Fault | None:
    """The fault of a label with values that are neither a class nor unlabelled."""
    table = classes.indices(label.counts, scribble)
    unknown = [value for value, index in table.items() if index is None]
    if not unknown:
        return None
    named = ", ".join(f"{c} {n}" for c, n in zip(classes.codes, classes.names, strict=True))
    grey = len(label.counts) == len(classes.names) and min(label.counts) == 0
    mend = (
        f'if each value is a class, give --values "{_joined(sorted(label.counts))}"'
        if grey
        else "mend the label, or name all the classes with --classes (and their values with "
        "--values where these are not 0, 1, 2, …)"
    )
    return file_fault(
        label.path,
        f"label values {unknown} are no class ({named}) and not unlabelled "
        f"({_listed(sorted(classes.unlabeled))})",
        mend,
    )


def _codes_from_values(
    labels: Sequence[LabelFacts], unlabeled: set[int], root: Path, faults: list[Fault]
) -> tuple[int, ...] | None:
    """0…C−1 where the values are just that; else a fault that says what to state."""
    present = {value for label in labels for value in label.counts}
    values = sorted(v for v in present if v not in unlabeled - {0} and v != -1)
    # 255 is foreground in a map of two values, and unlabelled beside classes 0, 1, …
    inner = [v for v in values if v != 255]
    if len(inner) > 1 and inner == list(range(len(inner))):
        values = inner
    if values == [0] or not values:
        faults.append(
            file_fault(root, "no label holds a foreground class", "name them with --classes")
        )
        return None
    if values != list(range(len(values))):
        proposed = values if values[0] == 0 else [0, *values]
        faults.append(
            file_fault(
                root,
                f"the labels hold the values {_listed(values)}, which are not 0, 1, 2, … in a row",
                f'say which value is which class, background first: --values "{_joined(proposed)}"',
            )
        )
        return None
    top = values[-1]
    holders = [label for label in labels if top in label.counts]
    share = sum(x.counts[top] for x in holders) / sum(sum(x.counts.values()) for x in holders)
    if not unlabeled and len(values) > 2 and share > 0.5:
        faults.append(
            file_fault(
                holders[0].path,
                f"the value {top} fills {100 * share:.0f} % of the {len(holders)} files that hold "
                "it, which looks like 'unlabelled' rather than a class",
                f"if it is, give --unlabeled {top}; if it is a class, name the classes with "
                "--classes",
            )
        )
        return None
    return tuple(values)


def _proposal(totals: Mapping[int, int], codes: Sequence[int]) -> str | None:
    """The values to propose where labels hold background and 255 alone: 255 is foreground then."""
    present = sorted(totals)
    foreground = [v for v in present if v in codes[1:]]
    if foreground or 255 not in present or 255 in codes:
        return None
    return _joined(present)


def _listed(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:12])
    return shown + (", …" if len(values) > 12 else "")


def _joined(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
