"""``mixseg info``: what a bundle's files say, told before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixseg.cli.main import app


def info(bundle: Path) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["info", str(bundle)])
    assert result.exit_code == 0, result.output
    return result.output


def test_it_tells_inputs_labels_weights_and_licenses(tmp_path: Path) -> None:
    image = {"modality": "MR", "num_channels": 1, "spatial_shape": ["8*n", "8*n", "8*n"]}
    pred = {"channel_def": {"0": "background", "1": "[LA]"}}
    metadata = {
        "version": "0.2.0",
        "task": "Left atrium",
        "eval_metrics": {"mean_dice": 0.87},
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
    for name, text in (
        ("configs/metadata.json", json.dumps(metadata)),
        ("LICENSE", "Apache License\nVersion 2.0\n\nTerms\n"),
        ("docs/data_license.txt", "For research alone.\n"),
    ):
        path = tmp_path / "heart" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = info(tmp_path / "heart")
    lines = {line[:14].strip(): line[14:].strip() for line in text.splitlines()}
    assert lines["name"] == "heart 0.2.0"
    assert lines["input"].startswith("MR with 1 channel, read as volumes (3D)")
    assert lines["output"] == "a mask: 0 background, 1 [LA]"
    assert lines["weights"] == "none: train it"
    assert lines["scores"] == "mean_dice 0.87"
    assert lines["license"] == "Apache License Version 2.0"
    assert lines["data license"] == "For research alone."
    (tmp_path / "heart" / "models").mkdir()
    (tmp_path / "heart" / "models" / "model.pt").touch()
    assert "models/model.pt" in info(tmp_path / "heart")


@pytest.mark.parametrize("outputs", [{}, {"pred": {"channel_def": ["a"]}}])
def test_what_another_projects_bundle_does_not_say_is_left_out(
    tmp_path: Path, outputs: dict[str, Any]
) -> None:
    image = {"num_channels": 1, "spatial_shape": [64, 64]}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(
        json.dumps({"network_data_format": {"inputs": {"image": image}, "outputs": outputs}})
    )
    text = info(tmp_path)
    assert "images with 1 channel, read slice by slice (2D)" in text
    assert "output" not in text


def test_a_bundle_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(app, ["info", "absent"])
    assert result.exit_code == 1
    assert "there is no bundle 'absent'" in result.output
