"""``pyengine image explore``: what every layer of an image adds, changes, removes and wastes."""

from __future__ import annotations

import json
import sys

import click

from pyengine.cli.clickgroup import Names
from pyengine.cli.session import Session


@click.command()
@click.argument("image", type=Names("images"))
@click.option(
    "--format",
    type=click.Choice(["text", "json"]),
    help="Print a report in this format instead of opening the terminal view",
)
@click.option("--plain", is_flag=True, help="The same as --format text")
@click.option("--full", is_flag=True, help="List what is in new and removed directories, too")
@click.pass_obj
def explore(session: Session, image: str, format: str | None, plain: bool, full: bool) -> None:
    """Show what each layer of an image adds, changes, removes and wastes

    Opens a terminal view; where the output is no terminal, prints a report.
    """
    from pyengine_cli_explore import report, source

    history = source.read(session.client, image)
    if format == "json":
        print(json.dumps(report.document(history), indent=2))
    elif format == "text" or plain or full or not (sys.stdin.isatty() and sys.stdout.isatty()):
        for line in report.text(history, full=full):
            print(line)
    else:
        from pyengine_cli_explore.view import View

        View(history).run()
