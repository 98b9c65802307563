"""Every bundle, packed, downloaded and run where nothing but what it asks for is installed."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import monai.bundle.scripts
import nibabel as nib
import numpy as np
import pytest
import torch

from mixseg.apps.bundle.sums import check_sums
from mixseg.apps.bundle.weights import build_network, misfits, read_weights
from mixseg.configuration.loading import load

from .packed_place import ROOT, Place, served, short

#: A new bundle is part of this by itself.
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.yaml"))
#: One a data set goes every way; the others share all of it but the method and its training.
ROUTES = [name for name in BUNDLES if name.endswith("_confkd")]
DATASETS = ("acdc", "la", "wbc")
#: Prints where mixseg comes from, and whether two things that are not needed can be found.
WHENCE = """
import importlib.util, json, mixseg, mixseg.engines
from importlib.metadata import version
missing = [importlib.util.find_spec(name) is None for name in ("mixseg.cli", "typer")]
print(json.dumps([mixseg.__path__, mixseg.engines.__file__, version("mixseg"), *missing]))
"""

#: Downloads bundles, infers and trains with each and its own code: data, then of each bundle its
#: address, name and the settings of the training. MONAI is imported once for all.
EACH = """
import json, os, shutil, sys
import monai.bundle

data, bundles = sys.argv[1], json.loads(sys.argv[2])
start = os.getcwd()
for url, name, settings in bundles:
    print("bundle", name)
    os.makedirs(name + "_at")
    os.chdir(name + "_at")
    monai.bundle.download(name=name, url=url, bundle_dir=".", progress=False)
    os.chdir(name)
    common = {"bundle_root": ".", "logging_file": False, "progress": False}
    monai.bundle.run(
        run_id="inference", config_file="configs/inference.yaml",
        dataset_dir=os.path.join(data, "image"), output_dir="../masks", **common
    )
    shutil.copy("models/model.pt", "../packed.pt")
    monai.bundle.run(
        run_id="training", config_file="configs/train.yaml", dataset_dir=data, output_dir="../run",
        **settings, **common
    )
    import mixseg
    print("code", mixseg.__path__[0])
    for module in [module for module in sys.modules if module.partition(".")[0] == "mixseg"]:
        del sys.modules[module]
    os.chdir(start)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ROUTES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    with served(request.param, folder) as made:
        options = ("--name", request.param, "--url", f"{made.url}/{made.zip.name}")
        words = ("-m", "monai.bundle", "download", *options, "--bundle_dir", folder / "bundles")
        made.python(*words, cwd=folder)
        yield made


def test_what_arrives_is_what_was_packed_and_uses_its_own_code(place: Place) -> None:
    assert check_sums(place.folder) == []
    with zipfile.ZipFile(place.zip) as file:
        for name in file.namelist():
            assert (place.folder.parent / name).read_bytes() == file.read(name)
    inside = place.folder / "mixseg"
    assert json.loads(place.python("-c", WHENCE, cwd=place.folder)) == [
        [str(inside)],
        str(inside / "engines" / "__init__.py"),
        version("mixseg"),
        True,
        True,
    ]
    # Elsewhere there is none.
    code = "import importlib.util; print(importlib.util.find_spec('mixseg'))"
    assert place.python("-c", code, cwd=place.data).strip() == "None"


def test_inference_gives_what_the_installed_code_gives(place: Place, tmp_path: Path) -> None:
    images = place.data / "image"
    place.run("inference", "inference.yaml", dataset_dir=images, output_dir=tmp_path / "packed")
    monai.bundle.run(
        run_id="inference",
        config_file=str(place.folder / "configs" / "inference.yaml"),
        bundle_root=str(place.folder),
        logging_file=False,
        dataset_dir=str(images),
        output_dir=str(tmp_path / "installed"),
        device="cpu",
        progress=False,
    )
    masks = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert len(masks) == 5
    classes = len(load(place.folder / "configs" / "inference.yaml")["class_names"])
    for name in masks:
        mask = nib.load(tmp_path / "packed" / name)
        values = np.asarray(mask.dataobj)
        assert values.shape == (40, 44, 6)
        assert np.array_equal(mask.affine, np.diag([1.5, 1.25, 3.0, 1.0]))
        assert set(np.unique(values)) <= set(range(classes))
        assert np.array_equal(values, nib.load(tmp_path / "installed" / name).dataobj)


def by_branch(row: dict[str, str]) -> str:
    return row["branch"]


def test_evaluation_scores_every_branch(place: Place, tmp_path: Path) -> None:
    place.run(
        "evaluating", "train.yaml", "evaluate.yaml", dataset_dir=place.data, output_dir=tmp_path
    )
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = load(place.folder / "configs" / "train.yaml")["class_names"][1:]
    # One row a case, branch and class; two branches have an ensemble too.
    branches = sorted({row["branch"] for row in rows})
    assert {"student", "teacher"} <= set(branches)
    assert [(r["case_id"], r["branch"], r["class"]) for r in sorted(rows, key=by_branch)] == [
        ("c4", branch, name) for branch in branches for name in names
    ]
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["versions"]["mixseg"] == version("mixseg")
    assert summary["git_commit"] is None  # the code is not a checkout


def test_one_epoch_of_training_makes_new_weights(place: Place, tmp_path: Path) -> None:
    config = place.folder / "configs" / "train.yaml"
    settings = short(load(config))
    before = read_weights(place.folder / "models" / "model.pt")
    place.run("training", "train.yaml", dataset_dir=place.data, output_dir=tmp_path, **settings)
    after = read_weights(tmp_path / "models" / "model.pt")
    assert misfits(build_network(config, {}), after) == []
    assert any(not torch.equal(after[name].to(v.dtype), v) for name, v in before.items())
    assert (tmp_path / "checkpoint.pt").is_file()
    # The downloaded folder is as it was: its weights, too.
    assert check_sums(place.folder) == []


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dataset", DATASETS)
def test_sisters_arrive_infer_and_train(dataset: str, tmp_path: Path) -> None:
    names = [name for name in BUNDLES if name.startswith(f"{dataset}_")]
    names = [name for name in names if name not in ROUTES]
    there = tmp_path / "there"
    there.mkdir()
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(served(name, tmp_path / name)) for name in names]
        bundles = []
        for name, place in zip(names, places, strict=True):
            settings = short(load(ROOT / "bundles" / name / "configs" / "train.yaml"))
            bundles.append((f"{place.url}/{place.zip.name}", name, settings))
        place = places[0]
        # One environment serves all, as none asks for other packages than the first.
        for other in places:
            assert names_in(other.site) == names_in(place.site)
        printed = place.python("-c", EACH, place.data, json.dumps(bundles), cwd=there)
    said = [line.split() for line in printed.splitlines() if line.startswith("code ")]
    folders = [there / f"{name}_at" for name in names]
    assert said == [
        ["code", str(at / name / "mixseg")] for at, name in zip(folders, names, strict=True)
    ]
    for at, name in zip(folders, names, strict=True):
        assert len(list((at / "masks").iterdir())) == 5, name
        before, after = (read_weights(at / path) for path in ("packed.pt", "run/models/model.pt"))
        assert misfits(build_network(at / name / "configs" / "train.yaml", {}), after) == [], name
        assert any(not torch.equal(after[key].to(v.dtype), v) for key, v in before.items()), name
        assert (at / "run" / "checkpoint.pt").is_file(), name
        # The downloaded folder is as it was: its weights, too.
        assert check_sums(at / name) == [], name


def test_the_release_on_github(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("requests")
    name, scripts = place.folder.name, monai.bundle.scripts
    asked: list[str] = []

    def get(url: str) -> SimpleNamespace:
        asked.append(url)
        text = place.zip.with_name("model_info.json").read_text()
        return SimpleNamespace(text=text, raise_for_status=lambda: None)

    real = scripts._get_git_release_url

    def local(*arguments: str, **keywords: str) -> str:
        asked.append(real(*arguments, **keywords))
        return f"{place.url}/{asked[-1].rpartition('/')[2]}"

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(scripts.requests, "get", get)
    monkeypatch.setattr(scripts, "_get_git_release_url", local)
    # No version is named: the index says which is the latest.
    monai.bundle.download(
        name=name, source="github", repo="owner/mixseg/v1", bundle_dir=tmp_path, progress=False
    )
    assert asked == [
        "https://raw.githubusercontent.com/owner/mixseg/v1/models/model_info.json",
        f"https://github.com/owner/mixseg/releases/download/v1/{place.zip.name}",
    ]
    index = json.loads(place.zip.with_name("model_info.json").read_text())
    assert index[place.zip.stem]["source"] == asked[1]
    assert check_sums(tmp_path / name) == []


def test_the_snapshot_of_a_hub(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, hub = place.folder.name, tmp_path / "hub"
    tags: list[str] = []

    def upload_folder(repo_id: str, folder_path: str) -> str:
        shutil.copytree(folder_path, hub)
        (hub / ".gitattributes").write_text("*.pt filter=lfs\n")  # a hub's own
        return repo_id

    def snapshot_download(repo_id: str, revision: str, local_dir: str) -> None:
        assert (repo_id, revision) == ("owner/toy", "0.1.0")
        shutil.copytree(hub, local_dir)
        (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True)
        (Path(local_dir) / ".cache" / "huggingface" / "x.metadata").write_text("")

    api = SimpleNamespace(
        create_repo=lambda **_: None,
        upload_folder=upload_folder,
        create_tag=lambda repo_id, tag, exist_ok: tags.append(tag),
    )
    fake = SimpleNamespace(HfApi=lambda token: api, snapshot_download=snapshot_download)
    monkeypatch.setattr(monai.bundle.scripts, "huggingface_hub", fake)
    with zipfile.ZipFile(place.zip) as file:
        file.extractall(tmp_path / "upload")
    monai.bundle.push_to_hf_hub(
        repo="owner/toy", name=name, bundle_dir=str(tmp_path / "upload"), version="0.1.0"
    )
    assert tags == ["0.1.0"]
    monai.bundle.download(
        name=name,
        version="0.1.0",
        source="huggingface_hub",
        repo="owner/toy",
        bundle_dir=tmp_path / "bundles",
    )
    # What the hub adds, its copy of the card above all, is not a fault.
    folder = tmp_path / "bundles" / name
    assert (folder / "README.md").read_text().startswith("---\ntags:\n- monai\n")
    assert check_sums(folder) == []
    (folder / "configs" / "train.yaml").write_text("")
    assert len(check_sums(folder)) == 1
