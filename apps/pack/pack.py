"""A bundle, its weights and the code that it needs in one file."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from packaging.version import InvalidVersion, Version

from mixseg.apps.bundle.archive import write_zip
from mixseg.apps.bundle.find import check_name, find_trained
from mixseg.apps.bundle.precision import Precision
from mixseg.apps.bundle.sums import write_sums
from mixseg.apps.bundle.weights import (
    build_network,
    bundle_weights,
    convert,
    misfits,
    read_weights,
)
from mixseg.apps.pack.checks.configs import SCHEMA_NAME, check_overlays, check_shared, check_style
from mixseg.apps.pack.texts import packed_card, packed_metadata
from mixseg.apps.pack.vendor import (
    copy_modules,
    needed_requirements,
    reached_modules,
    write_version,
)
from mixseg.apps.plan.card import FILL_IN
from mixseg.configuration.loading import load, overlays
from mixseg.configuration.record import is_run
from mixseg.configuration.yaml_text import set_values
from mixseg.files.atomic import strict_json, write_atomically, write_text_atomic
from mixseg.files.documents import read_object
from mixseg.networks.dual_branch.base import present_names

# Overlays of the repository alone.
_LEFT_OUT = frozenset({"quickstart.yaml"})
_COMPLETE = ("train.yaml", "inference.yaml")
#: Where the data of the one who packs lie concerns nobody else, as in a bundle of `mixseg new`.
_PLACES = {"datalist": None, "dataset_dir": "$@bundle_root + '/data'"}
#: A bundle's trainings go to a folder of their own, a run is one.
_RUN_PLACES = {**_PLACES, "output_dir": "$@bundle_root + '/eval'"}


def pack_bundle(
    bundle: Path,
    weights: Path | None = None,
    output: Path = Path("dist"),
    version: str | None = None,
    precision: Precision = Precision.KEEP,
) -> tuple[Path, str]:
    """Write the zip of a run, or of a bundle with weights; see :func:`mixseg.cli.pack.pack`.

    Returns:
        The zip, and its SHA-256, which is also beside it in ``<zip>.sha256``.

    Raises:
        ValueError: something is missing, the weights do not fit strictly into the network of
            both configurations, or the packed configuration breaks a rule of ``mixseg verify``;
            names the file.
    """
    _check_source(bundle)
    source = bundle
    if weights is None:
        source = find_trained(bundle)
        weights = bundle_weights(source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / bundle.resolve().name
        number = _build(source, folder, version)
        _add_weights(folder, weights, precision)
        write_sums(folder)
        target = output / f"{folder.name}_v{number}.zip"
        return target, write_zip(folder, target)


def write_index(path: Path, target: Path, digest: str, repo: str) -> None:
    """Add a zip to the index that ``monai.bundle download`` reads where no version is named.

    It looks for ``models/model_info.json`` in the repository at the tag of the release.

    Args:
        digest: its SHA-256. MONAI does not compare it.
        repo: ``OWNER/REPOSITORY/TAG`` of the release that the zip is attached to.
    """
    owner, name, tag = repo.split("/")
    index = read_object(path) if path.is_file() else {}
    index[target.stem] = {
        "checksum": digest,
        "checksum_type": "sha256",
        "source": f"https://github.com/{owner}/{name}/releases/download/{tag}/{target.name}",
    }
    text = json.dumps(dict(sorted(index.items())), indent=4) + "\n"
    write_text_atomic(path, text)


def _check_source(bundle: Path) -> None:
    for name in ("configs/metadata.json", *(f"configs/{n}" for n in _COMPLETE), "LICENSE"):
        if not (bundle / name).is_file():
            raise ValueError(f"there is no '{bundle / name}': '{bundle}' is not a whole bundle")
    if (bundle / "mixseg").exists():
        raise ValueError(f"'{bundle}' is packed already: pack the folder that it was made from")
    if faults := check_name(bundle):
        raise ValueError("; ".join(faults))
    forms = [
        str(bundle / name)
        for name in ("docs/data_license.txt", "docs/README.md", "configs/metadata.json")
        if (bundle / name).is_file()
        and FILL_IN.lower() in (bundle / name).read_text(encoding="utf-8").lower()
    ]
    if forms:
        raise ValueError(
            f"these files say '{FILL_IN}': {', '.join(forms)}; state in them whose data and "
            "weights these are and on what terms others may use them, then pack again"
        )


def _build(bundle: Path, folder: Path, version: str | None) -> str:
    """Everything but weights and sums. Returns the bundle's version."""
    configs = folder / "configs"
    configs.mkdir(parents=True)
    places = _RUN_PLACES if is_run(bundle) else _PLACES
    names = {path.name for path in overlays(bundle)} - _LEFT_OUT
    for name in sorted(names | {*_COMPLETE}):
        text = (bundle / "configs" / name).read_text(encoding="utf-8")
        known = load(bundle / "configs" / name)
        values = {}
        if "network_def" in known:  # complete, as those of a run are
            values = _PLACES if name == "inference.yaml" else places
        _write(configs / name, set_values(text, {k: v for k, v in values.items() if k in known}))
    # monai.bundle.load reads no YAML.
    _write(configs / "inference.json", strict_json(load(configs / "inference.yaml")))
    if (bundle / "configs" / "logging.conf").is_file():
        shutil.copyfile(bundle / "configs" / "logging.conf", configs / "logging.conf")
    _write(configs / SCHEMA_NAME, files("mixseg.apps.pack").joinpath(SCHEMA_NAME).read_text())
    shutil.copyfile(bundle / "LICENSE", folder / "LICENSE")
    for path in sorted((bundle / "docs").rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    card = folder / "docs" / "README.md"
    if card.is_file():
        train = (configs / "train.yaml").read_text(encoding="utf-8")
        _write(card, packed_card(card.read_text(encoding="utf-8"), train))
    modules = reached_modules(sorted(configs.glob("*.yaml")))
    required = needed_requirements(modules)
    copy_modules(modules, folder)
    write_version(required, folder)
    source = (bundle / "configs" / "metadata.json").read_text(encoding="utf-8")
    _write(configs / "metadata.json", packed_metadata(source, required, version))
    faults = [
        fault for check in (check_style, check_shared, check_overlays) for fault in check(folder)
    ]
    if faults:
        raise ValueError("the packed configuration would be wrong: " + "; ".join(faults))
    number = str(load(configs / "metadata.json")["version"])
    try:
        Version(number)
    except InvalidVersion as error:
        raise ValueError(f"'{number}' is not a version: write it like 0.1.0") from error
    return number


def _add_weights(folder: Path, source: Path, precision: Precision) -> None:
    """Put weights into models/model.pt if they fit strictly."""
    networks = {name: build_network(folder / "configs" / name, {}) for name in _COMPLETE}
    weights = present_names(networks["inference.yaml"], convert(read_weights(source), precision))
    faults = [f"{name}: {fault}" for name in networks for fault in misfits(networks[name], weights)]
    if faults:
        raise ValueError(
            f"the weights '{source}' do not fit the configuration: pack the folder of the run that "
            "trained them:\n  " + "\n  ".join(faults)
        )
    target = folder / "models" / "model.pt"
    target.parent.mkdir()
    # Saved anew, and plain: MONAI and MONAI Label take a state dict as it is, and a checkpoint's
    # other contents are nobody's business. The records in the file do not depend on its place.
    write_atomically(target, lambda file: torch.save(dict(sorted(weights.items())), file))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
