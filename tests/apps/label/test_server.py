from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixseg.apps.label import server as command
from mixseg.cli.main import app

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
TINY = ("--features", "[2,4,8]", "--crop_size", "[64,64]")


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, ["label", *map(str, arguments)])


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "check_installation", lambda: None)


def test_what_to_install_is_said(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run(studies, "--bundle", BUNDLE)
    assert result.exit_code == 1
    assert 'install it with: pip install "monailabel==0.8.5" "pydicom<3"' in result.output


@pytest.mark.parametrize(
    ("package", "found", "told"),
    [("pydicom", "3.0.1", '"pydicom<3"'), ("dicomweb-client", "0.60.1", '"dicomweb-client<0.60"')],
)
def test_versions_with_which_the_server_does_not_start_are_refused(
    package: str, found: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"pydicom": "2.4.4", "dicomweb-client": "0.59.3"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(command, "version", {**good, package: found}.__getitem__)
    with pytest.raises(ValueError, match=rf"{package} {found} is installed.*pip install {told}"):
        command.check_installation()
    monkeypatch.setattr(command, "version", good.__getitem__)
    command.check_installation()


@pytest.mark.usefixtures("installed")
def test_mistakes_are_named(studies: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "no", "-b", BUNDLE), "no' is not a folder of scans"),
        ((studies, "-b", "nothing_of_this_name"), "there is no bundle 'nothing_of_this_name'"),
        (
            (studies, "-b", BUNDLE, "--lamda", "1"),
            "'--lamda' is neither an option nor a setting of",
        ),
        ((studies, "-b", BUNDLE, "--from-scratch", "--checkpoint", "a.pt"), "cannot be combined"),
        ((studies, "-b", BUNDLE, "--patient-pattern", "p.*"), "'p.*' has no group in parentheses"),
        ((studies, "-b", BUNDLE, "--patient-pattern", "("), "--patient-pattern '('"),
        ((studies, "-b", BUNDLE, "--host", "0.0.0.0"), "Add --allow-remote in a network that you"),
        ((studies, "-b", BUNDLE, "--host", "scans.clinic"), "--host scans.clinic is open to other"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert message in result.output
    assert list(studies.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_the_server_is_started_with_everything_that_it_needs(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(line: Sequence[str], environment: Mapping[str, str]) -> int:
        started.append((list(line), dict(environment)))
        return 3

    monkeypatch.setattr(command, "start", start)
    arguments = (studies, "--bundle", BUNDLE, "--from-scratch", "--port", "8123", *TINY)
    result = run(*arguments)
    assert result.exit_code == 3, result.output
    assert "(made now)" in result.output
    ((line, environment),) = started
    work = (studies / "mixseg_label").resolve()
    assert line[:4] == [sys.executable, "-m", "monailabel.main", "start_server"]
    given = dict(zip(line[4::2], line[5::2], strict=False))
    assert given["--app"] == str(work)
    assert given["--studies"] == str(studies.resolve())
    assert (given["--host"], given["--port"]) == ("127.0.0.1", "8123")
    assert given["--uvicorn_app"] == "mixseg.apps.label.web:app"
    assert environment["MIXSEG_LABEL_HOST"] == "127.0.0.1"
    assert line[-6:-3] == ["--conf", "models", "acdc_lv_confkd"]
    assert line[-3:-1] == ["--conf", "patient_pattern"]
    assert environment["MONAI_LABEL_RELOAD_APP_LIB"] == "false"
    assert environment["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "true"
    assert "MixedSupervisionApp" in (work / "main.py").read_text()
    assert (work / "model" / "acdc_lv_confkd" / "models" / "model.pt").is_file()
    again = run(*arguments, "--no-scoring")
    assert "(as it was trained)" in again.output
    assert started[1][1]["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"
