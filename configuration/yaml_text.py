"""New values in the text of a configuration file, its comments and layout kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import yaml


def set_values(text: str, values: Mapping[str, Any]) -> str:
    """Replace values in the text of a YAML configuration.

    Everything else stays to the letter: comments, blank lines, order, quotes. The comment behind
    a value keeps its column where the new value leaves room for it. Comments inside a value of
    several lines go with that value.

    Args:
        text: the file's text, a mapping at its top level.
        values: id → new value: None, bool, int, float, str, or lists, tuples and dictionaries of
            these. An id is a key at the top level, or leads through mappings:
            ``optimizer#lr``. MONAI's references and expressions are strings:
            ``'$len(@class_names)'``.

    Returns:
        The new text. Read by a YAML parser it is the old content with these values in it.

    Raises:
        ValueError: the text is not a mapping, or has no key of some id.
    """
    root = _root(text)
    places = {key: _find(root, key) for key in values}
    if unknown := [key for key, place in places.items() if place is None]:
        raise ValueError(f"no such key in the configuration: {', '.join(map(repr, unknown))}")
    found = {key: place for key, place in places.items() if place is not None}
    # From the last to the first, so that positions of those still to come stay right.
    for key in sorted(found, key=lambda k: found[k][0].start_mark.index, reverse=True):
        name, value, in_flow = found[key]
        new = _written(values[key], in_flow)
        text = _replace(text, name.end_mark.index, _end(value, text), new)
    return text


def without_keys(text: str, names: Collection[str]) -> str:
    """The text of a YAML configuration without some of its top-level keys, where it has them.

    The comments behind a value go with it; those on lines above a key stay.

    Raises:
        ValueError: the text is not a mapping.
    """
    for key, value in reversed(_root(text).value):
        if key.value in names:
            end = _end(value, text)
            line_end = text.find("\n", end)
            rest = text[end : len(text) if line_end < 0 else line_end]
            if not rest.strip() or rest.lstrip().startswith("#"):
                end += len(rest) + 1
            text = text[: key.start_mark.index] + text[end:]
    return text


def with_keys(text: str, values: Mapping[str, Any]) -> str:
    """The text of a YAML configuration with further top-level keys at its end."""
    lines = "".join(f"{_written(key)}: {_written(value)}\n" for key, value in values.items())
    return text.rstrip("\n") + "\n" + lines


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("the configuration is not a mapping of keys to values")
    return root


def _find(root: yaml.MappingNode, id: str) -> tuple[yaml.Node, yaml.Node, bool] | None:
    """Key and value of an id, and whether they stand in a flow collection (``{a: 1}``)."""
    node: yaml.Node = root
    in_flow, name = False, node
    for part in id.split("#"):
        if not isinstance(node, yaml.MappingNode):
            return None
        in_flow = in_flow or bool(node.flow_style)
        pair = next((pair for pair in node.value if pair[0].value == part), None)
        if pair is None:
            return None
        name, node = pair
    return name, node, in_flow


def _replace(text: str, after_key: int, end: int, new: str) -> str:
    """``text[after_key:end]`` becomes ``: new``; the comment behind it keeps its column."""
    head, tail = f"{text[:after_key]}: {new}", text[max(after_key + 1, end) :]
    rest_of_line = tail.partition("\n")[0]
    comment = rest_of_line.lstrip(" \t")
    if not comment.startswith("#"):
        return head + tail
    end_of_line = max(after_key + 1, end) + len(rest_of_line)
    column = end_of_line - len(comment) - (text.rfind("\n", 0, end_of_line) + 1)
    gap = max(2, column - (len(head) - (head.rfind("\n") + 1)))
    return head + " " * gap + tail[len(rest_of_line) - len(comment) :]


def _end(node: yaml.Node, text: str) -> int:
    """Where the value's own text ends: a block's mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last, text)
    end = int(node.end_mark.index)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return len(text[:end].rstrip())  # the line break stays
    return end


def _written(value: Any, in_flow: bool = False) -> str:
    """The value on one line of YAML; inside a flow collection commas and brackets need quotes."""
    if in_flow:
        return _written([value])[1:-1]
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


class _Dumper(yaml.SafeDumper):
    """Writes tuples as lists and never refers back to an object that occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
