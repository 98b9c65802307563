"""JSON that people write by hand, and that of earlier runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixseg.files.documents import read_json, read_object


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"train": ["a"], "val": ["b"], "train": ["c"]}', "has the key 'train' twice"),
        (b'[{"a": {"x": 1, "x": 1}}]', "has the key 'x' twice"),
        (b'{"ignore": NaN}', "holds NaN, which JSON does not allow"),
        (b"[-Infinity]", "holds -Infinity"),
        ("{}".encode("utf-16"), "is not text in UTF-8: save it as UTF-8"),
        ('["é"]'.encode("latin-1"), "is not text in UTF-8: save it as UTF-8"),
        (b"{'a': 1}", r"is not valid JSON: .* \(line 1, column 2\)"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_what_is_not_meant_as_it_reads_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"list\.json .*{message}"):
        read_json(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1.5, null, true]}')
    assert read_json(path) == {"a": [1.5, None, True]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"scores": {', "is not valid JSON"),
        ('[{"scores": {}}]', "does not hold a JSON object: restore or delete the file"),
        ('{"folds": 3}', "has no 'scores', which mixseg writes there"),
    ],
)
def test_a_damaged_file_of_an_earlier_run_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"summary\.json {message}"):
        read_object(path, "scores")
