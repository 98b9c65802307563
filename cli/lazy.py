"""Commands that are imported when they are called: listing them takes no MONAI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

__all__ = ["LazyCommand", "LazyGroup"]


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is and what a list of commands says of it.

    Attributes:
        source: ``module:name`` of a function, or of a Typer application with commands of its own.
        help: the first paragraph of its help, which a test holds against the command's own.
        takes_knobs: what is no option of its own is a knob of a bundle, checked by the command.
    """

    source: str
    help: str
    takes_knobs: bool = False

    def load(self, name: str) -> Any:
        """Import the command."""
        module, _, attribute = self.source.partition(":")
        target: Any = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            group = get_command(target)
            group.name = name
            return group
        app = typer.Typer(rich_markup_mode="rich", add_completion=False)
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, context_settings=settings if self.takes_knobs else None)(target)
        return get_command(app)


class LazyGroup(TyperGroup):
    """A group that imports a command when it is called, not when it is listed.

    Typer's own group lists what was imported before. Contexts and commands are untyped: Typer's are
    Click's in some versions and copies of them in others.
    """

    #: Name → command, in the order of the help.
    lazy: ClassVar[Mapping[str, LazyCommand]] = {}
    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; while the help is written, what stands there of it."""
        command = self.lazy.get(cmd_name)
        if command is None:
            return None
        if self._listing:
            return TyperCommand(cmd_name, help=command.help, rich_markup_mode="rich")
        return command.load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help without importing the commands."""
        with self._not_imported():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete a command's name without importing the commands."""
        with self._not_imported():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _not_imported(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False
