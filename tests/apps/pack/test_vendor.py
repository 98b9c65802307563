"""The code inside a packed bundle is all that its configuration reaches, and knows its version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mixseg.apps.pack import vendor
from mixseg.apps.pack.vendor import (
    copy_modules,
    needed_requirements,
    reached_modules,
    write_version,
)

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/train.yaml"))
#: Modules of each bundle, imported anew for each; what they import of others stays loaded.
IMPORT = """
import importlib, json, sys
loaded = {}
for bundle, names in json.load(sys.stdin).items():
    for name in [name for name in sys.modules if name.partition(".")[0] == "mixseg"]:
        del sys.modules[name]
    for name in names:
        importlib.import_module(name)
    loaded[bundle] = [name for name in sys.modules if name.startswith("mixseg.")]
print(json.dumps(loaded))
"""


def config(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_modules_are_found_wherever_a_configuration_names_them(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        "# mixseg.cli.main is in a comment\n"
        "imports: [$import mixseg.losses.entropy]\n"
        "a: {_target_: mixseg.networks.branches.ensemble_logits}\n"
        "b: $mixseg.transforms.arrays.like(1) or 'mixseg.losses._common'\n",
    )
    found = reached_modules([path])
    assert {"mixseg.losses.entropy", "mixseg.networks.branches"} <= set(found)
    assert {"mixseg.transforms.arrays", "mixseg.losses._common"} <= set(found)
    assert [name for name in found if name.startswith(("mixseg.apps", "mixseg.cli"))] == []


def test_imports_in_functions_and_names_in_texts_count(tmp_path: Path) -> None:
    # apps/pack/verify.py names the package of its schema in a text, and imports the exporter.
    found = reached_modules(
        [config(tmp_path, "a: {_target_: mixseg.apps.pack.verify.check_metadata}\n")]
    )
    assert {
        "mixseg.apps",
        "mixseg.apps.pack.verify",
        "mixseg.apps.pack.export",
    } <= set(found)
    copy_modules(found, tmp_path)
    assert (tmp_path / "mixseg" / "apps" / "pack" / "metadata.schema.json").is_file()


def test_every_module_that_python_loads_is_there() -> None:
    found = {
        bundle.name: reached_modules(sorted((bundle / "configs").glob("*.yaml")))
        for bundle in BUNDLES
    }
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        input=json.dumps(found),  # longer than an argument may be
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout)
    for name, modules in found.items():
        assert set(loaded[name]) == set(modules), name
        # What a run of the bundle never needs stays out.
        assert not any(module.startswith(("mixseg.apps", "mixseg.cli")) for module in modules), name


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, "a: {_target_: mixseg.no_such.Thing}\n")
    with pytest.raises(ValueError, match=r"config\.yaml names mixseg\.no_such\.Thing, which"):
        reached_modules([path])


def test_an_import_without_a_requirement_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [r for r in vendor.requirements() if r.name != "pydantic"]
    monkeypatch.setattr(vendor, "requirements", lambda: kept)
    with pytest.raises(ValueError, match=r"mixseg\.data\.datalist imports 'pydantic', which"):
        needed_requirements(["mixseg.data", "mixseg.data.datalist"])


def test_requirements_of_other_parts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [*vendor.requirements(), Requirement("ruff>=0.6")]
    monkeypatch.setattr(vendor, "requirements", lambda: required)
    names = [r.name for r in needed_requirements(["mixseg.losses", "mixseg.losses.entropy"])]
    assert "torch" in names
    assert "ruff" in names  # which nothing imports: it may serve whoever runs the bundle
    assert "scikit-image" in names  # MONAI's
    assert "typer" not in names  # the command line's
    assert names == sorted(names)


def test_the_copy_answers_for_its_version(tmp_path: Path) -> None:
    modules = reached_modules([config(tmp_path, "a: {_target_: mixseg.losses.shannon_entropy}\n")])
    copy_modules(modules, tmp_path)
    required = [Requirement("torch>=2.11,<2.14"), Requirement("numpy>=1.26")]
    path = write_version(required, tmp_path)
    assert path == tmp_path / f"mixseg-{version('mixseg')}.dist-info" / "METADATA"
    # Another version than the one that is installed here, to see which one answers.
    path.write_text(path.read_text().replace(f"Version: {version('mixseg')}", "Version: 0.0.7"))
    code = (
        "import json, mixseg, mixseg.losses; from importlib.metadata import version;"
        "print(json.dumps([mixseg.__file__, mixseg.losses.__file__, version('mixseg')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    inside = tmp_path / "mixseg"
    assert json.loads(done.stdout) == [
        str(inside / "__init__.py"),
        str(inside / "losses" / "__init__.py"),
        "0.0.7",
    ]
    assert PathDistribution(path.parent).requires == ["numpy>=1.26", "torch<2.14,>=2.11"]
    assert (inside / "losses" / "entropy.py").read_bytes() == (
        ROOT / "losses" / "entropy.py"
    ).read_bytes()
    assert (inside / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
