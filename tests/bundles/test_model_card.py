"""Each model card says what the configuration files of its bundle say."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixseg.configuration.settings import unknown_options

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(p.name for p in BUNDLES.iterdir() if (p / "configs").is_dir())
FLAGSHIP = [name for name in NAMES if name.endswith("_mixed")]
PAPERS = [name for name in NAMES if name not in FLAGSHIP]
#: Start of a bundle's name → commands on its card that run it.
COMMANDS = {"acdc": 7, "la": 8, "wbc": 6}
#: Bundles whose card has a table of results, and the list that it comes from.
TABLES = {"acdc_lv_confkd": "acdc_cpu", "la_confkd": "la_cpu"}


@pytest.fixture(scope="module", params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = BUNDLES / request.param
    return path


@pytest.fixture(scope="module")
def card(bundle: Path) -> str:
    return (bundle / "docs" / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_listed_with_its_default(card: str, bundle: Path) -> None:
    content = yaml.safe_load((bundle / "configs" / "train.yaml").read_text(encoding="utf-8"))
    names = list(content)
    end = min(names.index(name) for name in ("num_classes", "datalist_content"))
    settings = names[names.index("bundle_root") : end]
    table = card[card.index("## Settings") : card.index("## Results")]
    listed = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S", table, re.MULTILINE)
    # A default that is quoted for YAML's sake stands without the quotes.
    assert [(name, yaml.safe_load(value)) for name, value in listed] == [
        (name, content[name]) for name in settings
    ]


def test_every_command_names_known_settings_and_files(
    card: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    commands = "".join(blocks).replace("\\\n", " ").splitlines()
    runs = [line for line in commands if "monai.bundle run" in line]
    wanted = next(number for data, number in COMMANDS.items() if bundle.name.startswith(data))
    assert len(runs) >= (3 if bundle.name in FLAGSHIP else wanted)
    for line in runs:
        # A run has its bundle's files, with its own values.
        words = shlex.split(line.replace("eval/configs/", "configs/"))
        assert unknown_options(words[words.index("monai.bundle") + 1 :]) == {}, line
    rows = re.findall(r"\| `(--[^`]+)` \|", card)
    assert rows
    for row in rows:
        words = ["run", "--config_file", "configs/train.yaml", *shlex.split(row)]
        assert unknown_options(words) == {}, row
        files = re.findall(r"configs/[\w/]+\.yaml", row)
        assert all((bundle / file).is_file() for file in files), row


def test_every_row_has_its_own_settings(card: str) -> None:
    rows = re.findall(r"^\| (\w[^|]+?) \| (`--[^`]+`|nothing) \|$", card, re.MULTILINE)
    assert len({settings for _, settings in rows}) == len(rows) >= 2
    assert "nothing" in dict(rows).values()


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_rows_are_those_of_the_family(name: str) -> None:
    card = (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z][^|]+?) \| (`--[^`]+`|nothing) \|$", card, re.MULTILINE))
    assert list(rows)[:6] == ["Lower bound", "Single", "Single+Ent", "Decoupled", "KL", "KL+Ent"]
    assert "| Row | Method |" in card[card.index(f"<!-- begin:{TABLES[name]} -->") :]


@pytest.mark.parametrize("name", PAPERS)
def test_only_the_flagship_ships_weights(name: str) -> None:
    card = (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")
    assert "**No weights are shipped**" in card
    assert not list((BUNDLES / name).glob("models/*"))


def numbers(content: Any) -> Iterator[float]:
    """Every number in nested mappings."""
    if isinstance(content, dict):
        for value in content.values():
            yield from numbers(value)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield float(content)


def rounded_to(value: float, shown: str) -> bool:
    """Whether ``shown``, which has a digit or more behind the point, is ``value`` rounded."""
    digits = len(shown.partition(".")[2])
    return abs(value - float(shown)) <= 0.5 * 10.0**-digits + 1e-9


def test_scores_of_the_metadata_are_in_the_tables_of_the_card(card: str, bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    blocks = re.findall(r"<!-- begin:\w+ -->\n(.*?)<!-- end:\w+ -->", card, re.DOTALL)
    shown = [n for block in blocks for n in re.findall(r"(?<![\w.])\d+\.\d+", block)]
    for value in numbers(metadata.get("eval_metrics", {})):
        assert any(rounded_to(value, n) or rounded_to(100 * value, n) for n in shown), value


@pytest.mark.parametrize("name", FLAGSHIP)
def test_a_flagships_card_says_whether_weights_ship(name: str) -> None:
    card = (BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8")
    ship = (BUNDLES / name / "models" / "model.pt").is_file()
    assert ("<!-- begin:shipped_weights -->" in card) == ship
    assert ("**No weights are shipped**" in card) == (not ship)
