"""Configuration files that cannot be read as they are meant."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixseg.configuration.loading import load, load_all, read_metadata


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr: 0.1\n\tseed: 0\n", r"is not valid YAML: .* \(line 2, column 1\)"),
        (b"lr: [0.1\n", "is not valid YAML"),
        (b"lr: 0.1\nseed: 0\nlr: 0.2\n", "Duplicate key"),
        (b"", "holds no settings"),
        (b"- a\n", "holds no settings"),
        (b"lr: \xff\n", "cannot be read"),
        (b"lr: \x1b\n", "cannot be read"),
    ],
)
def test_a_broken_configuration_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train\.yaml .*{message}"):
        load(path)


def test_files_are_utf8_whatever_the_locale_and_json_keeps_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("name: Ä  # é\nlr: 2.0e-3\n".encode())
    (tmp_path / "b.json").write_bytes(b'{\t"lr": 1e-3}')
    code = (
        "import sys; from pathlib import Path; from mixseg.configuration.loading import load_all;"
        "print(ascii(load_all([Path(p) for p in sys.argv[1:]])))"
    )
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.json")]
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, *files],
        env={**os.environ, **ascii_alone},
        capture_output=True,
        text=True,
        check=True,
    )
    read = ast.literal_eval(done.stdout.splitlines()[-1])
    assert (read["name"], read["lr"]) == ("Ä", 1e-3)


def test_an_entry_below_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 0.1\n")
    (tmp_path / "b.yaml").write_text("optimizer#lr: 0.2\n")
    with pytest.raises(ValueError, match=r"b\.yaml changes 'optimizer#lr', .* have no such part"):
        load_all([tmp_path / "a.yaml", tmp_path / "b.yaml"])


FORMAT = {
    "inputs": {"image": {"num_channels": 1, "spatial_shape": [64, 64]}},
    "outputs": {"pred": {"channel_def": {"0": "background", "1": "heart"}}},
}


@pytest.mark.parametrize(
    "content",
    [
        [], "text", None, {}, {"network_data_format": 5}, {"network_data_format": {"inputs": []}},
        {"network_data_format": {"inputs": {"image": {"num_channels": "one"}}}},
    ],
)  # fmt: skip
def test_metadata_that_say_nothing_of_the_network_are_named(tmp_path: Path, content: Any) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata\.json "):
        read_metadata(tmp_path)


def test_whole_metadata_are_taken(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    content = {"version": "1", "network_data_format": FORMAT}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(content))
    assert read_metadata(tmp_path) == content
