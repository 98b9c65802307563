"""The page on Python, executed as it stands, with a shorter training."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixseg.data.phantom.dataset import write_phantom

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
SHORT = (
    "num_full=1, num_partial=1, weak_label='erosion', max_epochs=1, epoch_length=2, batch_full=2, "
    "batch_partial=2, spatial_size=[32, 32], features=[4, 8, 8], mirror_axes=[], progress=False"
)


@pytest.mark.slow
def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phantom(tmp_path / "ACDC", num_patients=4, progress=False)
    (tmp_path / "scans").mkdir()
    for frame in sorted((tmp_path / "ACDC" / "patient001").glob("*frame??.nii.gz")):
        shutil.copy(frame, tmp_path / "scans")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("num_full=5, max_epochs=30", SHORT), names)
    assert len(list(Path("masks").glob("patient001_frame*.nii.gz"))) == 2
    assert set(names["result"].volumes_ml) == {"RV", "myocardium", "LV"}
    assert names["run"].folder == Path("run")
    assert names["summary"]["configuration"]["num_full"] == 1
    assert len(names["masks"]) == 2
