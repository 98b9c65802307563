from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixseg.apps.label.studies import StoreError, fingerprint, read_label_store

from .conftest import Store

FULL = [0, 1, 0, 0, 0, 0, 0, 0]


def test_labels_come_with_their_segments_by_position(store: Store) -> None:
    # 3D Slicer's idx counts the segment 'background' that it does not submit.
    info = [{"name": "LV", "idx": 2}, {"name": "background_brush", "idx": 4}]
    folder = store({"b": {"values": FULL, "label_info": info}, "a": None})
    without, labeled = read_label_store(folder)
    assert (without.case_id, without.label) == ("a", None)
    assert labeled.image == folder / "b.nii.gz"
    assert labeled.label == folder / "labels" / "final" / "b.nii.gz"
    assert labeled.segments == ("LV", "background_brush")
    assert labeled.supervision is None


def test_declarations_are_read_and_unknown_ones_refused(store: Store) -> None:
    declared = {"values": FULL, "supervision": "partial", "annotated_classes": ["LV"]}
    (scan,) = read_label_store(store({"a": declared}))
    assert (scan.supervision, scan.annotated_classes) == ("partial", ("LV",))
    with pytest.raises(StoreError, match=r"a\.nii\.gz' was submitted with supervision 'some'"):
        read_label_store(store({"a": {"values": FULL, "supervision": "some"}}))


def test_faults_name_the_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no '.*datastore_v2\.json': start the server"):
        read_label_store(tmp_path / "nowhere")
    folder = store({"a": {"values": FULL}})
    (folder / "labels" / "final" / "a.nii.gz").unlink()
    with pytest.raises(StoreError, match=r"labels/final/a\.nii\.gz', which is missing: submit"):
        read_label_store(folder)
    (folder / "a.nii.gz").unlink()
    with pytest.raises(StoreError, match=r"a\.nii\.gz', which is missing: put it back"):
        read_label_store(folder)
    (folder / "datastore_v2.json").write_text('{"objects": {"a')
    with pytest.raises(StoreError, match=r"is not a datastore of MONAI Label .* move it away"):
        read_label_store(folder)


def test_the_fingerprint_changes_with_what_was_submitted_alone(store: Store) -> None:
    def of(label: dict | None) -> str:
        return fingerprint(read_label_store(store({"a": label, "b": None})))

    first = of({"values": FULL})
    assert of({"values": FULL}) == first
    folder = store({"a": {"values": FULL}, "b": None})
    path = folder / "datastore_v2.json"
    content = json.loads(path.read_text())
    # Handing a scan out is written there too.
    content["objects"]["b"]["image"]["info"] = {"strategy": {"entropy": {"ts": 1}}}
    path.write_text(json.dumps(content))
    assert fingerprint(read_label_store(folder)) == first
    others = {
        of(None),
        of({"values": [1, *FULL[1:]]}),
        of({"values": FULL, "supervision": "partial"}),
        of({"values": FULL, "label_info": [{"name": "LV"}]}),
    }
    assert len({first, *others}) == 5
