from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mixseg.data.datalist import Datalist, DatalistError, Entry, data_hash, supervision_of
from mixseg.data.find import find_datalist


def as_datalist(**splits: Any) -> Datalist:
    return Datalist.model_validate({"classes": ["background", "LV"], **splits})


def test_defaults_follow_the_label_convention() -> None:
    datalist = as_datalist(training=[{"image": "a.nii.gz", "case_id": "a"}])
    assert datalist.unlabeled == 2  # C classes: C is unlabeled
    entry = datalist.training[0]
    assert (entry.patient_id, entry.supervision) == ("a", "none")


@pytest.mark.parametrize("key", ["image_id", "image_path", "label_type"])
def test_keys_that_break_spacingd_are_refused_with_the_reason(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}.*Spacingd takes every key that begins"):
        Entry.model_validate({"image": "a", "case_id": "a", key: "x"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "a", "case_id": "a", "supervision": "full"}, "'full' needs a 'label'"),
        ({"image": "a", "case_id": "a", "supervision": "noisy"}, "'noisy' needs a 'label'"),
        ({"image": "a", "case_id": "a", "supervision": "partial"}, "a 'label' or a 'scribble'"),
        ({"image": "a", "label": "b", "case_id": "a", "supervision": "weak"}, "'full', 'partial'"),
        ({"image": "a"}, "case_id"),
    ],
)
def test_entries_that_promise_what_they_lack(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Entry.model_validate(entry)


def test_unlabeled_must_not_be_a_class() -> None:
    with pytest.raises(ValidationError, match="'unlabeled' is 1, which is the class 'LV'"):
        as_datalist(unlabeled=1)
    assert as_datalist(unlabeled=255).unlabeled == 255
    assert as_datalist(unlabeled=-1).unlabeled == -1


@pytest.mark.parametrize("wrong", [0, 2])
def test_annotated_classes_are_foreground_classes(wrong: int) -> None:
    entry = {"image": "a", "case_id": "c7", "annotated_classes": [1, wrong]}
    with pytest.raises(ValidationError, match=rf"'c7': annotated_classes \[{wrong}\] are outside"):
        as_datalist(training=[entry])


@pytest.mark.parametrize(
    "entry",
    [
        {"supervision": "full", "label": "b"},
        {"supervision": "noisy", "label": "b"},
        {"supervision": "noisy", "label": "b", "scribble": "s"},
        {"supervision": "none"},
        {"supervision": "none", "scribble": "s"},
        {},
    ],
)
def test_complete_is_refused_where_nothing_is_partially_labeled(entry: dict[str, Any]) -> None:
    entry = {"image": "a", "case_id": "c7", **entry}
    kind = entry.get("supervision", "none")
    message = f"'complete' is about the seeds .*'{kind}'; remove 'complete' or declare"
    with pytest.raises(ValidationError, match=message):
        as_datalist(training=[entry | {"complete": True}])
    for harmless in (False, None):
        assert not as_datalist(training=[entry | {"complete": harmless}]).training[0].complete


@pytest.mark.parametrize(
    "entry",
    [
        {"supervision": "partial", "label": "b"},
        {"supervision": "full", "label": "b", "scribble": "s"},
        {"scribble": "s"},
        {"label": "b"},  # what it is, its values say
    ],
)
def test_complete_survives_saving(entry: dict[str, Any], tmp_path: Path) -> None:
    entry = {"image": "a", "case_id": "c7", "complete": True, **entry}
    as_datalist(training=[entry]).save(tmp_path / "datalist.json")
    assert Datalist.load(tmp_path / "datalist.json").training[0].complete is True


def test_saved_and_loaded_datalists_are_equal_and_stable(tmp_path: Path) -> None:
    entry = {"image": "a", "label": "b", "supervision": "full", "case_id": "Ä1"}
    datalist = as_datalist(training=[entry], unlabeled=255)
    path = tmp_path / "deep" / "datalist.json"
    datalist.save(path)
    first = path.read_bytes()
    loaded = Datalist.load(path)
    assert loaded.model_dump() == datalist.model_dump()
    assert loaded.base_dir == path.parent
    loaded.save(path)
    assert path.read_bytes() == first
    assert json.loads(first)["training"] == [entry | {"patient_id": "Ä1"}]
    assert [p.name for p in path.parent.iterdir()] == ["datalist.json"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "datalist.json"
    as_datalist().save(path)
    before = path.read_bytes()

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        as_datalist(unlabeled=255).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["datalist.json"]


def test_schema_faults_are_listed_together_with_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    entries = [{"image": "a", "case_id": "a", "color": "red"}, {"image": "b"}]
    path.write_text(json.dumps({"classes": ["background", "LV"], "training": entries}))
    with pytest.raises(DatalistError) as caught:
        Datalist.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "training.0.color: unknown key" in message
    assert "training.1.case_id: it is missing" in message


def test_broken_and_missing_json_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    with pytest.raises(DatalistError, match=r"d\.json cannot be read"):
        Datalist.load(path)
    path.write_text('{"classes": [}')
    with pytest.raises(DatalistError, match=r"d\.json is not valid JSON: .*\(line 1, column 14\)"):
        Datalist.load(path)


def test_relative_paths_prefer_dataset_dir_then_the_datalists_folder(tmp_path: Path) -> None:
    for folder, names in (("data", "ab"), ("lists", "bc")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    entries = [{"image": name, "case_id": name} for name in "abcd"]
    path = tmp_path / "lists" / "d.json"
    as_datalist(training=[*entries, {"image": "/x/e", "case_id": "e"}]).save(path)
    resolved = Datalist.load(path).resolve(tmp_path / "data")
    found = [entry.image for entry in resolved.training]
    where = ("data/a", "data/b", "lists/c", "data/d")
    assert found == [*(str(tmp_path / w) for w in where), "/x/e"]
    assert Datalist.load(path).resolve().training[1].image == str(tmp_path / "lists/b")
    with pytest.raises(DatalistError, match="'a' is relative and no dataset_dir is given"):
        as_datalist(training=entries).resolve()


def test_relative_to_keeps_what_lies_elsewhere_absolute(tmp_path: Path) -> None:
    entry = {"image": "in/a", "label": "/elsewhere/b", "case_id": "a"}
    moved = as_datalist(training=[entry]).with_base_dir(tmp_path).relative_to(tmp_path / "in")
    assert (moved.training[0].image, moved.training[0].label) == ("a", "/elsewhere/b")
    other = as_datalist(training=[entry]).with_base_dir(tmp_path).relative_to(tmp_path / "out")
    assert other.training[0].image == str(tmp_path / "in/a")


def test_supervision_is_read_from_the_labels_values(tmp_path: Path, make_case: Any) -> None:
    partial = np.full((6, 5, 3), 2, dtype=np.uint8)
    entries = [
        make_case("full", supervision=None),
        make_case("partial", label=partial, supervision=None),
        make_case("declared", label=partial, supervision="noisy"),
    ]
    datalist = as_datalist(training=entries).with_base_dir(tmp_path).resolve()
    kinds = [supervision_of(entry, datalist.unlabeled) for entry in datalist.training]
    assert kinds == ["full", "partial", "noisy"]
    (tmp_path / "full_gt.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(DatalistError, match=r"case 'full': cannot read .*full_gt\.nii\.gz"):
        supervision_of(datalist.training[0], datalist.unlabeled)


def test_find_datalist_takes_the_explicit_one_then_the_folders(tmp_path: Path) -> None:
    as_datalist(unlabeled=3).save(tmp_path / "datalist.json")
    as_datalist(unlabeled=7).save(tmp_path / "other.json")
    assert find_datalist(tmp_path).unlabeled == 3
    assert find_datalist(tmp_path, tmp_path / "other.json").unlabeled == 7
    assert find_datalist(tmp_path, "other.json").unlabeled == 7
    with pytest.raises(DatalistError, match=r"absent\.json cannot be read"):
        find_datalist(tmp_path, "absent.json")


def test_find_datalist_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatalistError) as caught:
        find_datalist(tmp_path)
    for part in (str(tmp_path), "mixseg prepare acdc", "mixseg phantom", "mixseg validate"):
        assert part in str(caught.value)
    with pytest.raises(DatalistError, match=r"gone' is not a folder"):
        find_datalist(tmp_path / "gone")


def test_data_hash_follows_cases_and_sizes_but_not_place_or_order(tmp_path: Path) -> None:
    entries = [{"image": f"{name}.nii", "case_id": name} for name in "ab"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            (tmp_path / folder / f"{name}.nii").write_bytes(name.encode() * 10)
    datalist = as_datalist(training=entries)
    reference = data_hash(datalist, tmp_path / "one")
    assert len(bytes.fromhex(reference)) == 32
    assert data_hash(datalist, tmp_path / "two") == reference
    assert data_hash(as_datalist(training=entries[::-1]), tmp_path / "one") == reference
    moved = as_datalist(training=entries[:1], test=entries[1:])
    assert data_hash(moved, tmp_path / "one") != reference
    partial = [entry | {"label": entry["image"], "supervision": "partial"} for entry in entries]
    said, unsaid = (
        as_datalist(training=[entry | {"complete": complete} for entry in partial])
        for complete in (True, False)
    )
    absent = data_hash(as_datalist(training=partial), tmp_path / "one")
    assert data_hash(unsaid, tmp_path / "one") == absent
    assert data_hash(said, tmp_path / "one") != absent
    annotated = as_datalist(training=[e | {"annotated_classes": [1]} for e in partial])
    assert data_hash(annotated, tmp_path / "one") != absent
    (tmp_path / "one" / "a.nii").write_bytes(b"a" * 11)
    assert data_hash(datalist, tmp_path / "one") != reference


@pytest.mark.parametrize("name", ["$__import__('os').system('touch owned')", "@network", "%lr"])
def test_class_names_that_a_configuration_would_run_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"begin with a sign that .* rename these classes"):
        Datalist(classes=["background", name])
    assert Datalist(classes=["background", "5% $ @"]).classes[1] == "5% $ @"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31mred", "tumor #1", "a::b"])
def test_class_names_that_would_not_arrive_as_they_are_written(name: str) -> None:
    with pytest.raises(ValueError, match="rename these classes"):
        Datalist(classes=["background", name])


def test_a_misspelt_key_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    content = {"clases": ["bg", "a"], "training": [{"image": "a", "case_id": "a", "lable": "b"}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(DatalistError) as caught:
        Datalist.load(tmp_path / "list.json")
    assert "clases: unknown key; is 'classes' meant?" in str(caught.value)
    assert "training.0.lable: unknown key; is 'label' meant?" in str(caught.value)


def test_a_list_of_files_is_an_image_and_its_channels(tmp_path: Path) -> None:
    entry = Entry.model_validate({"image": ["a_t1.nii", "a_t2.nii"], "case_id": "a"})
    assert (entry.image, entry.channels) == ("a_t1.nii", ["a_t2.nii"])
    datalist = Datalist(classes=["bg", "a"], unlabeled=2, training=[entry]).with_base_dir(tmp_path)
    (resolved,) = datalist.resolve().training
    assert resolved.image_files == [str(tmp_path / "a_t1.nii"), str(tmp_path / "a_t2.nii")]
    assert datalist.relative_to(tmp_path).training[0].channels == ["a_t2.nii"]
    with pytest.raises(ValidationError, match="not in both"):
        Entry.model_validate({"image": ["a", "b"], "channels": ["c"], "case_id": "a"})
