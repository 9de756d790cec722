"""The ``pyengine`` command: a client of the engine's API with Docker's words and outputs."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit status."""
    from pyengine.cli.root import run

    return run(argv)
