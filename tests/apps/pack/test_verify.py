"""``mixseg verify`` passes the project's bundles, and names what is broken in a spoilt copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixseg.apps.pack.checks.configs import (
    check_files,
    check_overlays,
    check_packages,
    check_shared,
    check_style,
)
from mixseg.apps.pack.checks.files import check_version
from mixseg.apps.pack.verify import check_metadata
from mixseg.cli.main import app

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "spoilt"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_the_projects_bundle_passes_every_check() -> None:
    result = CliRunner().invoke(app, ["verify", str(BUNDLE), "--run"])
    assert result.exit_code == 0, result.output
    assert "all checks passed" in result.output


Spoil = Callable[[Path], None]


@pytest.mark.parametrize(
    ("check", "spoil", "message"),
    [
        (
            check_files,
            lambda b: (b / "docs" / "data_license.txt").unlink(),
            "docs/data_license.txt is missing",
        ),
        (
            check_files,
            lambda b: (b / "LICENSE").write_text("Select a license and place its terms here\n"),
            "LICENSE is the template of 'monai.bundle init_bundle': put the terms there",
        ),
        (
            check_version,
            lambda b: replace(b / "configs/metadata.json", '"version": "0.1.0"', '"version": "9"'),
            "version 9 has no entry in the changelog",
        ),
        (
            check_packages,
            lambda b: replace(b / "configs/metadata.json", '"1.6.1"', '"1.5.0"'),
            "monai 1.5.0 is stated, but mixseg requires monai<1.7,>=1.6.1",
        ),
        (
            # MONAI would rename it, and lose the packages that are required.
            check_packages,
            lambda b: replace(
                b / "configs/metadata.json",
                '"supported_apps"',
                '"optional_packages_version": {"mlflow": "3.0"}, "supported_apps"',
            ),
            "optional_packages_version makes MONAI forget required_packages_version",
        ),
        (
            check_style,
            lambda b: replace(
                b / "configs/train.yaml", "$@train#trainer.run()", "$@train#handlers#3.run()"
            ),
            "a position in '$@train#handlers#3.run()'",
        ),
        (
            check_shared,
            lambda b: replace(b / "configs/inference.yaml", "norm: batch", "norm: instance"),
            "norm is 'batch' in train.yaml and 'instance' in inference.yaml",
        ),
        (
            check_shared,
            lambda b: replace(
                b / "configs/inference.yaml",
                "normalization: '@normalization'",
                "normalization: zscore",
            ),
            "normalization is '@normalization' in train.yaml and 'zscore' in inference.yaml",
        ),
        (
            check_overlays,
            lambda b: (b / "configs/small.yaml").write_text("num_ful: 3\n"),
            "small.yaml: 'num_ful' is not in train.yaml and nothing reads it",
        ),
        (
            check_style,
            lambda b: replace(
                b / "configs/train.yaml", "$5 * @num_full", "'$(lambda n: 5 * n)(3)'"
            ),
            "train.yaml, num_partial: lambda in",
        ),
        (
            check_metadata,
            lambda b: replace(
                b / "configs/metadata.json", '"num_channels": 1', '"num_channels": "1"'
            ),
            "'1' is not of type 'integer'",
        ),
    ],
    ids=[
        "file",
        "license",
        "changelog",
        "version",
        "renamed key",
        "position",
        "setting",
        "preprocessing",
        "overlay",
        "lambda",
        "metadata",
    ],
)
def test_a_spoilt_bundle_is_named(
    copy: Path, check: Callable[[Path], list[str]], spoil: Spoil, message: str
) -> None:
    assert check(copy) == []
    spoil(copy)
    try:
        faults = check(copy)
    except ValueError as error:  # the schema's verdict
        faults = [str(error)]
    assert message in " ".join(faults)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "inference",
            "crop_size: '@crop_size'",
            "crop_size: '@spatial_size'",
            "preparation: crop_size is '@crop_size' in train.yaml and '@spatial_size' in inference",
        ),
        (
            "inference",
            "slice_size: '@slice_size',",
            "slice_size: '@slice_size', erosion_rule: kervadec,",
            "preparation: erosion_rule is in inference.yaml and not in train.yaml",
        ),
        (
            "train",
            "transform: $@preparation.evaluation",
            "transform: $@preparation.inference",
            "validate#dataset#transform is '$@preparation.inference', not $@preparation.eval",
        ),
        ("inference", "slice_size: 256", "slice_size: 250", "slice_size is 256 in train.yaml and"),
        ("train", "norm: '@norm'", "norm: batch", "network_def: norm is 'batch' in train.yaml"),
    ],
    ids=["argument", "further argument", "another side of it", "setting", "network"],
)
def test_shared_preprocessing_is_compared(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    copy = Path(shutil.copytree(BUNDLE.with_name("acdc_lv_mixed"), tmp_path / "spoilt"))
    assert check_shared(copy) == []
    replace(copy / "configs" / f"{name}.yaml", old, new)
    assert message in " ".join(check_shared(copy))


def test_a_failed_check_ends_the_command_with_an_error(copy: Path) -> None:
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    del metadata["network_data_format"]
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (copy / "configs" / "train.yaml").unlink()
    (copy / "configs" / "inference.yaml").unlink()
    result = CliRunner().invoke(app, ["verify", str(copy)])
    assert result.exit_code == 1
    assert "checks failed" in result.output


def test_a_folder_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["verify", "no/such/bundle"])
    assert result.exit_code == 1
    assert "'no/such/bundle' is not a folder" in result.output
