"""``mixseg pack`` makes a complete bundle, the same each time, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mixseg.apps.bundle.archive import unpack
from mixseg.apps.bundle.sums import check_sums
from mixseg.apps.bundle.weights import build_network, read_weights
from mixseg.apps.pack.pack import pack_bundle, write_index
from mixseg.apps.pack.texts import packed_card
from mixseg.cli.main import app
from mixseg.configuration.loading import load
from mixseg.configuration.yaml_text import without_keys
from mixseg.files.provenance import sha256_of

from .packed_place import put_weights

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
#: An overlay as small as its network.
SETTINGS: dict[str, Any] = {"features": [2, 4, 4, 8, 8], "spatial_size": [32, 32], "num_full": 1}


@dataclass
class Packed:
    """A bundle to pack, and what came of it."""

    source: Path
    zip: Path
    digest: str
    folder: Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    source = folder / "acdc_lv_confkd"
    shutil.copytree(BUNDLE, source)
    put_weights(source, torch.float16, **SETTINGS)
    target, digest = pack_bundle(source, output=folder / "dist")
    return Packed(source, target, digest, unpack(target, folder / "unpacked"))


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Path:
    """A copy of the bundle to spoil."""
    return Path(shutil.copytree(packed.source, tmp_path / "acdc_lv_confkd"))


def test_the_zip_is_named_as_monai_downloads_it(packed: Packed) -> None:
    assert packed.zip.name == "acdc_lv_confkd_v0.1.0.zip"
    assert packed.digest == sha256_of(packed.zip)
    with zipfile.ZipFile(packed.zip) as file:
        assert {name.partition("/")[0] for name in file.namelist()} == {"acdc_lv_confkd"}
    assert check_sums(packed.folder) == []


def test_it_holds_what_a_user_needs_and_no_more(packed: Packed) -> None:
    names = {p.relative_to(packed.folder).as_posix() for p in packed.folder.rglob("*.*")}
    assert {n for n in names if n.startswith(("configs/", "models/"))} == {
        "configs/evaluate.yaml",
        "configs/inference.yaml",
        "configs/logging.conf",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/metadata.schema.json",
        "configs/multi_gpu_train.yaml",
        "configs/train.yaml",
        "models/model.pt",
    }
    assert {"docs/README.md", "docs/data_license.txt"} <= names
    assert {p.name for p in packed.folder.iterdir()} == {
        "LICENSE",
        "SHA256SUMS",
        "configs",
        "docs",
        "mixseg",
        "mixseg-0.1.0.dist-info",
        "models",
    }


def test_packing_again_gives_the_same_bytes(packed: Packed, copy: Path, tmp_path: Path) -> None:
    for path in copy.rglob("*"):
        path.touch()
    (copy / "eval").mkdir()
    (copy / "eval" / "masks.txt").write_text("what a run left")
    target, digest = pack_bundle(copy, output=tmp_path / "again")
    assert digest == packed.digest
    assert target.read_bytes() == packed.zip.read_bytes()


def test_the_configurations_stay_to_the_letter(packed: Packed) -> None:
    """Settings and comments alike."""
    for name in ("train.yaml", "inference.yaml"):
        texts = [(f / "configs" / name).read_text() for f in (packed.source, packed.folder)]
        assert texts[0] == texts[1]


def test_the_weights_keep_their_type_and_fit(packed: Packed) -> None:
    source = torch.load(packed.source / "models" / "model.pt", weights_only=True)
    weights = torch.load(packed.folder / "models" / "model.pt", weights_only=True)
    assert {k: v.dtype for k, v in weights.items()} == {k: v.dtype for k, v in source.items()}
    assert torch.float16 in {v.dtype for v in weights.values()}
    for name in ("train.yaml", "inference.yaml"):
        network = build_network(packed.folder / "configs" / name, {})
        network.load_state_dict(weights)  # strictly
        for key, value in network.state_dict().items():
            assert torch.equal(value, source[key].to(value.dtype)), key


def test_the_metadata_name_what_the_code_inside_needs(packed: Packed) -> None:
    before = load(packed.source / "configs" / "metadata.json")
    after = load(packed.folder / "configs" / "metadata.json")
    key = "required_packages_version"
    assert {k: v for k, v in after.items() if k != key} == {
        k: v for k, v in before.items() if k != key
    }
    assert "mixseg" not in after[key]
    # What was stated stays, and data/datalist.py imports pydantic, metrics/summary.py rich.
    assert {k: v for k, v in before[key].items() if k != "mixseg"}.items() <= after[key].items()
    assert {"pydantic", "rich", "tqdm"} <= set(after[key])
    # MONAI's own needs for these files: its command line, YAML, the largest component.
    assert {"fire", "pyyaml", "scikit-image"} <= set(after[key])
    # Only the mixseg command imports it.
    assert "typer" not in after[key]
    assert not set(after[key]) & {"torch", "monai", "numpy"}  # they have keys of their own


def test_an_index_for_downloads_without_a_version(packed: Packed, tmp_path: Path) -> None:
    index = tmp_path / "model_info.json"
    index.write_text('{"other_v1": {"checksum": "x", "source": "y"}}')
    write_index(index, packed.zip, packed.digest, "owner/mixseg/v1")
    assert json.loads(index.read_text()) == {
        "acdc_lv_confkd_v0.1.0": {
            "checksum": packed.digest,
            "checksum_type": "sha256",
            "source": "https://github.com/owner/mixseg/releases/download/v1/"
            "acdc_lv_confkd_v0.1.0.zip",
        },
        "other_v1": {"checksum": "x", "source": "y"},
    }


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["pack", *map(str, arguments)])
    return result.exit_code, result.output


def test_places_of_the_packers_data_stay_at_home(copy: Path, tmp_path: Path) -> None:
    train = copy / "configs" / "train.yaml"
    text = train.read_text()
    assert "\ndatalist: null " in text
    train.write_text(text.replace("\ndatalist: null ", "\ndatalist: /home/me/datalist.json "))
    target, _ = pack_bundle(copy, output=tmp_path)
    configs = unpack(target, tmp_path / "unpacked") / "configs"
    assert load(configs / "train.yaml")["datalist"] is None
    for name in ("train.yaml", "inference.yaml"):
        assert load(configs / name)["dataset_dir"] == "$@bundle_root + '/data'"


def test_the_command(copy: Path, tmp_path: Path) -> None:
    metadata = copy / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["changelog"]["0.2.0"] = "better weights"
    metadata.write_text(json.dumps(content))
    arguments = ("--version", "0.2.0", "--output", tmp_path / "out", "--repo", "me/mixseg/v2")
    status, text = invoke(copy, *arguments, "--precision", "float32")
    assert status == 0, text
    target = tmp_path / "out" / "acdc_lv_confkd_v0.2.0.zip"
    assert f"sha256 {sha256_of(target)}" in text
    assert sorted(p.name for p in target.parent.iterdir()) == [
        target.name,
        f"{target.name}.sha256",
        "model_info.json",
    ]
    folder = unpack(target, tmp_path / "unpacked")
    assert load(folder / "configs" / "metadata.json")["version"] == "0.2.0"
    assert load(folder / "configs" / "train.yaml")["features"] == [2, 4, 4, 8, 8]
    weights = read_weights(folder / "models" / "model.pt")
    assert {v.dtype for v in weights.values()} == {torch.float32, torch.int64}


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (
            lambda b: (b / "models" / "model.pt").unlink(),
            [],
            "'{0}' has no weights: there is neither",
        ),
        (
            lambda b: torch.save({"a": torch.ones(1)}, b / "models" / "model.pt"),
            [],
            "do not fit the configuration: pack the folder of the run that trained them",
        ),
        (
            lambda b: (b / "models" / "model.pt").write_bytes(b"PK\x03\x04 cut"),
            [],
            "'{0}/models/model.pt' cannot be read as weights",
        ),
        (
            lambda b: torch.save([1, 2], b / "models" / "model.pt"),
            [],
            "holds no state dict and is not the full state of a training: give the",
        ),
        (
            lambda b: (b / "LICENSE").unlink(),
            [],
            "there is no '{0}/LICENSE': '{0}' is not a whole bundle",
        ),
        (
            lambda b: None,
            ["--version", "9.9.9"],
            "the changelog in configs/metadata.json has no entry for 9.9.9",
        ),
        (
            lambda b: (b / "mixseg").mkdir(),
            [],
            "'{0}' is packed already: pack the folder that it was made from",
        ),
        (
            lambda b: None,
            ["--repo", "me/mixseg"],
            "--repo must be OWNER/REPOSITORY/TAG, got 'me/mixseg'",
        ),
        (
            lambda b: replace(
                b / "configs" / "train.yaml", "mixseg.data.select_cases", "mixseg.x.y"
            ),
            [],
            "train.yaml names mixseg.x.y, which the installed mixseg does not have",
        ),
        (
            lambda b: replace(
                b / "configs" / "evaluate.yaml", "validate#scorer#dist", "validate#nose#dist"
            ),
            [],
            "evaluate.yaml: 'validate#nose#distances' matches nothing in train.yaml",
        ),
    ],
    ids=[
        "no weights",
        "other weights",
        "cut weights",
        "no weights in it",
        "no license",
        "version",
        "packed",
        "repo",
        "module",
        "overlay key",
    ],
)
def test_what_cannot_be_packed_is_named(
    copy: Path, tmp_path: Path, spoil: Spoil, options: list[str], message: str
) -> None:
    spoil(copy)
    status, text = invoke(copy, *options, "--output", tmp_path / "out")
    assert status == 1
    assert message.format(copy) in text
    assert not (tmp_path / "out").exists()


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("la_vnet", "the name 'la_vnet' holds '_v', where MONAI looks for the version"),
        ("la.confkd", "may hold letters, digits and _ alone"),
        ("wbc_classification", "holds 'classification', to which MONAI Label gives a meaning"),
    ],
)
def test_names_that_downloads_and_servers_take_apart(
    copy: Path, tmp_path: Path, name: str, why: str
) -> None:
    bundle = copy.rename(tmp_path / name)
    status, text = invoke(bundle, "--output", tmp_path / "out")
    assert status == 1
    assert why in text


def test_the_card_speaks_of_the_packed_folder() -> None:
    card = (
        "# Card\n<!-- repository -->\nWith mixseg installed.\n<!-- /repository -->\n"
        "<!-- packed\nIn this folder.\n-->\nBoth.\n"
        "<!-- ci: model_card, with --lr 1 -->\n```bash\nrun\n```\n"
        "| `lr` | `1` | elsewhere |\n"
        "## Settings\n| `lr` | `1` | rate |\n| `device` | `$x()` | where |\n"
        "| `own` | `3` | kept |\n"
        "## Results\n| `lr` | `1` | elsewhere |\n"
    )
    train = "lr: 0.5        # rate\ndevice: \"$y('a')\"\n"
    assert packed_card(card, train) == (
        "# Card\nIn this folder.\nBoth.\n"
        "```bash\nrun\n```\n"
        "| `lr` | `1` | elsewhere |\n"
        "## Settings\n| `lr` | `0.5` | rate |\n| `device` | `$y('a')` | where |\n"
        "| `own` | `3` | kept |\n"
        "## Results\n| `lr` | `1` | elsewhere |\n"
    )
    assert packed_card("no table\n", train) == "no table\n"


def test_a_run_is_packed_with_its_own_settings(
    as_run: Callable[..., Path], packed: Packed, tmp_path: Path
) -> None:
    """Whatever the bundle says that it was made from, and with no path of the machine."""
    weights = packed.source / "models" / "model.pt"
    data = {"dataset_dir": "/home/me/data", "datalist": "/home/me/list.json"}
    run = as_run(BUNDLE, tmp_path / "heart", weights, **SETTINGS, **data,
                 output_dir="$@bundle_root")  # fmt: skip
    (run / "checkpoint.pt").write_bytes(b"of the training")
    evaluate = run / "configs" / "evaluate.yaml"
    own = without_keys((run / "configs" / "train.yaml").read_text(), {"initialize", "run"})
    evaluate.write_text(own + evaluate.read_text())
    target, _ = pack_bundle(run, output=tmp_path / "dist")
    assert target.name == "heart_v0.1.0.zip"
    folder = unpack(target, tmp_path / "unpacked")
    train = load(folder / "configs" / "train.yaml")
    assert {name: train[name] for name in SETTINGS} == SETTINGS
    assert train["output_dir"] == "$@bundle_root + '/eval'"
    assert not list(folder.rglob("checkpoint.pt"))
    assert "/home/me" not in "".join(p.read_text() for p in folder.glob("configs/*"))
    assert read_weights(folder / "models" / "model.pt").keys() == read_weights(weights).keys()
    # And so is the run in a bundle's folder, under the bundle's name.
    bundle = tmp_path / "acdc_heart"
    shutil.copytree(BUNDLE, bundle)
    run.rename(bundle / "eval")
    target, _ = pack_bundle(bundle, output=tmp_path / "dist")
    configs = unpack(target, tmp_path / "again") / "configs"
    assert configs.parent.name == "acdc_heart"
    assert load(configs / "train.yaml")["features"] == SETTINGS["features"]


@pytest.mark.parametrize(
    "name", ["docs/data_license.txt", "docs/README.md", "configs/metadata.json"]
)
def test_a_form_that_is_not_filled_in_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    path = copy / name
    text = path.read_text()
    # As `mixseg new` writes it.
    path.write_text(text.replace("ACDC", "To be filled in by the author of this bundle", 1))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=rf"say 'to be filled in by .*{name}; state in them"):
        pack_bundle(copy, output=tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
