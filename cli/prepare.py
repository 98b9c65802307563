"""``mixseg prepare``: a datalist from a folder, a public data set as downloaded or one's own."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from enum import Enum, EnumMeta
from importlib.metadata import entry_points
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from typer.main import get_command

from mixseg.cli.console import clear_errors, console, datalist_table, note, say
from mixseg.cli.lazy import HELP, Command, LazyCommand, LazyGroup

if TYPE_CHECKING:
    from mixseg.data.collections.base import Collection

#: Group of the entry points of collections; that of the registry, which imports them all.
_ENTRY_POINTS = "mixseg.collections"
#: Collections of the project → the first paragraph of their help, which a test holds against it.
_SHIPPED = {
    "acdc": "Split ACDC by patient (80/5/15, stratified by pathology); nothing is copied.",
    "la": "Split left-atrium scans (80/5/15), crop them around the heart and write their datalist.",
    "wbc": "Split the white blood cells (80/5/15) and convert their masks of 0, 128 and 255.",
}


class _CollectionCommand(LazyCommand):
    """The command of a collection, which is imported when it is called."""

    def load(self, name: str) -> Any:
        from mixseg.data.collections.registry import collections

        app = typer.Typer(rich_markup_mode="rich", add_completion=False)
        collection = next(one for one in collections() if one.name == name)
        app.command(name, cls=Command, context_settings=HELP)(_command(collection))
        return get_command(app)


class _Collections(LazyGroup):
    """``folder``, the collections of the project, and those of installed packages."""

    lazy: ClassVar[Mapping[str, LazyCommand]] = {
        "folder": LazyCommand(
            "mixseg.cli.prepare_folder:folder",
            "Find out what your images and labels are, report it, and write their datalist.",
        ),
        **{name: _CollectionCommand("", text) for name, text in _SHIPPED.items()},
    }

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.lazy, *self._others()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; while the help is written, what stands there of it."""
        others = self._others()
        if cmd_name in others and cmd_name not in self.lazy:
            return self.listed(cmd_name, others[cmd_name])
        return super().get_command(ctx, cmd_name)

    @staticmethod
    def _others() -> dict[str, LazyCommand]:
        return {
            point.name: _CollectionCommand(
                "", f"The collection of {point.value.partition(':')[0]}."
            )
            for point in entry_points(group=_ENTRY_POINTS)
        }


prepare_app = typer.Typer(
    cls=_Collections,
    no_args_is_help=True,
    add_completion=False,
    context_settings=HELP,
    help="Write the datalist of a public data set, or of your own.",
)


@prepare_app.callback()
def _prepare() -> None:
    """Write the datalist of a public data set, or of your own."""


def prepare(collection: Collection, **values: Any) -> None:
    """Prepare a collection, and print its splits and what was written."""
    with clear_errors():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            done = collection.prepare(**values)
        for warning in caught:
            # Others (deprecations in a reader) are not about the data.
            if issubclass(warning.category, UserWarning):
                note(str(warning.message))
        console.print(datalist_table(done.datalist, f"{collection.title} in {done.folder}"))
        for path in done.written:
            say(f"wrote {path}")


def _command(collection: Collection) -> Callable[..., None]:
    """The command of a collection: its parameters and help are those of its ``prepare``."""

    def command(**values: Any) -> None:
        prepare(collection, **{n: v.value if isinstance(v, Enum) else v for n, v in values.items()})

    text, _, described = (inspect.getdoc(collection.prepare) or "").partition("\nArgs:\n")
    helps = {
        match["name"]: " ".join(match["help"].split())
        for match in re.finditer(r"^ {4}(?P<name>\w+): (?P<help>.*(?:\n {5,}.*)*)", described, re.M)
    }
    hints = get_type_hints(collection.prepare)
    parameters = []
    for parameter in inspect.signature(collection.prepare).parameters.values():
        name, kind = parameter.name, hints[parameter.name]
        option = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        flag = [f"--{name.replace('_', '-')}"] if kind is bool else []
        flag = ["--output", "-o"] if name == "output" else flag
        info = (
            typer.Option(*flag, help=helps.get(name))
            if option
            else typer.Argument(help=helps.get(name))
        )
        parameters.append(parameter.replace(annotation=Annotated[_typed(kind, name), info]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = text.rstrip()
    return command


def _typed(kind: Any, name: str) -> Any:
    """A choice of texts as Typer before 0.19 wants it, an enumeration; other types as they are."""
    for part in get_args(kind):
        if get_origin(part) is Literal:
            values = {value: value for value in get_args(part)}
            choice: Any = EnumMeta.__call__(Enum, name, values, type=str)
            return choice | None
    return kind
