"""What must hold for the repository as a whole."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from compare.list import method_of

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 20 * 2**20


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as when the file is run as a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git tracks or would."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    return [
        path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()
    ]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_file_is_too_large(tracked: list[Path]) -> None:
    assert [path for path in tracked if path.stat().st_size > MAX_BYTES] == []


def test_no_medical_image_is_tracked(tracked: list[Path]) -> None:
    kinds = re.compile(r"\.(nii|nii\.gz|nrrd|mha|mhd|dcm|bmp|pt|npz|npy)$")
    found = [path.relative_to(ROOT) for path in tracked if kinds.search(path.name)]
    # The weights that ship, and nothing else.
    assert [path for path in found if not path.match("bundles/*_mixed/models/model.pt")] == []


def test_bundles_hold_no_python(tracked: list[Path]) -> None:
    bundles = ROOT / "bundles"
    assert [p for p in tracked if p.suffix == ".py" and p.is_relative_to(bundles)] == []


def test_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/tables.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_has_the_two_commands_on_its_first_screen(readme: str) -> None:
    blocks = load(ROOT / ".ci" / "readme.py")
    environment = "python3 -m venv .venv && .venv/bin/pip install -r "
    main = f"{environment}requirements.txt && .venv/bin/mixseg quickstart"
    tests = f"{environment}requirements-dev.txt && .venv/bin/pytest"
    assert blocks.commands("main") == [main]
    assert blocks.commands("tests") == [tests]
    head = "\n".join(readme.splitlines()[:20])
    assert main in head
    assert tests in head


def test_links_of_the_readme_lead_somewhere(readme: str) -> None:
    for page in re.findall(r"\]\((?!https?:|#)([^)#]+)", readme):
        assert (ROOT / page).exists(), page


def test_continuous_integration_adds_its_arguments_to_the_last_command(tmp_path: Path) -> None:
    blocks = load(ROOT / ".ci" / "readme.py")
    page = tmp_path / "README.md"
    page.write_text(
        "<!-- ci: run, with --size [1,2] --n 3 -->\n```bash\nfirst\nsecond \\\n  --lr 1\n```\n"
        "<!-- ci: run -->\n```bash\nthird\n```\n"
    )
    blocks.README = page
    assert blocks.commands("run") == ["first\nsecond \\\n  --lr 1 --size '[1,2]' --n 3", "third"]
    with pytest.raises(ValueError, match="no block marked 'ci: tests'"):
        blocks.commands("tests")
    page.write_text("<!-- ci: run -->\n\n```bash\nthird\n```\n")
    with pytest.raises(ValueError, match="not followed by a bash block"):
        blocks.commands("run")


def test_pins_are_exact_and_within_the_ranges_of_the_package() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[-1] == "-e ."
    names = {re.split(r"==", pin)[0].lower() for pin in pins[:-1]}
    assert all(re.match(r"[\w-]+==[\d.]+( *;.*)?$", pin) for pin in pins[:-1])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project.split("dependencies = [", 1)[1].split("]", 1)[0]
    assert names == {match.lower() for match in re.findall(r'"([\w-]+)[><=]', block)}
    both = "".join((ROOT / n).read_text() for n in ("requirements.txt", "requirements-dev.txt"))
    assert "torchvision" not in both
    assert "://" not in both


@pytest.fixture
def tables(tmp_path: Path) -> ModuleType:
    """benchmarks/tables.py on a repository of its own."""
    module = load(ROOT / "benchmarks" / "tables.py")
    module.ROOT = tmp_path
    folder = tmp_path / "benchmarks" / "experiments"
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text(
        yaml.safe_dump(
            {
                "published": "acdc",
                "seeds": [0, 1, 2],
                "common": {"num_full": 3},
                "rows": {
                    "low": {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0},
                    "best": {"lr": 0.5},
                },
            },
            sort_keys=False,
        )
    )
    (tmp_path / "README.md").write_text("a\n<!-- begin:toy -->\nold\n<!-- end:toy -->\nz\n")
    return module


def write_result(root: Path, row: str, seed: int, dice: float, hd95: float, lr: float) -> None:
    scores = {"LV": {"dice": {"mean": dice}, "hd95_vox": {"mean": hd95}}}
    path = root / "benchmarks" / "results" / "toy" / f"{row}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    test = {
        "scores": {"teacher": scores, "student": scores},
        "configuration": {"num_full": 3, "lr": lr},
        "hardware": {"cpu": "a processor", "gpu": None},
    }
    validation = {"scores": {"teacher": scores}}
    path.write_text(json.dumps({"test": test, "validation": validation}))


def test_tables_give_mean_and_spread_over_seeds(tables: ModuleType, tmp_path: Path) -> None:
    # 80 and 90 %: mean 85, standard deviation √50 = 7.07; 2 and 4 voxels: mean 3, √2 = 1.41.
    write_result(tmp_path, "best", 0, 0.8, 2.0, lr=0.5)
    write_result(tmp_path, "best", 2, 0.9, 4.0, lr=0.5)
    text = tables.render(tmp_path / "README.md")
    assert text.startswith("a\n<!-- begin:toy -->\n| Row |")
    assert text.endswith("<!-- end:toy -->\nz\n")
    assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines == [
        "| `best` | KL+Ent | 3 full, 15 eroded | 2 | 85.0 ± 7.1 / 3.0 ± 1.4 "
        "| 85.0 ± 7.1 / 3.0 ± 1.4 | 78.38 / 46.73 | 86.94 / 8.84 |",
    ]
    assert "machine: a processor. Rows of the list that have not been run: 1." in text


def test_a_list_of_which_nothing_was_run_is_one_sentence(
    tables: ModuleType, tmp_path: Path
) -> None:
    text = tables.render(tmp_path / "README.md")
    assert text == (
        "a\n<!-- begin:toy -->\nNone of the 2 rows of `benchmarks/experiments/toy.yaml` has been "
        "run.\n<!-- end:toy -->\nz\n"
    )


def test_networks_of_one_branch_stand_beside_teachers(tables: ModuleType, tmp_path: Path) -> None:
    write_result(tmp_path, "best", 0, 0.8, 2.0, lr=0.5)
    write_result(tmp_path, "low", 0, 0.5, 6.0, lr=0.5)
    path = tmp_path / "benchmarks" / "results" / "toy" / "low_seed0.json"
    result = json.loads(path.read_text())
    for split in ("validation", "test"):
        result[split]["scores"] = {"main": result[split]["scores"]["teacher"]}
    path.write_text(json.dumps(result))
    lines = tables.render(tmp_path / "README.md").splitlines()
    heads = [cell.strip() for cell in lines[2].split("|")[5:7]]
    assert heads == ["Teacher or main", "Student"]
    assert [line for line in lines if line.startswith("| `low`")] == [
        "| `low` | Lower bound | 3 full | 1 | 50.0 / 6.0 |  | 54.66 / 80.05 |  |"
    ]


def test_a_study_compares_its_rows_by_validation(tables: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks" / "experiments" / "toy.yaml"
    path.write_text(path.read_text().replace("published: acdc\n", ""))
    write_result(tmp_path, "best", 1, 0.8, 2.0, lr=0.5)
    lines = tables.render(tmp_path / "README.md").splitlines()
    assert lines[2:5] == [
        "| Row | Method | Labels | Seeds "
        "| Validation: teacher | student | Test: teacher | student |",
        "|---|---|---|---:|---:|---:|---:|---:|",
        "| `best` | KL+Ent | 3 full, 15 eroded | 1 | 80.0 / 2.0 |  | 80.0 / 2.0 | 80.0 / 2.0 |",
    ]


def test_tables_refuse_results_of_other_settings(tables: ModuleType, tmp_path: Path) -> None:
    write_result(tmp_path, "best", 0, 0.8, 2.0, lr=0.25)
    with pytest.raises(ValueError, match=r"best_seed0\.json was made with lr = 0\.25, the list"):
        tables.render(tmp_path / "README.md")


def test_tables_refuse_an_unknown_name(tables: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- begin:nothing -->\n<!-- end:nothing -->\n")
    with pytest.raises(ValueError, match=r"README\.md: no table is called 'nothing'"):
        tables.render(page)


def test_method_names_follow_the_weights(tables: ModuleType) -> None:
    common = {"num_full": 3, "num_partial": 15}
    off = {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0}
    no_kd = {"lambda_kd": 0, "lambda_ent": 0}
    cases = {
        "Lower bound": off,
        "Single": {**no_kd, "weak_branch": "teacher"},
        "Single+Ent": {"lambda_kd": 0, "weak_branch": "teacher"},
        "Decoupled": no_kd,
        "KL": {"lambda_ent": 0},
        "KL+Ent": {},
        "Upper bound": {**off, "num_full": 18, "num_partial": 0},
    }
    for name, settings in cases.items():
        assert method_of({**common, **settings}) == name
    assert method_of({**common, **no_kd, "weak_branch": "main"}) == "Single"
    methods = {"KL": {3: ("1 / 2", "3 / 4")}, "Upper bound": {3: ("5 / 6", "")}}
    assert tables.published_of(methods, "Upper bound", {"num_full": 18}) == ("5 / 6", "")
    assert tables.published_of(methods, "KL", {"num_full": 3}) == ("1 / 2", "3 / 4")
    assert tables.published_of(methods, "KL", {"num_full": 3, "weak_label": "drawn"}) == ("", "")
    assert tables.published_of(methods, "KL", {"num_full": 4}) == ("", "")
