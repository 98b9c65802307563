"""The model card says what the configuration files say."""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace

import pytest

from mixseg.handlers.command_line import unknown_options


@pytest.fixture(scope="module")
def card(tools: SimpleNamespace) -> str:
    text: str = (tools.configs.parent / "docs" / "README.md").read_text(encoding="utf-8")
    return text


def test_every_knob_is_listed_with_its_default(card: str, tools: SimpleNamespace) -> None:
    text = (tools.configs / "train.yaml").read_text(encoding="utf-8")
    top = text[text.index("\nbundle_root:") : text.index("\ndatalist_content:")]
    lines = re.findall(r"^(\w+): (.+?)(?:  *#.*)?$", top, re.MULTILINE)
    table = card[card.index("## Knobs") : card.index("## Results")]
    listed = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S", table, re.MULTILINE)
    assert listed == [(name, value.strip('"')) for name, value in lines]


def test_every_command_names_known_knobs_and_files(
    card: str, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tools.configs.parent)
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    commands = "".join(blocks).replace("\\\n", " ").splitlines()
    runs = [line for line in commands if "monai.bundle run" in line]
    assert len(runs) == 7
    for line in runs:
        words = shlex.split(line)
        assert unknown_options(words[words.index("monai.bundle") + 1 :]) == {}, line
    rows = re.findall(r"\| `(--[^`]+)` \|", card)
    assert len(rows) == 7
    for row in rows:
        words = ["run", "--config_file", "configs/train.yaml", *shlex.split(row)]
        assert unknown_options(words) == {}, row


def test_scores_are_generated(card: str) -> None:
    for name in ("acdc_cpu", "acdc_gpu"):
        block = card[card.index(f"<!-- begin:{name} -->") : card.index(f"<!-- end:{name} -->")]
        assert "| Row | Method |" in block
