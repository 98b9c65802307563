"""Draw how the packages depend on each other, and check that imports point one way.

    python docs/tools/draw_architecture.py           # writes docs/figures/architecture.svg
    python docs/tools/draw_architecture.py --check   # exit status 1 if it is out of date

Read from the code: every import of the packages, what the bundles' configurations name, and the
first line of each package's docstring. An import against the rule ends it with a message.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from svg import DIM, INK, arrow, box, document, text, write

ROOT = Path(__file__).resolve().parents[2]
#: From below to above: a package may import those of the layers below its own, no other.
LAYERS = (
    ("losses", "networks", "transforms", "data", "metrics"),
    ("objectives",),
    ("engines", "handlers"),
    ("cli",),
    ("label_app",),
)
#: What engines and handlers may know of the objectives: the protocol, no method.
PROTOCOL = {"Batch", "NetworkSpec", "Networks", "Objective", "Outputs"}
#: Column and row of each box.
PLACES = {
    "networks": (0, 4), "transforms": (1, 4), "data": (2, 4), "metrics": (3, 4), "losses": (4, 4),
    "objectives": (4, 3), "handlers": (3, 2), "engines": (4, 2), "cli": (1, 1), "label_app": (2, 0),
}  # fmt: skip
WIDTH, HEIGHT, COLUMN, ROW, LEFT, TOP = 168, 86, 184, 118, 12, 16


def imports(root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Every import of one package by another: package, package, the name, file and line."""
    for marker in sorted(root.glob("*/__init__.py")):
        package = marker.parent.name
        if package not in PLACES:
            continue
        for path in sorted(marker.parent.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found = [(node.module, alias.name) for alias in node.names]
                elif isinstance(node, ast.Import):
                    found = [(alias.name, "") for alias in node.names]
                else:
                    continue
                place = f"{path.relative_to(root)}:{node.lineno}"
                for module, name in found:
                    parts = [*module.split("."), *([name] if name else [])]
                    if parts[0] == "mixseg" and len(parts) > 1 and parts[1] != package:
                        yield package, parts[1], parts[-1], place


def faults(root: Path) -> list[str]:
    """Imports against the rule, each with its file and line."""
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    found = []
    for package, other, name, place in imports(root):
        if other not in layer or layer[other] >= layer[package]:
            found.append(f"{place}: {package} may not import {other}")
        elif package in LAYERS[2] and other == "objectives" and name not in PROTOCOL:
            found.append(f"{place}: {package} may know the protocol of objectives, not {name}")
    return found


def edges(root: Path) -> list[tuple[str, str]]:
    """Pairs (importer, imported), sorted."""
    return sorted({(package, other) for package, other, _, _ in imports(root)})


def named_by_bundles(root: Path) -> list[str]:
    """Packages that a configuration names."""
    found: set[str] = set()
    for path in root.glob("bundles/*/configs/*.yaml"):
        found |= set(re.findall(r"\bmixseg\.(\w+)\.", path.read_text(encoding="utf-8")))
    return sorted(found)


def purpose(root: Path, package: str) -> str:
    """First line of the package's docstring."""
    tree = ast.parse((root / package / "__init__.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0].rstrip(".").replace("`", "")


def draw(root: Path) -> str:
    """The picture: an arrow points from the importing package to what it imports."""
    packages = [name for name in PLACES if (root / name / "__init__.py").is_file()]
    corner = {n: (LEFT + x * COLUMN, TOP + y * ROW) for n, (x, y) in PLACES.items()}
    shapes = []
    for start, end in edges(root):
        (x0, y0), (x1, y1) = corner[start], corner[end]
        # Ends are spread along the sides, so that parallel arrows stay apart.
        lean = max(-50, min(50, (x1 - x0) / 8))
        shapes.append(
            arrow(
                (x0 + WIDTH / 2 + lean, y0 + HEIGHT), (x1 + WIDTH / 2 - lean, y1 - 1),
                color="#5b6bbf", width=1.6,
            )
        )  # fmt: skip
    named = named_by_bundles(root)
    shapes.append(box(LEFT, TOP, WIDTH + COLUMN, HEIGHT, [], fill="#fff7ed", color="#d9730d"))
    middle = LEFT + (WIDTH + COLUMN) / 2
    lines = ["bundles", "configuration only; its entries name parts of", ", ".join(named)]
    for i, line in enumerate(lines):
        shapes.append(text(middle, TOP + 22 + 20 * i, line, bold=not i, size=14 if not i else 11.5))
    for name in packages:
        words = textwrap.wrap(purpose(root, name), 27)
        color = "#d9730d" if name in named else INK
        shapes.append(box(*corner[name], WIDTH, HEIGHT, [], color=color))
        x, y = corner[name]
        shapes.append(text(x + WIDTH / 2, y + 18, name, bold=True, size=14))
        for i, line in enumerate(words[:4]):
            shapes.append(text(x + WIDTH / 2, y + 33 + 13 * i, line, size=10.5))
    note = "Arrows are imports. Orange frames: named by a bundle."
    shapes.append(text(LEFT, TOP + 4 * ROW + HEIGHT + 24, note, anchor="start", size=12, color=DIM))
    size = (LEFT + 4 * COLUMN + WIDTH + 12, TOP + 4 * ROW + HEIGHT + 38)
    return document(*size, "Packages of mixseg and their imports", shapes)


if __name__ == "__main__":
    wrong = faults(ROOT)
    print("\n".join(wrong), end="\n" if wrong else "")
    figure = {"architecture.svg": draw(ROOT)}
    raise SystemExit(write(ROOT / "docs" / "figures", figure, "--check" in sys.argv) or bool(wrong))
