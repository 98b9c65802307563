"""The part of mixseg that a bundle's configuration reaches, copied into the bundle."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mixseg.apps.bundle.find import ROOT
from mixseg.apps.pack.checks.configs import requirements
from mixseg.configuration.loading import load, strings

PACKAGE = "mixseg"

_DOTTED = re.compile(rf"\b{PACKAGE}(?:\.[A-Za-z_]\w*)+")
_INIT = '''"""The part of mixseg {version} that this bundle needs.

A regular package, so that no part of it is mixed with another mixseg that is installed.
"""
'''


def reached_modules(configs: Iterable[Path]) -> list[str]:
    """Modules that configuration files name, and all that these import, at any depth.

    Imports inside functions count, and so do texts that are the name of a module
    (``files("mixseg.apps.pack")``).

    Returns:
        Dotted names of modules and packages, sorted; ``mixseg`` itself is not among them.

    Raises:
        ValueError: a configuration names a module that is not installed.
    """
    waiting = [
        (name, path.name)
        for path in configs
        for place, text in strings(load(path))
        for name in _DOTTED.findall(f"{place} {text}")
    ]
    found: set[str] = set()
    while waiting:
        name, origin = waiting.pop()
        module = _module_of(name)
        if module is None:
            raise ValueError(f"{origin} names {name}, which the installed mixseg does not have")
        parts = module.split(".")
        for length in range(2, len(parts) + 1):
            one = ".".join(parts[:length])
            if one not in found:
                found.add(one)
                waiting += [(inner, one) for inner in _own_imports(one)]
    return sorted(found)


def copy_modules(modules: Iterable[str], folder: Path) -> None:
    """Copy modules, and the data files of their packages, below ``folder/mixseg``.

    The copy has an ``__init__.py`` of its own at its top, not the one of the Python API: whatever
    else is installed, Python then takes every part from the copy, or fails.
    """
    top = folder / PACKAGE
    for module in modules:
        spec = _spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin)
        place = top.joinpath(*module.split(".")[1:])
        is_package = spec.submodule_search_locations is not None
        target = place / source.name if is_package else place.with_suffix(".py")
        _copy(source, target)
        if is_package:
            for data in sorted(source.parent.iterdir()):
                if data.name == "py.typed" or data.suffix in (".json", ".html"):
                    _copy(data, place / data.name)
    (top / "__init__.py").write_text(_INIT.format(version=metadata.version(PACKAGE)))
    (top / "LICENSE").write_text(_license(), encoding="utf-8")


def write_version(requirements: Iterable[Requirement], folder: Path) -> Path:
    """Write the ``dist-info`` that ``importlib.metadata`` finds beside the copy.

    ``version("mixseg")`` answers wherever the copy can be imported; there is nothing for pip to
    uninstall.
    """
    number = metadata.version(PACKAGE)
    installed = metadata.metadata(PACKAGE)
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {PACKAGE}",
        f"Version: {number}",
        f"Summary: {installed['Summary']}",
        f"Requires-Python: {installed['Requires-Python']}",
        f"License-Expression: {installed['License-Expression']}",
        *sorted(f"Requires-Dist: {requirement}" for requirement in requirements),
    ]
    target = folder / f"{PACKAGE}-{number}.dist-info" / "METADATA"
    target.parent.mkdir(parents=True)
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return target


def needed_requirements(modules: Iterable[str]) -> list[Requirement]:
    """Requirements of mixseg without those that only its other modules need.

    What no module imports by name, and what MONAI itself makes use of (PyYAML, scikit-image,
    fire, …), is kept: a configuration can lead to it without naming it.

    Raises:
        ValueError: a module imports something that mixseg does not require.
    """
    chosen = set(modules)
    own, other = set[str](), set[str]()
    # A bundle does not need what only commands import.
    rooms = {
        ".".join((PACKAGE, *marker.parent.relative_to(ROOT).parts))
        for room in ("apps", "cli")
        for marker in (ROOT / room).rglob("__init__.py")
    }
    for package in sorted({name.rpartition(".")[0] for name in chosen} | rooms):
        for module in _modules_in(package):
            (own if module in chosen else other).update(_foreign_imports(module))
    required = requirements()
    names = {canonicalize_name(requirement.name) for requirement in required}
    of_monai = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, metadata.requires("monai") or ())
    }
    for module in sorted(chosen):
        for name in sorted(_foreign_imports(module, always=True)):
            if not _distributions(name) & names:
                raise ValueError(f"{module} imports '{name}', which mixseg does not require")

    def kept(requirement: Requirement) -> bool:
        distribution = canonicalize_name(requirement.name)
        by_own, by_other = (
            any(distribution in _distributions(name) for name in imports)
            for imports in (own, other)
        )
        return by_own or not by_other or distribution in of_monai

    return sorted(filter(kept, required), key=lambda r: canonicalize_name(r.name))


def _spec(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except ModuleNotFoundError:  # a parent is not a package
        return None


@cache
def _module_of(dotted: str) -> str | None:
    """The longest part of a dotted name that is a module below mixseg."""
    parts = dotted.split(".")
    for length in range(len(parts), 1, -1):
        name = ".".join(parts[:length])
        if _spec(name) is not None:
            return name
    return None


def _modules_in(package: str) -> list[str]:
    spec = _spec(package)
    if spec is None or spec.origin is None:
        return []
    files = sorted(Path(spec.origin).parent.glob("*.py"))
    return [package if f.stem == "__init__" else f"{package}.{f.stem}" for f in files]


@cache
def _tree(module: str) -> ast.Module:
    spec = _spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _own_imports(module: str) -> Iterator[str]:
    """Modules of mixseg that a module imports or names in a text."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _DOTTED.fullmatch(node.value) and _module_of(node.value):
                yield node.value
        else:
            for name in _imported(node, module):
                if name.startswith(f"{PACKAGE}."):
                    yield name


def _foreign_imports(module: str, always: bool = False) -> set[str]:
    """First parts of the names that a module imports from elsewhere than mixseg and Python.

    Args:
        always: only those that importing the module needs: not the ones inside functions and
            under ``try`` or ``if``.
    """
    nodes = _tree(module).body if always else ast.walk(_tree(module))
    names = {name.partition(".")[0] for node in nodes for name in _imported(node, module)}
    return names - {PACKAGE, "__future__"} - set(sys.stdlib_module_names)


def _imported(node: Any, module: str) -> list[str]:
    """Dotted names that one statement imports; members are joined to what they come from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"{module} imports by a relative name"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


#: Reads the list of files of every installed distribution, which takes a second.
_providers = cache(metadata.packages_distributions)


def _distributions(name: str) -> frozenset[str]:
    """Canonical names of the distributions that provide a top-level import."""
    return frozenset(canonicalize_name(one) for one in _providers().get(name, ()))


def _license() -> str:
    """The license of mixseg's code, from the checkout or the installation.

    Raises:
        ValueError: there is none.
    """
    if (ROOT / "pyproject.toml").is_file():
        return (ROOT / "LICENSE").read_text(encoding="utf-8")
    distribution = metadata.distribution(PACKAGE)
    text = distribution.read_text("licenses/LICENSE") or distribution.read_text("LICENSE")
    if not text:
        raise ValueError("the installed mixseg has no LICENSE: install it again")
    return text


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
