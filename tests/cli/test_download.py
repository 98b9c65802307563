"""Every bundle, packed, downloaded and run where nothing but what it asks for is installed.

The environment is made of links: MONAI, the packages that the packed metadata list, and what
these require. There is no mixseg in it but the one inside the bundle.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import monai.bundle.scripts
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from mixseg.cli.bundle_configs import load
from mixseg.cli.checksums import check_sums
from mixseg.cli.pack import COMPACT, pack_bundle, write_index
from mixseg.cli.weights import build_network, misfits, read_weights

ROOT = Path(__file__).resolve().parents[2]
#: A new bundle is part of this by itself.
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.yaml"))
#: One a data set goes every way; the others share all of it but the method and its training.
ROUTES = [name for name in BUNDLES if name.endswith("_confkd")]
DATASETS = sorted({name.rpartition("_")[0] for name in BUNDLES})
#: Keys of metadata.json beside required_packages_version, and their packages.
OWN_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
#: Knobs that make one epoch take seconds; those that a bundle has are set.
SHORT = {
    "max_epochs": 1,
    "epoch_length": 1,
    "val_interval": 1,
    "num_full": 1,
    "num_partial": 1,
    "num_unlabeled": 1,
    "num_noisy": 1,
    "batch_full": 1,
    "batch_partial": 1,
    "batch_unlabeled": 1,
    "batch_noisy": 1,
    "batch_size": 1,
    "batch_strong": 1,
    "crop_size": [32, 32, 16],
    "ramps": {},
}
#: Prints where mixseg comes from, and whether two things that are not needed can be found.
WHENCE = """
import importlib.util, json, mixseg, mixseg.engines
from importlib.metadata import version
missing = [importlib.util.find_spec(name) is None for name in ("mixseg.cli", "typer")]
print(json.dumps([mixseg.__path__, mixseg.engines.__file__, version("mixseg"), *missing]))
"""

#: Downloads bundles, infers and trains with each and its own code: data, then of each bundle its
#: address, name and the knobs of the training. MONAI is imported once for all.
EACH = """
import json, os, shutil, sys
import monai.bundle

data, bundles = sys.argv[1], json.loads(sys.argv[2])
start = os.getcwd()
for url, name, knobs in bundles:
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
        **knobs, **common
    )
    import mixseg
    print("code", mixseg.__path__[0])
    for module in [module for module in sys.modules if module.partition(".")[0] == "mixseg"]:
        del sys.modules[module]
    os.chdir(start)
"""

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A packed bundle and where it is tried.

    Attributes:
        zip: what was packed.
        url: where the zip's folder is served.
        site: the links, all that Python finds besides its standard library.
        folder: the bundle as it was downloaded.
        data: datalist.json and images that suit it.
    """

    zip: Path
    url: str
    site: Path
    folder: Path
    data: Path

    def python(self, *words: object, cwd: Path) -> str:
        """Run Python in a process that has the links alone; returns what it prints."""
        kept = ("PATH", "HOME", "TMPDIR", "OMP_NUM_THREADS", "LANG")
        done = subprocess.run(
            # -S: no site-packages, -s: no packages of the user.
            [sys.executable, "-S", "-s", *map(str, words)],
            cwd=cwd,
            env={
                **{name: os.environ[name] for name in kept if name in os.environ},
                "PYTHONPATH": str(self.site),
                "CUDA_VISIBLE_DEVICES": "",
                "no_proxy": "127.0.0.1",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def run(self, run_id: str, *files: str, **knobs: object) -> str:
        """``python -m monai.bundle run`` in the folder of the bundle."""
        options = [word for name, value in knobs.items() for word in (f"--{name}", value)]
        names = repr([f"configs/{name}" for name in files])
        words = ("run", run_id, "--config_file", names, *options)
        return self.python("-m", "monai.bundle", *words, cwd=self.folder)


def packed_zip(bundle: Path, folder: Path) -> Path:
    """Pack a copy of a bundle, with its compact weights or random ones of their shape."""
    copy = Path(shutil.copytree(bundle, folder / bundle.name))
    overlay, weights = copy / "configs" / COMPACT, copy / "models" / "compact.pt"
    if not overlay.is_file():
        features = load(copy / "configs" / "train.yaml")["features"]
        overlay.write_text(yaml.safe_dump({"features": [max(1, f // 8) for f in features]}))
    if not weights.is_file():
        weights.parent.mkdir(exist_ok=True)
        state = build_network(copy / "configs" / "train.yaml", load(overlay)).state_dict()
        halved = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        torch.save(halved, weights)
    target, digest = pack_bundle(copy, output=folder / "dist")
    write_index(target.with_name("model_info.json"), target, digest, "owner/mixseg/v1")
    return target


def link_packages(metadata: dict[str, Any], site: Path) -> None:
    """Link MONAI, the packages that a metadata.json lists, and what they require."""
    site.mkdir()
    waiting = [*OWN_KEYS.values(), *metadata["required_packages_version"]]
    done: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in done:
            continue
        done.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # not needed on this system
            continue
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    assert not (site / "mixseg").exists()


def make_data(folder: Path, config: dict[str, Any]) -> None:
    """Small blocks, in volumes or in pictures; the last two cases validate and test."""
    classes = config.get("source_classes", config["class_names"])
    content: dict[str, Any] = {"classes": classes, "unlabeled": len(classes)}
    colour = config.get("in_channels", 1) > 1
    for i, split in enumerate(("training",) * 3 + ("validation", "test")):
        label = np.zeros((40, 44, 6), np.uint8)
        for value in range(1, len(classes)):
            label[6 * value : 6 * value + 5, 8:36] = value
        drawn = np.full_like(label, len(classes))
        drawn[:, 20:22] = label[:, 20:22]
        noise = np.random.default_rng(i).normal(0, 5, label.shape)
        image = (40.0 * label + 50 + noise).astype(np.float32)
        entry = {"case_id": f"c{i}", "supervision": "full"}
        for kind, values in (("image", image), ("label", label), ("scribble", drawn)):
            entry[kind] = f"{kind}/c{i}{'.png' if colour else '.nii.gz'}"
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if colour:
                shown = values[..., :3].astype(np.uint8) if kind == "image" else values[..., 0]
                Image.fromarray(shown).save(folder / entry[kind])
                continue
            volume = nib.Nifti1Image(values, np.diag([1.5, 1.25, 3.0, 1.0]))
            nib.save(volume, folder / entry[kind])
        content.setdefault(split, []).append(entry)
    (folder / "datalist.json").write_text(json.dumps(content))


def short(config: dict[str, Any]) -> dict[str, Any]:
    """Knobs of one quick epoch; kinds that a method does not use stay out."""
    used = {name: value for name, value in SHORT.items() if config.get(name)}
    if not isinstance(config.get("crop_size"), list):  # of slices, it follows from their size
        used.pop("crop_size", None)
    return used


@contextlib.contextmanager
def served(name: str, folder: Path) -> Iterator[Place]:
    """Pack a bundle, serve it, and lay out an environment and data for it; nothing is fetched."""
    target = packed_zip(ROOT / "bundles" / name, folder / "source")
    handler = functools.partial(Silent, directory=str(target.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        made = Place(
            target,
            f"http://127.0.0.1:{server.server_port}",
            folder / "site",
            folder / "bundles" / name,
            folder / "data",
        )
        with zipfile.ZipFile(target) as file:
            metadata = json.loads(file.read(f"{name}/configs/metadata.json"))
        link_packages(metadata, made.site)
        make_data(made.data, load(ROOT / "bundles" / name / "configs" / "train.yaml"))
        yield made
        server.shutdown()
        thread.join()


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


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without writing to the screen."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


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
    assert summary["git_commit"] is None  # the code is no checkout


def test_one_epoch_of_training_makes_new_weights(place: Place, tmp_path: Path) -> None:
    config = place.folder / "configs" / "train.yaml"
    knobs = short(load(config))
    before = read_weights(place.folder / "models" / "model.pt")
    place.run("training", "train.yaml", dataset_dir=place.data, output_dir=tmp_path, **knobs)
    after = read_weights(place.folder / "models" / "model.pt")
    assert misfits(build_network(config, {}), after) == []
    assert any(not torch.equal(after[name].to(v.dtype), v) for name, v in before.items())
    assert (tmp_path / "checkpoint.pt").is_file()
    # Nothing else of the folder was touched, and nothing left in it.
    (fault,) = check_sums(place.folder)
    assert fault.startswith("models/model.pt is not the file that was packed")


@pytest.mark.parametrize("dataset", DATASETS)
def test_sisters_arrive_infer_and_train(dataset: str, tmp_path: Path) -> None:
    names = [name for name in BUNDLES if name.startswith(dataset) and name not in ROUTES]
    there = tmp_path / "there"
    there.mkdir()
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(served(name, tmp_path / name)) for name in names]
        bundles = []
        for name, place in zip(names, places, strict=True):
            knobs = short(load(ROOT / "bundles" / name / "configs" / "train.yaml"))
            bundles.append((f"{place.url}/{place.zip.name}", name, knobs))
        place = places[0]
        printed = place.python("-c", EACH, place.data, json.dumps(bundles), cwd=there)
    said = [line.split() for line in printed.splitlines() if line.startswith("code ")]
    folders = [there / f"{name}_at" for name in names]
    assert said == [
        ["code", str(at / name / "mixseg")] for at, name in zip(folders, names, strict=True)
    ]
    for at, name in zip(folders, names, strict=True):
        assert len(list((at / "masks").iterdir())) == 5, name
        before, after = (
            read_weights(at / path) for path in ("packed.pt", f"{name}/models/model.pt")
        )
        assert misfits(build_network(at / name / "configs" / "train.yaml", {}), after) == [], name
        assert any(not torch.equal(after[key].to(v.dtype), v) for key, v in before.items()), name
        assert (at / "run" / "checkpoint.pt").is_file(), name
        # Nothing else of the folder was touched, and nothing left in it.
        (fault,) = check_sums(at / name)
        assert fault.startswith("models/model.pt is not the file that was packed"), name


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
    # What the hub adds, its copy of the card above all, is no fault.
    folder = tmp_path / "bundles" / name
    assert (folder / "README.md").read_text().startswith("---\ntags:\n- monai\n")
    assert check_sums(folder) == []
    (folder / "configs" / "train.yaml").write_text("")
    assert len(check_sums(folder)) == 1
