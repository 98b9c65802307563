"""Does a bundle keep MONAI's rules and this project's."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import monai.bundle

from mixseg.apps.bundle.archive import unpack
from mixseg.apps.bundle.find import check_name
from mixseg.apps.pack.checks.configs import (
    SCHEMA_NAME,
    check_files,
    check_overlays,
    check_packages,
    check_shared,
    check_style,
    check_targets,
)
from mixseg.apps.pack.checks.files import (
    NotChecked,
    check_checksums,
    check_compiled,
    check_hidden_modules,
    check_large_files,
    check_links,
    check_sizes,
    check_version,
    check_weight_values,
    repository_of,
)
from mixseg.apps.pack.checks.network import (
    check_code,
    check_network,
    check_onnx,
    check_properties,
    check_torchscript,
    check_weights,
)
from mixseg.apps.pack.pack import pack_bundle
from mixseg.configuration.loading import cause_of, load, silence

Check = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Outcome:
    """What a check found: nothing, faults, or why it was not made."""

    faults: list[str] = field(default_factory=list)
    not_checked: str = ""

    @property
    def word(self) -> str:
        """``failed``, ``not checked`` or ``ok``."""
        return "failed" if self.faults else "not checked" if self.not_checked else "ok"


def check_metadata(bundle: Path) -> list[str]:
    """metadata.json follows the schema (``monai.bundle verify_metadata``, without the network)."""
    source = files("mixseg.apps.pack").joinpath(SCHEMA_NAME)
    with tempfile.TemporaryDirectory() as folder, as_file(source) as schema:
        # A schema that is there is not downloaded.
        copy = shutil.copy(schema, Path(folder) / "schema.json")
        monai.bundle.verify_metadata(
            meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(copy)
        )
    return []


def check_release(bundle: Path) -> list[str]:
    """A version that is out is not another one by now.

    The index of what was released is ``models/model_info.json`` of the repository.
    """
    root = repository_of(bundle)
    index = root / "models" / "model_info.json" if root else None
    if index is None or not index.is_file():
        raise NotChecked("there is no models/model_info.json of released versions")
    name = f"{bundle.resolve().name}_v{load(bundle / 'configs' / 'metadata.json')['version']}"
    released = load(index).get(name)
    if released is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        _, digest = pack_bundle(bundle, output=Path(folder))
    if digest == released.get("checksum"):
        return []
    return [
        f"{name} was released with other content (models/model_info.json): raise the version in "
        "configs/metadata.json, and describe the change in its changelog"
    ]


#: Checks that read the files alone: no code of the bundle is imported and no expression evaluated.
FILE_CHECKS: dict[str, Check] = {
    "checksums": check_checksums,
    "compiled code": check_compiled,
    "hidden modules": check_hidden_modules,
    "files": check_files,
    "name": check_name,
    "metadata": check_metadata,
    "version and changelog": check_version,
    "package versions": check_packages,
    "style of the configurations": check_style,
    "overlays": check_overlays,
    "parts of known packages": check_targets,
    "train and inference agree": check_shared,
    "large files": check_large_files,
    "size of the weights": check_sizes,
    "values of the weights": check_weight_values,
    "links of the model card": check_links,
}
#: Checks that run the bundle's code: they import it, or build what the configuration names.
RUNNING_CHECKS: dict[str, Check] = {
    "released versions": check_release,
    "code inside": check_code,
    "weights fit": check_weights,
    "properties": check_properties,
    "network in and out": check_network,
    "TorchScript export": check_torchscript,
    "ONNX export": check_onnx,
}


def verify_bundle(bundle: Path, run: bool = False) -> dict[str, Outcome]:
    """Make the checks that read a bundle, and those that run it where they are asked for.

    Args:
        run: make the checks that run the bundle's code, too. Where a packed bundle is not what was
            packed, nothing of it is run all the same.

    Returns:
        Name of each check → its outcome. A check that raises, for want of a file say, has failed
        with that message.
    """
    results = {name: _outcome(check, bundle) for name, check in FILE_CHECKS.items()}
    for name, check in RUNNING_CHECKS.items():
        if not run:
            results[name] = Outcome(not_checked="runs the bundle's code: add --run to allow it")
        elif results["checksums"].faults:
            results[name] = Outcome(not_checked="nothing is run of files that were changed")
        else:
            results[name] = _outcome(check, bundle)
    return results


@contextlib.contextmanager
def folder_of(place: Path) -> Iterator[Path]:
    """The folder of a bundle; that of a zip for as long as it is looked at.

    Raises:
        ValueError: it is neither, no bundle, or the zip is refused.
    """
    if place.is_dir():
        if not (place / "configs").is_dir():
            raise ValueError(
                f"'{place}' is not a bundle, it has no configs/: give a bundle's folder or zip"
            )
        yield place
    elif place.suffix.lower() == ".zip" and place.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield unpack(place, folder)
    else:
        raise ValueError(
            f"'{place}' is not a folder or a zip of a bundle; without a name, 'mixseg verify' "
            "checks all below ./bundles"
        )


def _outcome(check: Check, bundle: Path) -> Outcome:
    try:
        with silence():
            return Outcome(check(bundle))
    except NotChecked as reason:
        return Outcome(not_checked=str(reason))
    except Exception as error:  # a broken bundle may raise anything; the rest is still checked
        return Outcome([_explain(error)])


def _explain(error: BaseException) -> str:
    """The cause, in one paragraph."""
    text = "".join(traceback.format_exception_only(cause_of(error))).strip()
    return text.split("\n\nFailed validating")[0]
