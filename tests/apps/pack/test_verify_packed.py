"""``mixseg verify`` on packed bundles: whole ones pass, changed ones are refused and not run."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mixseg.apps.bundle.archive import sum_file, unpack
from mixseg.apps.bundle.sums import write_sums
from mixseg.apps.bundle.weights import build_network
from mixseg.apps.pack.checks.configs import check_files, check_packages
from mixseg.apps.pack.checks.network import check_code
from mixseg.apps.pack.pack import pack_bundle
from mixseg.apps.pack.verify import RUNNING_CHECKS, verify_bundle
from mixseg.cli.main import app
from mixseg.configuration.loading import load

SOURCE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a bundle with a narrow network."""
    bundle = tmp_path_factory.mktemp("packed") / "acdc_lv_confkd"
    shutil.copytree(SOURCE, bundle)
    overlay = bundle / "configs" / "compact.yaml"
    overlay.write_text("features: [8, 16, 16]\nweak_label: drawn\n")
    (bundle / "models").mkdir(exist_ok=True)
    state = build_network(bundle / "configs" / "train.yaml", load(overlay)).state_dict()
    torch.save(state, bundle / "models" / "compact.pt")
    return pack_bundle(bundle, output=bundle.parent / "dist")[0]


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    return unpack(packed, tmp_path)


def verify(place: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", str(place)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.slow
def test_a_packed_bundle_passes_as_a_zip(packed: Path) -> None:
    status, text = verify(packed)
    assert status == 0, text
    # Of 21 checks, those of the repository and of what a packed bundle has not.
    assert "all checks passed, 5 not checked" in text
    for name in ("checksums", "code inside", "weights fit", "properties", "network in and out"):
        assert next(line for line in text.splitlines() if f" {name} " in line).count(" ok ") == 1


def test_a_file_that_was_changed_is_named_and_nothing_is_run(folder: Path) -> None:
    train = folder / "configs" / "train.yaml"
    trap = folder.parent / "trap"
    text = train.read_text().replace("- $import torch", f"- $open('{trap}', 'w')")
    assert "trap" in text
    train.write_text(text)
    (folder / "torch.py").write_text(f"open('{trap}', 'w')\n")
    status, text = verify(folder)
    assert status == 1
    assert "failed: configs/train.yaml is not the file that was packed" in text
    assert "torch.py is not listed in SHA256SUMS" in text
    results = verify_bundle(folder)
    assert {results[name].word for name in RUNNING_CHECKS} == {"not checked"}
    assert results["weights fit"].not_checked == "nothing is run of files that were changed"
    assert not trap.exists()


def test_a_zip_that_was_changed_is_refused(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / packed.name
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("mixseg/__init__.py"):
                content += b"print('hello')\n"
            target.writestr(member, content)
    status, text = verify(path)
    assert status == 1
    assert f"'{path}' is refused, nothing was unpacked" in text
    assert "mixseg/__init__.py is not the file that was packed" in text
    shutil.copy(packed, path)
    sum_file(path).write_text(f"{'0' * 64}  {path.name}\n")
    status, text = verify(path)
    assert status == 1
    assert "has not the sum that" in text


def test_packages_that_the_code_inside_needs_are_stated(folder: Path) -> None:
    assert check_packages(folder) == []
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    required = content["required_packages_version"]
    del required["pydantic"]
    required["mixseg"] = "0.1.0"
    required["scipy"] = "1.0"
    path.write_text(json.dumps(content))
    assert check_packages(folder) == [
        "scipy 1.0 is stated, but mixseg requires scipy>=1.11",
        "mixseg 0.1.0 is stated, but mixseg does not require mixseg",
        "pydantic is required, but not stated",
    ]


def test_files_of_a_packed_bundle(folder: Path) -> None:
    assert check_files(folder) == []
    (folder / "models" / "model.pt").unlink()
    (folder / "configs" / "metadata.schema.json").write_text(" ")
    assert check_files(folder) == [
        "models/model.pt is missing",
        "configs/metadata.schema.json is empty",
    ]


def test_the_code_inside_is_the_code_that_runs(folder: Path) -> None:
    assert check_code(folder) == []
    assert list(folder.rglob("__pycache__")) == []
    (folder / "mixseg" / "losses" / "entropy.py").write_text("raise RuntimeError('cut')\n")
    write_sums(folder)  # somebody's own, well summed
    assert check_code(folder) == ["RuntimeError: cut"]
    shutil.rmtree(folder / "mixseg" / "losses")
    # Not there at all, or from an installation that reaches into the copy.
    (fault,) = check_code(folder)
    assert re.match(r"ModuleNotFoundError: .*mixseg\.losses|mixseg\.losses\S* comes from ", fault)
