"""Texts of a bundle as they are in its packed copy: configurations, model card, metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mixseg.apps.pack.checks.configs import PACKAGE_KEYS

_REPOSITORY = re.compile(r"<!-- repository -->\n?(.*?)<!-- /repository -->\n?", re.DOTALL)
_PACKED = re.compile(r"<!-- packed\n(.*?)-->\n?", re.DOTALL)
_CHECKED = re.compile(r"^<!-- ci: .*-->\n", re.MULTILINE)
_ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)


def packed_card(text: str, train: str) -> str:
    """A model card that speaks of the packed folder.

    What stands between ``<!-- repository -->`` and ``<!-- /repository -->`` is left out, and what
    a comment ``<!-- packed`` hides is shown. Marks of commands that continuous integration runs
    are left out. The defaults in the table of settings become those of the packed ``train.yaml``.
    """
    lines = re.findall(r"^(\w+): (.+?)(?:  *#.*)?$", train, re.MULTILINE)
    values = {name: value.strip('"') for name, value in lines}
    text = _CHECKED.sub("", _PACKED.sub(r"\1", _REPOSITORY.sub("", text)))

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        return f"| `{name}` | `{values.get(name, match[2])}` |"

    start = text.find("\n## Settings")
    end = text.find("\n## ", start + 1)
    if start < 0:
        return text
    end = len(text) if end < 0 else end
    return text[:start] + _ROW.sub(replace, text[start:end]) + text[end:]


def packed_metadata(
    text: str, requirements: Iterable[Requirement], version: str | None = None
) -> str:
    """``metadata.json`` without mixseg, with all that the code inside needs instead.

    A version that the file states stays; of other packages it is the installed one.

    Raises:
        ValueError: the changelog has no entry for the version.
    """
    content = json.loads(text)
    content["version"] = version or content["version"]
    if content["version"] not in content.get("changelog", {}):
        raise ValueError(
            f"the changelog in configs/metadata.json has no entry for {content['version']}: add one"
        )
    key = "required_packages_version"
    stated = {canonicalize_name(name): name for name in content.get(key, {})}
    elsewhere = set(PACKAGE_KEYS.values())
    packages = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in stated:
            packages[stated[name]] = content[key][stated[name]]
        elif name not in elsewhere:
            # Local parts, +cpu say, name a build that package indices do not have.
            packages[requirement.name] = metadata.version(requirement.name).partition("+")[0]
    content[key] = packages
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"
