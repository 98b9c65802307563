"""Checks of a bundle's configuration files as text: no network is built, nothing is run.

Each check takes the bundle's folder and returns what is wrong, one line a fault.
"""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from importlib.metadata import PathDistribution, requires, version
from pathlib import Path
from pydoc import locate
from typing import Any

import tomllib
from monai.bundle import ComponentLocator, ConfigComponent
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mixseg.apps.bundle.find import ROOT, is_packed
from mixseg.apps.bundle.sums import SUMS_NAME
from mixseg.configuration.loading import load, overlays, strings

#: Files that every bundle has (DESIGN: Bundle).
FILES = (
    "configs/metadata.json",
    "configs/train.yaml",
    "configs/evaluate.yaml",
    "configs/inference.yaml",
    "configs/multi_gpu_train.yaml",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "LICENSE",
)

#: The schema of metadata.json, as it lies beside it in a packed bundle.
SCHEMA_NAME = "metadata.schema.json"
#: Files that a packed bundle has beyond those of every bundle.
PACKED_FILES = (f"configs/{SCHEMA_NAME}", "models/model.pt", "mixseg/__init__.py", SUMS_NAME)

# Ids that MONAI's workflows look up by themselves.
_WORKFLOW_IDS = frozenset({"imports", "initialize", "run", "finalize"})
# What train.yaml and inference.yaml may each say in their own way; network_def is compared.
_OWN_WORDS = _WORKFLOW_IDS | {"handlers", "network", "output_dir"}
#: metadata.json's names of the packages that have keys of their own.
PACKAGE_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}

#: Packages that are imported by now: to name a part of them runs no code of the bundle.
_OWN_PACKAGES = frozenset({"mixseg", "monai", "torch", "ignite"})

_BY_POSITION = re.compile(r"(#|::)\d+(#|::|$|\W)|\[\d+\]")


def check_files(bundle: Path) -> list[str]:
    """The files of the contract exist, and are not empty or MONAI's templates of licenses."""
    names = (*FILES, *PACKED_FILES) if is_packed(bundle) else FILES
    missing = [f"{name} is missing" for name in names if not (bundle / name).is_file()]
    faults = []
    for name in (name for name in names if (bundle / name).is_file()):
        content = (bundle / name).read_bytes().strip()
        if not content:
            faults.append(f"{name} is empty")
        elif content.startswith(b"Select a license"):
            faults.append(
                f"{name} is the template of 'monai.bundle init_bundle': put the terms there"
            )
    return missing + faults


def check_packages(bundle: Path) -> list[str]:
    """The versions of metadata.json are ones that mixseg allows.

    A packed bundle names all that the code inside requires, and no mixseg.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    stated = {package: metadata[key] for key, package in PACKAGE_KEYS.items()}
    stated |= metadata["required_packages_version"]
    packed = is_packed(bundle)
    required = _vendored_requirements(bundle) if packed else requirements()
    allowed = {canonicalize_name(r.name): r for r in required}
    faults = []
    if "optional_packages_version" in metadata:
        # MONAI renames the key in the file's text, so that the two dictionaries become one.
        faults.append("optional_packages_version makes MONAI forget required_packages_version")
    for package, number in stated.items():
        name = canonicalize_name(package)
        if name == "mixseg" and not packed:
            if Version(number) != Version(version("mixseg")):
                faults.append(f"mixseg {number} is stated, {version('mixseg')} is installed")
        elif name not in allowed:
            faults.append(f"{package} {number} is stated, but mixseg does not require {package}")
        elif not allowed[name].specifier.contains(number, prereleases=True):
            wanted = allowed[name].specifier
            faults.append(f"{package} {number} is stated, but mixseg requires {package}{wanted}")
    known = {canonicalize_name(package) for package in stated}
    if packed:
        faults += [f"{name} is required, but not stated" for name in allowed if name not in known]
    elif "mixseg" not in known:
        faults.append("required_packages_version does not name mixseg, whose parts the files use")
    return faults


def requirements() -> list[Requirement]:
    """What mixseg requires, without extras.

    In a checkout it is read from pyproject.toml: the metadata of an editable installation are as
    old as the installation.
    """
    project = ROOT / "pyproject.toml"
    if project.is_file():
        content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        required = [Requirement(text) for text in content["dependencies"]]
    else:
        required = [Requirement(text) for text in requires("mixseg") or ()]
    return [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]


def _vendored_requirements(bundle: Path) -> list[Requirement]:
    """What the code inside a packed bundle requires.

    Raises:
        ValueError: the bundle does not say.
    """
    for path in bundle.glob("mixseg-*.dist-info"):
        return [Requirement(text) for text in PathDistribution(path).requires or ()]
    raise ValueError("there is no mixseg-*.dist-info: pack the bundle again")


def check_style(bundle: Path) -> list[str]:
    """No lambda, and nothing addressed by its position in a list."""
    faults = []
    for path in sorted((bundle / "configs").glob("*.yaml")):
        for place, text in strings(load(path)):
            if text.startswith("$") and re.search(r"\blambda\b\s*[\w,\s*]*:", text):
                faults.append(f"{path.name}, {place}: lambda in {text!r}")
            if text.startswith(("$", "@", "%")) and _BY_POSITION.search(text):
                faults.append(f"{path.name}, {place}: a position in {text!r}")
        for key in load(path):
            if _BY_POSITION.search(key):
                faults.append(f"{path.name}: the key {key!r} addresses by position")
    return faults


def check_shared(bundle: Path) -> list[str]:
    """Settings of both train.yaml and inference.yaml have the same values.

    Settings of both, the network (its ``branch`` apart), the inferer, and the preprocessing: the
    arguments of ``preparation`` that both have, and its use in training, validation and inference.
    """
    train, inference = (
        load(bundle / "configs" / name) for name in ("train.yaml", "inference.yaml")
    )
    faults = [
        f"{name} is {train[name]!r} in train.yaml and {inference[name]!r} in inference.yaml"
        for name in train
        if name in inference
        and name not in _OWN_WORDS
        and not isinstance(train[name], dict)
        and train[name] != inference[name]
    ]
    networks = [
        {key: value for key, value in config["network_def"].items() if key != "branch"}
        for config in (train, inference)
    ]
    faults += _differences("network_def", *networks)
    faults += _differences("inferer", train["validate"]["inferer"], inference["inferer"])
    return faults + _preparation_faults(train, inference)


def _preparation_faults(train: dict[str, Any], inference: dict[str, Any]) -> list[str]:
    """Where the shared preprocessing is not the same object in training and inference."""
    one, other = (config.get("preparation", {}) for config in (train, inference))
    shared = [{k: part[k] for k in part if k in one and k in other} for part in (one, other)]
    faults = _differences("preparation", *shared)
    faults += [
        f"preparation: {name} is in inference.yaml and not in train.yaml"
        for name in other
        if name not in one
    ]
    wanted = {
        "train.yaml: train#preprocessing": (
            train["train"]["preprocessing"],
            "$@preparation.training(",
        ),
        "train.yaml: validate#dataset#transform": (
            train["validate"]["dataset"].get("transform"),
            "$@preparation.evaluation",
        ),
        "inference.yaml: preprocessing": (inference["preprocessing"], "$@preparation.inference"),
    }
    for place, (found, text) in wanted.items():
        if not str(found).startswith(text):
            faults.append(f"{place} is {found!r}, not {text}…")
    return faults


def check_targets(bundle: Path) -> list[str]:
    """What the files build is from the packages that the bundle states, and no other code."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    stated = {name.replace("-", "_").lower() for name in metadata["required_packages_version"]}
    known = {*_OWN_PACKAGES, *stated}
    return [
        f"{path.name}, {place}: {text!r} is from none of the packages that metadata.json states"
        for path in sorted((bundle / "configs").glob("*.yaml"))
        for place, text in strings(load(path))
        if place.endswith("_target_")
        and "." in text
        and not text.startswith(("$", "@", "%"))
        and text.partition(".")[0].lower() not in known
    ]


def check_overlays(bundle: Path) -> list[str]:
    """Every key of an overlay changes something in train.yaml, or is read by the overlay itself."""
    base = load(bundle / "configs" / "train.yaml")
    faults = []
    for path in overlays(bundle):
        content = load(path)
        read = set(re.findall(r"[@%]([A-Za-z_]\w*)", " ".join(t for _, t in strings(content))))
        read |= _read_by_name(content)
        for key, value in content.items():
            parts = re.split(r"#|::", key.removeprefix("+"))
            if len(parts) == 1:
                own = parts[0] in read | _WORKFLOW_IDS or value == "@run"
                if parts[0] not in base and not own:
                    faults.append(f"{path.name}: {key!r} is not in train.yaml and nothing reads it")
                continue
            parent: Any = base
            for part in parts[:-1]:
                parent = parent.get(part) if isinstance(parent, dict) else None
            if not isinstance(parent, dict) or not (
                parts[-1] in parent or _accepts(parent, parts[-1])
            ):
                faults.append(f"{path.name}: {key!r} matches nothing in train.yaml")
    return faults


def _differences(what: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {key} is {one.get(key)!r} in train.yaml and {other.get(key)!r} in inference.yaml"
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key)
    ]


def _read_by_name(content: dict[str, Any]) -> set[str]:
    """Ids that parts of mixseg take by their names, see ``reads_entries``."""
    found: set[str] = set()
    for place, text in strings(content):
        if place.endswith("_target_") and text.startswith("mixseg."):
            found |= set(getattr(locate(text), "entries", {}).values())
    return found


def _accepts(component: dict[str, Any], argument: str) -> bool:
    """Whether the component takes an argument of this name."""
    if "_target_" not in component:
        return False
    name = str(component["_target_"])
    if "." in name and name.partition(".")[0] not in _OWN_PACKAGES:
        return True  # not imported to look
    target = ConfigComponent(component, locator=_locator()).resolve_module_name()
    built: Any = locate(target) if isinstance(target, str) else target
    if built is None:
        return True
    parameters = inspect.signature(built).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()
