"""Fixtures shared by all tests."""

from __future__ import annotations

import locale
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

# Test processes side by side (pytest-xdist) share the cores, and so do the programs that they
# start; read by torch when it is first imported, which is after this.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    side_by_side = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    # pytest-xdist sets the size of a terminal; tables of the commands would be folded at it.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))


def _data_root() -> Path:
    """The folder with the real collections: MIXSEG_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("MIXSEG_DATA", default))


@pytest.fixture(scope="session")
def acdc_dir() -> Path:
    """The real ACDC folder; the test is skipped where it is absent."""
    path = _data_root() / "acdc"
    if not (path / "split.json").is_file():
        pytest.skip(f"real ACDC data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture(scope="session")
def la_dir() -> Path:
    """The real left-atrium folder; the test is skipped where it is absent."""
    path = _data_root() / "la"
    if not (path / "split.json").is_file():
        pytest.skip(f"real LA data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture(scope="session")
def wbc_dir() -> Path:
    """The real white blood cells; the test is skipped where they are absent."""
    path = _data_root() / "wbc"
    if not (path / "split.json").is_file():
        pytest.skip(f"real WBC data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture
def spawnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test spawns import its module, however pytest was started."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])


@pytest.fixture(scope="session")
def write_series() -> Callable[..., Path]:
    """Write a DICOM series, a file a slice, through ITK."""
    import itk

    before = locale.setlocale(locale.LC_ALL)

    def write(
        folder: Path,
        values: np.ndarray,
        *,
        uid: str = "1.2.826.1",
        spacing: Sequence[float] = (1.0, 1.0, 2.0),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        directions: Sequence[float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        suffix: str = ".dcm",
        tags: Mapping[str, str] | None = None,
    ) -> Path:
        """Write (x, y, z) values; ``directions`` are of x and y, z is their normal (LPS)."""
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(directions[:3], directions[3:])
        for z in range(values.shape[2]):
            image = itk.image_from_array(np.ascontiguousarray(values[:, :, z].T))
            image.SetSpacing(spacing[:2])
            place = np.array(origin) + normal * z * spacing[2]
            written = image.GetMetaDataDictionary()
            for key, value in {
                "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
                "0008|0018": f"{uid}.9.{z + 1}",
                "0008|0060": "CT",
                "0008|103e": "scan",
                "0018|0050": str(spacing[2]),
                "0020|000d": f"{uid}.1",
                "0020|000e": uid,
                "0020|0013": str(z + 1),
                "0020|0032": "\\".join(f"{v:g}" for v in place),
                "0020|0037": "\\".join(f"{v:g}" for v in directions),
                "0020|0052": f"{uid}.2",
                **(tags or {}),
            }.items():
                written[key] = value
            codec = itk.GDCMImageIO.New()
            codec.KeepOriginalUIDOn()
            # GDCM writes what it likes to call .dcm; the name is changed behind its back.
            path = folder / f"IM{z:03d}.dcm"
            itk.ImageFileWriter.New(image, FileName=str(path), ImageIO=codec).Update()
            # Not in the order of their names.
            path.rename(folder / f"I{(7 * z) % 101:03d}_{z:03d}{suffix}")
        # GDCM sets the locale to C.
        locale.setlocale(locale.LC_ALL, before)
        return folder

    return write
