"""What ``mixseg verify`` says about a bundle's files, in a small repository of the test's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mixseg.apps.bundle.find import check_name
from mixseg.apps.pack.checks.files import (
    NotChecked,
    check_large_files,
    check_links,
    check_sizes,
    check_version,
)
from mixseg.apps.pack.checks.network import check_torchscript, check_weights
from mixseg.apps.pack.pack import pack_bundle, write_index
from mixseg.apps.pack.verify import check_release
from mixseg.cli.main import app
from mixseg.configuration.yaml_text import set_values

from .packed_place import put_weights

WITHOUT_WEIGHTS = shutil.ignore_patterns("models")
FEATURES = [2, 4, 4]
SOURCE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
# FIPS 180-4, example of SHA-256: the message "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
Spoil = Callable[[Path], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of a bundle in a repository."""
    root = tmp_path / "repository"
    path = Path(
        shutil.copytree(SOURCE, root / "bundles" / "acdc_lv_confkd", ignore=WITHOUT_WEIGHTS)
    )
    (root / "pyproject.toml").write_text("")
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The same where no repository is."""
    return Path(shutil.copytree(SOURCE, tmp_path / "acdc_lv_confkd", ignore=WITHOUT_WEIGHTS))


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("la_uamt", []),
        ("la_confkd2", []),
        ("la_vnet", ["the name 'la_vnet' holds '_v', where MONAI looks for the version"]),
        (
            "DeepEdit_la",
            ["the name 'DeepEdit_la' holds 'deepedit', to which MONAI Label gives a meaning"],
        ),
        ("la-kd", ["the name 'la-kd' may hold letters, digits and _ alone: rename the folder"]),
    ],
)
def test_names(tmp_path: Path, name: str, faults: list[str]) -> None:
    assert check_name(tmp_path / name) == faults


def test_a_version_that_is_none(bundle: Path) -> None:
    path = bundle / "configs" / "metadata.json"
    content = json.loads(path.read_text()) | {"version": "first"}
    path.write_text(json.dumps(content))
    assert check_version(bundle) == [
        "'first' is not a version: write it like 0.1.0",
        "version first has no entry in the changelog",
    ]


def test_weights_in_git_are_small(bundle: Path, outside: Path) -> None:
    with pytest.raises(NotChecked, match="only weights in models/ of a repository"):
        check_sizes(bundle)
    for place in (bundle, outside):
        put_weights(place, features=FEATURES)
    with pytest.raises(NotChecked, match="only weights in models/ of a repository"):
        check_sizes(outside)
    assert check_sizes(bundle) == []
    with open(bundle / "models" / "model.pt", "r+b") as file:
        file.truncate(20 * 2**20)
        assert check_sizes(bundle) == []
        file.truncate(21 * 2**20)
    assert check_sizes(bundle) == [
        "models/model.pt has 21.0 MB, more than 20: train a smaller network, or publish the file "
        "and name it in large_files.yml"
    ]


def test_large_files_have_a_sha256(bundle: Path) -> None:
    with pytest.raises(NotChecked, match=r"no large_files\.yml"):
        check_large_files(bundle)
    good = {"path": "models/model.pt", "url": "https://x/model.pt"}
    hashed = {**good, "hash_type": "sha256", "hash_val": ABC}

    def faults(*entries: object) -> list[str]:
        (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": list(entries)}))
        return check_large_files(bundle)

    assert faults(hashed) == []
    assert faults() == ["large_files.yml has no list 'large_files'"]
    assert faults({"url": "https://x"})[0].endswith(
        "an entry has path, url, hash_val and hash_type"
    )
    place = "large_files.yml, models/model.pt: "
    assert faults(good) == [f"{place}hash_type must be sha256, not None"]
    assert faults({**hashed, "hash_type": "md5"}) == [f"{place}hash_type must be sha256, not md5"]
    assert faults({**hashed, "hash_val": "12"}) == [
        f"{place}hash_val is not a SHA-256 in lower-case hexadecimal"
    ]
    assert faults({**hashed, "url": "http://x"}) == [f"{place}the url does not begin with https://"]
    assert faults({**hashed, "path": "../x"}) == ["large_files.yml, ../x: lies outside the bundle"]
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"abc")
    assert faults(hashed) == []
    (bundle / "models" / "model.pt").write_bytes(b"abd")
    assert len(faults(hashed)) == 1
    assert f"instead of {ABC[:12]}…" in faults(hashed)[0]
    shutil.copy(bundle / "large_files.yml", bundle / "large_files.yaml")
    assert check_large_files(bundle) == [
        "large_files.yml and large_files.yaml: MONAI reads one of them, keep one"
    ]


def test_links_of_the_card(bundle: Path) -> None:
    card = bundle / "docs" / "README.md"
    card.write_text(
        "[a](https://x.org/y) [b](#part) [c](data_license.txt) [d](../LICENSE#top) "
        "![e](no.png) [f](../../../pyproject.toml)"
    )
    assert check_links(bundle) == ["docs/README.md links to 'no.png', which is not there"]
    (bundle / "SHA256SUMS").write_text("")  # a packed one has nothing around it
    assert check_links(bundle)[1:] == [
        "docs/README.md links to '../../../pyproject.toml', outside the bundle"
    ]


def test_a_released_version_stays_what_it_was(bundle: Path, outside: Path, tmp_path: Path) -> None:
    with pytest.raises(NotChecked, match=r"no models/model_info\.json of released versions"):
        check_release(bundle)
    with pytest.raises(NotChecked, match=r"no models/model_info\.json of released versions"):
        check_release(outside)
    put_weights(bundle, features=FEATURES)
    (bundle.parents[1] / "models").mkdir()
    index = bundle.parents[1] / "models" / "model_info.json"
    index.write_text("{}")
    assert check_release(bundle) == []  # not out yet
    target, digest = pack_bundle(bundle, output=tmp_path / "dist")
    write_index(index, target, digest, "me/mixseg/v1")
    assert check_release(bundle) == []  # out, and still the same
    (bundle / "docs" / "data_license.txt").write_text("other terms\n")
    assert check_release(bundle) == [
        "acdc_lv_confkd_v0.1.0 was released with other content (models/model_info.json): raise the "
        "version in configs/metadata.json, and describe the change in its changelog"
    ]


def test_weights_fit_both_networks(bundle: Path) -> None:
    with pytest.raises(NotChecked, match="no weights in models/"):
        check_weights(bundle)
    put_weights(bundle, features=FEATURES)
    assert check_weights(bundle) == []
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("norm: batch", "norm: instance"))
    place = "models/model.pt in inference.yaml: "
    faults = check_weights(bundle)
    assert faults
    assert all(fault.startswith(f"{place}the network lacks ") for fault in faults)
    train = bundle / "configs" / "train.yaml"
    train.write_text(set_values(train.read_text(), {"features": [6, 8, 10]}))
    (fault,) = [f for f in check_weights(bundle) if "train.yaml" in f]
    assert fault.startswith("models/model.pt in train.yaml: other shapes ")
    assert f"({FEATURES[0]}" in fault
    assert "instead of (6" in fault
    (bundle / "models" / "model.pt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"models/model\.pt' cannot be read as weights"):
        check_weights(bundle)


def test_a_torchscript_that_is_shipped_can_be_loaded(bundle: Path) -> None:
    (bundle / "models").mkdir()
    (bundle / "models" / "model.ts").write_bytes(b"cut")
    assert check_torchscript(bundle)[0].startswith("models/model.ts cannot be loaded: ")


def test_the_table_says_why_something_was_not_checked(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlucky(bundle: Path) -> list[str]:
        raise RuntimeError("no such luck")

    checks = {"released": check_release, "sizes": check_sizes, "name": check_name, "luck": unlucky}
    monkeypatch.setattr("mixseg.apps.pack.verify.FILE_CHECKS", {"checksums": check_name, **checks})
    monkeypatch.setattr("mixseg.apps.pack.verify.RUNNING_CHECKS", {})
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["verify", str(outside)])
    assert result.exit_code == 1
    rows = [line for line in result.output.splitlines() if "acdc_lv_confkd" in line]
    assert cells(rows[1]) == [
        "released",
        "not checked: there is no models/model_info.json of released versions",
    ]
    assert cells(rows[3]) == ["name", "ok"]
    assert cells(rows[4]) == ["luck", "failed: RuntimeError: no such luck"]
    assert "1 checks failed, 2 not checked" in result.output
    del checks["luck"]
    monkeypatch.setattr("mixseg.apps.pack.verify.FILE_CHECKS", {"checksums": check_name, **checks})
    result = CliRunner().invoke(app, ["verify", str(outside)])
    assert result.exit_code == 0
    assert "all checks passed, 2 not checked" in result.output


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("│").split("│")][1:]
