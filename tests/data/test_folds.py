from __future__ import annotations

import pytest

from mixseg.data.datalist import Datalist, Entry
from mixseg.data.folds import fold_datalist, full_patients
from mixseg.data.subset import select_cases


def entry(name: str, kind: str, patient: str = "") -> Entry:
    label = None if kind == "none" else f"/data/{name}_label.nii.gz"
    return Entry(
        image=f"/data/{name}.nii.gz",
        label=label,
        supervision=kind,  # type: ignore[arg-type]
        case_id=name,
        patient_id=patient or name,
    )


@pytest.fixture
def datalist() -> Datalist:
    """Four patients with full masks, one of them with two frames and an unlabeled scan."""
    return Datalist(
        classes=["background", "a"],
        unlabeled=2,
        training=[
            entry("p1", "full"),
            entry("s1", "partial"),
            entry("p2_f1", "full", "p2"),
            entry("p2_f2", "full", "p2"),
            entry("p2_rest", "none", "p2"),
            entry("p3", "full"),
            entry("u1", "none"),
            entry("p4", "full"),
        ],
        validation=[entry("v1", "full")],
        test=[entry("t1", "full")],
    )


def names(entries: list[Entry]) -> list[str]:
    return [one.case_id for one in entries]


def test_patients_with_full_masks_come_in_order(datalist: Datalist) -> None:
    assert full_patients(datalist) == ["p1", "p2", "p3", "p4"]


def test_each_mask_is_tested_once_and_the_rest_trains(datalist: Datalist) -> None:
    folds = [fold_datalist(datalist, None, 2, index) for index in range(2)]
    assert [names(fold.test) for fold in folds] == [["p1", "p3"], ["p2_f1", "p2_f2", "p4"]]
    assert names(folds[0].training) == ["s1", "p2_f1", "p2_f2", "p2_rest", "u1", "p4"]
    # No scan of a tested patient trains, the unlabeled one included.
    assert names(folds[1].training) == ["p1", "s1", "p3", "u1"]
    assert [fold.validation for fold in folds] == [[], []]


def test_fewer_masks_can_take_part_and_the_others_stay_partial(datalist: Datalist) -> None:
    folds = [fold_datalist(datalist, None, 3, index, num_full=3) for index in range(3)]
    assert [names(fold.test) for fold in folds] == [["p1"], ["p2_f1", "p2_f2"], ["p3"]]
    for fold in folds:
        items = select_cases(fold, None, num_full=2, num_partial=2)
        assert sorted(i["case_id"] for i in items if i["supervision"] == "partial") == ["p4", "s1"]


@pytest.mark.parametrize(
    ("folds", "fold", "num_full", "problem"),
    [
        (1, 0, None, "give 4 folds"),
        (5, 0, None, "5 folds of 4 patients.*give 4 folds"),
        (2, 0, 3, "2 folds of 3 patients.*trains on 2 or more; give 3 folds"),
        (2, 0, 2, "annotate at least three patients in full"),
        (4, 4, None, "the folds 0 to 3"),
    ],
)
def test_what_cannot_be_folded(
    datalist: Datalist, folds: int, fold: int, num_full: int | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        fold_datalist(datalist, None, folds, fold, num_full)
