"""Commands that are imported when they are called: listing them takes no MONAI."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mixseg.cli.console import hushed
from mixseg.cli.spelling import present_spelling

#: Settings of every command: ``-h`` is ``--help``.
HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Switches:
    """Shows no type behind the options that take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, of which switches name no type in the help."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class Command(_Switches, TyperCommand):
    """A command whose options may be written with ``_`` for ``-``; old spellings are refused.

    Every command takes ``--verbose``, which shows what the libraries say of their own work.
    """

    _verbose = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, their options in the present spelling."""
        names = {
            name: bool(getattr(parameter, "is_flag", False))
            for parameter in self.get_params(ctx)
            for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("-")
        }
        self._verbose = "--verbose" in args
        if "--verbose" not in names:
            args = [argument for argument in args if argument != "--verbose"]
        try:
            args = present_spelling(args, names)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx) from error
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; SIGTERM ends it as Ctrl-C does, so that no half of a file is left."""
        with _terminable(), nullcontext() if self._verbose else hushed():
            return super().invoke(ctx)


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are that one's
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is and what a list of commands says of it.

    Attributes:
        source: ``module:name`` of a function, or of a Typer application with commands of its own.
        help: the first paragraph of its help, which a test holds against the command's own.
        takes_settings: options that are not its own are settings of a bundle, which it checks.
    """

    source: str
    help: str
    takes_settings: bool = False

    def load(self, name: str) -> Any:
        """Import the command."""
        module, _, attribute = self.source.partition(":")
        target: Any = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            group = get_command(target)
            group.name = name
            return group
        app = typer.Typer(rich_markup_mode="rich", add_completion=False)
        settings = dict(HELP)
        if self.takes_settings:
            settings |= {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, cls=Command, context_settings=settings)(target)
        return get_command(app)


class LazyGroup(_Switches, TyperGroup):
    """A group that imports a command when it is called, not when it is listed.

    Typer's own group lists what was imported before. Contexts and commands are untyped: Typer's are
    Click's in some versions and copies of them in others.
    """

    #: Name → command, in the order of the help.
    lazy: ClassVar[Mapping[str, LazyCommand]] = {}
    #: Names of before → what does the same now.
    moved: ClassVar[Mapping[str, str]] = {}
    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; while the help is written, what stands there of it."""
        command = self.lazy.get(cmd_name)
        if command is None:
            if cmd_name in self.moved:
                raise typer.BadParameter(f"'{cmd_name}' is now {self.moved[cmd_name]}", ctx=ctx)
            return None
        return self.listed(cmd_name, command)

    def listed(self, name: str, command: LazyCommand) -> Any:
        """A command imported, or while the help is written what stands there of it."""
        if self._listing:
            return TyperCommand(name, help=command.help, rich_markup_mode="rich")
        return command.load(name)

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
