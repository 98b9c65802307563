"""A MONAI Label server for a folder of scans, one command, offline."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

from mixseg.apps.label.access import is_local

INSTALL = (
    'pip install "monailabel==0.8.5" "pydicom<3" "dicomweb-client<0.60"'
    " (docs/monai_label.md has a way that fetches less)"
)
#: Files of a folder of studies that the server takes for scans.
EXTENSIONS = '["*.nii.gz", "*.nii", "*.nrrd", "*.mha"]'
#: Environment variable with the address at which the server listens, where it is for this machine
#: alone.
HOST_VARIABLE = "MIXSEG_LABEL_HOST"
#: ``patient001_frame12`` is a frame of ``patient001``.
PATIENT_PATTERN = r"^(.+?)_frame\d+$"


def check_installation() -> None:
    """Refuse an environment in which the server would not start.

    Raises:
        ValueError: says what to install.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise ValueError(f"MONAI Label is not installed; install it with: {INSTALL}")
    for package, limit in (("pydicom", "3"), ("dicomweb-client", "0.60")):
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise ValueError(f"{package} is not installed; install it with: {INSTALL}") from error
        if Version(found) >= Version(limit):
            raise ValueError(
                f"{package} {found} is installed, with which MONAI Label 0.8.5 does not start; "
                f'install: pip install "{package}<{limit}"'
            )


def server_command(
    work: Path, studies: Path, conf: Mapping[str, str], host: str, port: int
) -> list[str]:
    """The command line that starts the server."""
    command = [sys.executable, "-m", "monailabel.main", "start_server"]
    command += ["--app", str(work), "--studies", str(studies)]
    command += ["--host", host, "--port", str(port)]
    command += ["--uvicorn_app", "mixseg.apps.label.web:app"]
    for name, value in conf.items():
        command += ["--conf", name, value]
    return command


def server_environment(work: Path, scoring: bool, host: str) -> dict[str, str]:
    """Variables that make the server work offline and score only where asked to.

    Args:
        host: where the server listens; if it is for this machine alone, it is asked by no other
            name.
    """
    return {
        **os.environ,
        HOST_VARIABLE: host if is_local(host) else "",
        # Modules are not thrown away between requests: classes stay what they are.
        "MONAI_LABEL_RELOAD_APP_LIB": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": str(scoring).lower(),
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_DATASTORE_FILE_EXT": EXTENSIONS,
        "MONAI_LABEL_SESSION_PATH": str(work / "sessions"),
        "PYTHONUNBUFFERED": "1",
    }


def start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Become the server, so that ending this process ends it; returns its status elsewhere."""
    if os.name == "posix":
        os.execve(command[0], list(command), dict(environment))
    return subprocess.run(command, env=dict(environment), check=False).returncode
