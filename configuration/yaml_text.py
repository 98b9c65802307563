"""New values for the knobs of a configuration file, its comments and layout kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def set_knobs(text: str, values: Mapping[str, Any]) -> str:
    """Replace the values of top-level keys in the text of a YAML configuration.

    Everything else stays to the letter: comments, blank lines, order, quotes. The comment behind
    a value keeps its column where the new value leaves room for it. Comments inside a value of
    several lines go with that value.

    Args:
        text: the file's text, a mapping at its top level.
        values: key → new value: None, bool, int, float, str, or lists, tuples and dictionaries of
            these. MONAI's references and expressions are strings: ``'$len(@class_names)'``.

    Returns:
        The new text. Read by a YAML parser it is the old content with these values in it.

    Raises:
        ValueError: the text is no mapping, or has no top-level key of some name.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("the configuration is not a mapping of keys to values")
    nodes = {key.value: (key, value) for key, value in root.value}
    if unknown := [key for key in values if key not in nodes]:
        raise ValueError(f"no such key in the configuration: {', '.join(map(repr, unknown))}")
    # From the last to the first, so that positions of those still to come stay right.
    for key in sorted(values, key=lambda k: nodes[k][0].start_mark.index, reverse=True):
        name, value = nodes[key]
        text = _replace(text, name.end_mark.index, _end(value, text), _written(values[key]))
    return text


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


def _written(value: Any) -> str:
    """The value on one line of YAML."""
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
