from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixseg.data.datalist import Datalist, DatalistError, Entry
from mixseg.data.find import find_datalist
from mixseg.data.subset import select_cases, split_cases


def frames(patient: str, kind: str = "full", scribble: bool = True) -> list[dict[str, Any]]:
    """Two frames of a patient; no file needs to exist."""
    return [
        {
            "image": f"{patient}_{frame}.nii.gz",
            "supervision": kind,
            "case_id": f"{patient}_{frame}",
            "patient_id": patient,
        }
        | ({} if kind == "none" else {"label": f"{patient}_{frame}_gt.nii.gz"})
        | ({"scribble": f"{patient}_{frame}_drawn.nii.gz"} if scribble else {})
        for frame in (1, 2)
    ]


def built(*patients: list[dict[str, Any]]) -> Datalist:
    training = [entry for patient in patients for entry in patient]
    return Datalist.model_validate({"classes": ["background", "LV"], "training": training})


def kinds(cases: list[dict[str, Any]]) -> dict[str, str]:
    return {case["case_id"]: case["supervision"] for case in cases}


FIVE = built(*(frames(f"p{i}") for i in (4, 2, 9, 1, 7)))


def test_set_n_takes_whole_patients_in_the_order_of_training() -> None:
    cases = select_cases(FIVE, "/data", num_full=1, num_partial=2)
    assert list(kinds(cases).items()) == [
        ("p4_1", "full"),
        ("p4_2", "full"),
        ("p2_1", "partial"),
        ("p2_2", "partial"),
        ("p9_1", "partial"),
        ("p9_2", "partial"),
    ]
    assert cases[0] == {
        "image": "/data/p4_1.nii.gz",
        "label": "/data/p4_1_gt.nii.gz",
        "supervision": "full",
        "case_id": "p4_1",
        "patient_id": "p4",
        "erode": False,
    }
    assert cases[2]["label"] == "/data/p2_1_gt.nii.gz"
    assert cases[2]["erode"]


def test_order_is_that_of_a_patients_first_entry() -> None:
    one, two = frames("a"), frames("b")
    cases = select_cases(built([one[0]], two, [one[1]]), "/data", 1, 1)
    assert list(kinds(cases).items()) == [
        ("a_1", "full"),
        ("b_1", "partial"),
        ("b_2", "partial"),
        ("a_2", "full"),
    ]


def test_none_means_all() -> None:
    assert set(kinds(select_cases(FIVE, "/data")).values()) == {"full"}
    cases = select_cases(FIVE, "/data", num_full=2)
    assert [case["supervision"] for case in cases] == ["full"] * 4 + ["partial"] * 6
    assert kinds(select_cases(FIVE, "/data", 0, 1)) == {"p4_1": "partial", "p4_2": "partial"}
    assert kinds(select_cases(FIVE, "/data", 1, 0)) == {"p4_1": "full", "p4_2": "full"}


def test_drawn_scribbles_replace_the_masks_of_partial_cases_only() -> None:
    cases = select_cases(FIVE, "/data", 1, 1, weak_label="drawn")
    assert [case["label"] for case in cases] == [
        "/data/p4_1_gt.nii.gz",
        "/data/p4_2_gt.nii.gz",
        "/data/p2_1_drawn.nii.gz",
        "/data/p2_2_drawn.nii.gz",
    ]
    assert not any(case["erode"] for case in cases)


def test_drawn_names_the_cases_without_scribble() -> None:
    datalist = built(frames("a"), frames("b", scribble=False))
    with pytest.raises(ValueError, match=r"2 of the .* have no 'scribble' .*: b_1, b_2"):
        select_cases(datalist, "/data", 1, 1, weak_label="drawn")
    assert len(select_cases(datalist, "/data", 1, 0, weak_label="drawn")) == 2


def test_partial_patients_keep_their_label_and_never_count_as_full() -> None:
    datalist = built(frames("weak", "partial"), frames("mask"))
    cases = select_cases(datalist, "/data", num_full=1)
    assert kinds(cases) == {
        "weak_1": "partial",
        "weak_2": "partial",
        "mask_1": "full",
        "mask_2": "full",
    }
    assert cases[0]["label"] == "/data/weak_1_gt.nii.gz"
    assert not cases[0]["erode"]


def test_a_patient_with_one_partial_frame_is_partial_as_a_whole() -> None:
    full, weak = frames("p")[0], frames("p", "partial")[1]
    cases = select_cases(built([full, weak]), "/data")
    assert kinds(cases) == {"p_1": "partial", "p_2": "partial"}
    assert [case["erode"] for case in cases] == [True, False]


def test_noisy_and_unlabeled_cases_are_left_out() -> None:
    datalist = built(frames("n", "noisy"), frames("u", "none", scribble=False), frames("p"))
    assert kinds(select_cases(datalist, "/data", 1)) == {"p_1": "full", "p_2": "full"}


def test_a_frame_without_label_is_left_out_of_a_labeled_patient() -> None:
    full, without = frames("p")[0], frames("p", "none", scribble=False)[1]
    assert kinds(select_cases(built([full, without]), "/data")) == {"p_1": "full"}


def test_unlabeled_patients_follow_and_hand_out_no_label() -> None:
    """One full, none partial, the next two patients without labels; the last is dropped."""
    datalist = built(
        frames("a"), frames("u", "none", scribble=False), frames("b", "partial"), frames("c")
    )
    cases = select_cases(datalist, "/data", 1, 0, num_unlabeled=2)
    assert kinds(cases) == {
        "a_1": "full",
        "a_2": "full",
        "u_1": "none",
        "u_2": "none",
        "b_1": "none",
        "b_2": "none",
    }
    assert all(("label" in case) == (case["supervision"] == "full") for case in cases)
    every = select_cases(datalist, "/data", 1, 0, num_unlabeled=None)
    assert list(kinds(every).values()) == ["full"] * 2 + ["none"] * 6
    # Partial patients are taken first.
    mixed = kinds(select_cases(datalist, "/data", 1, 1, num_unlabeled=1))
    assert mixed["b_1"] == "partial"
    assert mixed["u_1"] == "none"
    assert "c_1" not in mixed


@pytest.mark.parametrize("counted", ["full", "partial"])
def test_noisy_cases_count_as_told(counted: Any) -> None:
    datalist = built(frames("n", "noisy"), frames("p"), frames("q"))
    cases = select_cases(datalist, "/data", 1, 0, noisy_as=counted)
    assert kinds(cases) == {"p_1": "full", "p_2": "full", "n_1": counted, "n_2": counted}
    proposed = cases[-1]
    assert (proposed["label"], proposed["erode"]) == ("/data/n_2_gt.nii.gz", False)
    alone = select_cases(built(frames("n", "noisy")), "/data", 0, 0, noisy_as=counted)
    assert set(kinds(alone).values()) == {counted}


def complete_of(cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {case["case_id"]: case.get("complete") for case in cases}


def test_complete_goes_along_with_partial_labels_and_eroded_masks() -> None:
    said = [entry | {"complete": True} for entry in frames("said", "partial", scribble=False)]
    unsaid = frames("unsaid", "partial", scribble=False)
    whole = [
        frames("whole")[0] | {"complete": True},  # of its scribble
        frames("whole")[1] | {"complete": False},
    ]
    datalist = built(said, unsaid, whole)
    partial = {"said_1": True, "said_2": True, "unsaid_1": None, "unsaid_2": None}
    # Erosion leaves a seed wherever there is a class; of drawn scribbles the datalist must say it.
    eroded = select_cases(datalist, "/data", 0, 3)
    assert complete_of(eroded) == partial | {"whole_1": True, "whole_2": True}
    drawn = select_cases(datalist, "/data", 0, 3, "drawn")
    assert complete_of(drawn) == partial | {"whole_1": True, "whole_2": None}
    # What is not used as partial has no seeds to speak of.
    full = select_cases(datalist, "/data", 1, 0)
    assert complete_of(full) == {"whole_1": None, "whole_2": None}
    unlabeled = select_cases(datalist, "/data", 1, 0, num_unlabeled=2)
    assert set(complete_of(unlabeled).values()) == {None}


def test_annotated_classes_go_along() -> None:
    entry = frames("p")[0] | {"annotated_classes": [1]}
    assert select_cases(built([entry]), "/data")[0]["annotated_classes"] == [1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_full": 6}, "num_full is 6, but the training split has 5 fully labeled patients"),
        ({"num_full": 3, "num_partial": 3}, "num_partial is 3, but only 2 of the 5 labeled"),
        ({"num_partial": 1}, "num_partial is 1, but only 0 of the 5 labeled"),
        ({"num_full": -1}, "num_full is -1; it counts patients and cannot be negative"),
        ({"num_partial": -2}, "num_partial is -2; it counts patients"),
        (
            {"num_full": 1, "num_partial": 2, "num_unlabeled": 3},
            "num_unlabeled is 3, but only 2 of the 5 training patients remain after 1 full and 2",
        ),
        ({"num_unlabeled": -1}, "num_unlabeled is -1; it counts patients"),
        (
            {"noisy_as": "none"},
            r"noisy_as is 'none'; use null or one of \['full', 'partial', 'noisy'\]",
        ),
        ({"num_full": 0, "num_partial": 0}, "num_full, num_partial and num_noisy are all 0"),
        ({"weak_label": "boxes"}, r"weak_label is 'boxes'; use one of \['erosion', 'drawn'\]"),
    ],
)
def test_impossible_numbers_say_what_is_there(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_cases(FIVE, "/data", **keys)


def test_no_labeled_case_at_all() -> None:
    with pytest.raises(ValueError, match="no case with a full or partial label"):
        select_cases(built(frames("u", "none", scribble=False)), "/data")


def test_split_cases_leave_out_the_labels_of_unlabeled_cases() -> None:
    raw = {
        "classes": ["background", "LV"],
        "validation": [*frames("a")[:1], frames("b", "none", scribble=False)[0]],
    }
    cases = split_cases(Datalist.model_validate(raw), "/data", "validation")
    assert [case.get("label") for case in cases] == ["/data/a_1_gt.nii.gz", None]
    assert "label" not in cases[1]
    assert split_cases(Datalist.model_validate(raw), "/data", "test") == []


@pytest.mark.realdata
@pytest.mark.parametrize("number", [3, 5, 10])
def test_set_n_of_the_real_folder_follows_split_json(acdc_dir: Path, number: int) -> None:
    train = json.loads((acdc_dir / "split.json").read_text())["train"]
    cases = select_cases(find_datalist(acdc_dir), acdc_dir, number, 5 * number)
    found = {
        kind: list(dict.fromkeys(c["patient_id"] for c in cases if c["supervision"] == kind))
        for kind in ("full", "partial")
    }
    assert found == {"full": train[:number], "partial": train[number : 6 * number]}
    assert len(cases) == 2 * 6 * number


def test_noisy_patients_come_after_the_partial_ones_and_before_those_without_labels() -> None:
    data = built(frames("a"), frames("b", "none"), frames("c"), frames("d"), frames("e"))
    cases = select_cases(data, "/data", 1, 1, num_noisy=1, num_unlabeled=None)
    assert kinds(cases) == {
        "a_1": "full",
        "a_2": "full",
        "b_1": "none",
        "b_2": "none",
        "c_1": "partial",
        "c_2": "partial",
        "d_1": "noisy",
        "d_2": "noisy",
        "e_1": "none",
        "e_2": "none",
    }
    distorted = [case for case in cases if case.get("distort")]
    assert [case["label"] for case in distorted] == ["/data/d_1_gt.nii.gz", "/data/d_2_gt.nii.gz"]
    assert not any(case["erode"] for case in distorted)


@pytest.mark.parametrize("count_as", ["full", "partial", "noisy"])
def test_noisy_masks_count_as_what_they_are_told_to(count_as: Any) -> None:
    data = built(frames("a"), frames("b"), frames("made", "noisy"))
    cases = select_cases(data, "/data", 1, 0, num_noisy=None, noisy_as=count_as)
    assert kinds(cases) == {
        "a_1": "full",
        "a_2": "full",
        "b_1": count_as,
        "b_2": count_as,
        "made_1": count_as,
        "made_2": count_as,
    }
    # Those on disk are wrong already.
    assert [case.get("distort", False) for case in cases] == [False] * 2 + [True] * 2 + [False] * 2


def test_noisy_patients_alone() -> None:
    cases = select_cases(FIVE, "/data", 0, 0, num_noisy=5)
    assert set(kinds(cases).values()) == {"noisy"}
    with pytest.raises(ValueError, match="num_full, num_partial and num_noisy are all 0"):
        select_cases(FIVE, "/data", 0, 0)
    with pytest.raises(
        ValueError, match=r"num_noisy is 4, but only 3 of the 5 .* after 1 full and 1 partial ones"
    ):
        select_cases(FIVE, "/data", 1, 1, num_noisy=4)
    with pytest.raises(ValueError, match=r"num_unlabeled is 3, .* 0 full, 1 partial and 3 noisy"):
        select_cases(FIVE, "/data", 0, 1, num_noisy=3, num_unlabeled=3)


def test_an_unknown_split_is_refused_with_those_that_there_are() -> None:
    datalist = Datalist(classes=["background", "heart"])
    datalist.validation.append(Entry(image="a.nii.gz", supervision="none", case_id="a"))
    with pytest.raises(
        DatalistError,
        match=r"no split 'tset', only training \(0 cases\), validation \(1 cases\), test \(0",
    ):
        split_cases(datalist, None, "tset")  # type: ignore[arg-type]
