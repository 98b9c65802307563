"""Each model card says what the configuration files of its bundle say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mixseg.handlers.command_line import unknown_options

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
#: Bundle → commands on its card, and its tables of results.
CARDS = {"acdc_lv_confkd": (7, ("acdc_cpu", "acdc_gpu")), "la_confkd": (8, ("la_cpu", "la_gpu"))}


@pytest.fixture(scope="module", params=sorted(p.name for p in BUNDLES.iterdir()))
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = BUNDLES / request.param
    return path


@pytest.fixture(scope="module")
def card(bundle: Path) -> str:
    return (bundle / "docs" / "README.md").read_text(encoding="utf-8")


def test_every_knob_is_listed_with_its_default(card: str, bundle: Path) -> None:
    text = (bundle / "configs" / "train.yaml").read_text(encoding="utf-8")
    top = text[text.index("\nbundle_root:") : text.index("\ndatalist_content:")]
    lines = re.findall(r"^(\w+): (.+?)(?:  *#.*)?$", top, re.MULTILINE)
    table = card[card.index("## Knobs") : card.index("## Results")]
    listed = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S", table, re.MULTILINE)
    assert listed == [(name, value.strip('"')) for name, value in lines]


def test_every_command_names_known_knobs_and_files(
    card: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    commands = "".join(blocks).replace("\\\n", " ").splitlines()
    runs = [line for line in commands if "monai.bundle run" in line]
    assert len(runs) >= CARDS[bundle.name][0]
    for line in runs:
        words = shlex.split(line)
        assert unknown_options(words[words.index("monai.bundle") + 1 :]) == {}, line
    rows = re.findall(r"\| `(--[^`]+)` \|", card)
    assert len(rows) >= 6
    for row in rows:
        words = ["run", "--config_file", "configs/train.yaml", *shlex.split(row)]
        assert unknown_options(words) == {}, row


def test_every_row_of_the_papers_has_its_own_settings(card: str) -> None:
    rows = dict(re.findall(r"^\| ([A-Z][^|]+?) \| (`--[^`]+`|nothing) \|$", card, re.MULTILINE))
    names = ["Lower bound", "Single", "Single+Ent", "Decoupled", "KL", "KL+Ent"]
    assert list(rows)[:6] == names
    assert len(set(rows.values())) == len(rows)


def test_scores_are_generated(card: str, bundle: Path) -> None:
    for name in CARDS[bundle.name][1]:
        block = card[card.index(f"<!-- begin:{name} -->") : card.index(f"<!-- end:{name} -->")]
        assert "| Row | Method |" in block
