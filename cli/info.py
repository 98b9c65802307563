"""``mixseg info``: what a bundle segments, takes and gives, and under which licenses."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from mixseg.cli.console import Bundle, clear_errors, console


def info(
    bundle: Bundle,
) -> None:
    """Show what a bundle segments, its inputs and labels, its scores and its licenses.

    Example: mixseg info la_mixed
    """
    from mixseg.apps.bundle.find import find_bundle
    from mixseg.apps.bundle.info import describe

    with clear_errors():
        folder = find_bundle(bundle)
        facts = describe(folder)
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for title, text in facts.items():
        table.add_row(title, escape(text))
    table.add_row("folder", escape(str(folder)))
    console.print(table)
