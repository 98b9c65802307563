"""A packed bundle, served, and an environment of links to try it in.

The environment holds MONAI, the packages that the packed metadata list, and what these require.
There is no mixseg in it but the one inside the bundle.
"""

from __future__ import annotations

import contextlib
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
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from mixseg.apps.bundle.weights import build_network
from mixseg.apps.pack.pack import pack_bundle, write_index
from mixseg.configuration.loading import load
from mixseg.configuration.yaml_text import set_values

ROOT = Path(__file__).resolve().parents[3]
#: Keys of metadata.json beside required_packages_version, and their packages.
OWN_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
#: Settings that make one epoch take seconds; those that a bundle has are set.
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


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without writing to the screen."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


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

    def run(self, run_id: str, *files: str, **settings: object) -> str:
        """``python -m monai.bundle run`` in the folder of the bundle."""
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        names = repr([f"configs/{name}" for name in files])
        words = ("run", run_id, "--config_file", names, *options)
        return self.python("-m", "monai.bundle", *words, cwd=self.folder)


def put_weights(bundle: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """Write settings into a bundle's configurations, and random weights that fit them."""
    for name in ("train.yaml", "inference.yaml"):
        path = bundle / "configs" / name
        known = load(path)
        own = {key: value for key, value in settings.items() if key in known}
        path.write_text(set_values(path.read_text(), own))
    torch.manual_seed(0)
    state = build_network(bundle / "configs" / "train.yaml", {}).state_dict()
    weights = bundle / "models" / "model.pt"
    weights.parent.mkdir(exist_ok=True)
    torch.save({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, weights)
    return weights


def packed_zip(bundle: Path, folder: Path) -> Path:
    """Pack a copy of a bundle, with its own weights or random ones of a narrower network."""
    copy = Path(shutil.copytree(bundle, folder / bundle.name))
    if not (copy / "models" / "model.pt").is_file():
        features = load(copy / "configs" / "train.yaml")["features"]
        put_weights(copy, torch.float16, features=[max(1, f // 8) for f in features])
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
    color = config.get("in_channels", 1) > 1
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
            entry[kind] = f"{kind}/c{i}{'.png' if color else '.nii.gz'}"
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if color:
                shown = values[..., :3].astype(np.uint8) if kind == "image" else values[..., 0]
                Image.fromarray(shown).save(folder / entry[kind])
                continue
            volume = nib.Nifti1Image(values, np.diag([1.5, 1.25, 3.0, 1.0]))
            nib.save(volume, folder / entry[kind])
        content.setdefault(split, []).append(entry)
    (folder / "datalist.json").write_text(json.dumps(content))


def short(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of one quick epoch; kinds that a method does not use stay out."""
    used = {name: value for name, value in SHORT.items() if config.get(name)}
    crop = config.get("crop_size")
    if not (isinstance(crop, list) and len(crop) == 3):  # that of slices follows from their size
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
