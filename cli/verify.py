"""``mixseg verify``: bundles checked against MONAI's rules and this project's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mixseg.cli.console import clear_errors, console, fail


def verify(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or zips of bundles; default: every folder below ./bundles."),
    ] = None,
    run: Annotated[
        bool,
        typer.Option("--run", help="Also make the checks that run the bundle's code."),
    ] = False,
) -> None:
    """Check bundles against MONAI's rules and this project's; exit status 1 if any fails.

    Files are read, hashed and compared; no code of a bundle is imported and no expression of its
    configuration evaluated. The checks that run it (does it import, build its network, export)
    need --run: add it for bundles whose author you trust.

    Examples:

      mixseg verify

      mixseg verify bundles/la_mixed --run

      mixseg verify dist/acdc_lv_confkd_v0.1.0.zip
    """
    from mixseg.apps.bundle.find import remember
    from mixseg.apps.pack.verify import folder_of, verify_bundle

    places = bundles or sorted(p.parent for p in Path("bundles").glob("*/configs"))
    if not places:
        raise fail("no bundle below ./bundles: name the folders to verify")
    table = Table(show_lines=False)
    table.add_column("bundle")
    table.add_column("check", no_wrap=True)
    table.add_column("result", overflow="fold")
    counts: Counter[str] = Counter()
    for place in places:
        with clear_errors(), folder_of(place) as folder:
            name = folder.resolve().name
            with console.status(f"checking {name}"):
                results = verify_bundle(folder, run)
            if not any(outcome.faults for outcome in results.values()):
                remember(folder)
        for check, outcome in results.items():
            counts[outcome.word] += 1
            said = escape("\n".join(outcome.faults) or outcome.not_checked)
            color = {"ok": "green", "failed": "red"}.get(outcome.word, "yellow")
            table.add_row(name, check, f"[{color}]{outcome.word}{': ' if said else ''}[/]{said}")
    console.print(table)
    rest = f", {counts['not checked']} not checked" if counts["not checked"] else ""
    if counts["failed"]:
        console.print(f"[bold red]{counts['failed']} checks failed[/]{rest}")
        raise typer.Exit(1)
    console.print(f"[green]all checks passed[/]{rest}")
