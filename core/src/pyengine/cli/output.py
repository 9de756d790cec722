"""Writing an archive that the engine streams to where the user wants it."""

from __future__ import annotations

import os
import sys

from pyengine.cli.client import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyengine.cli.http import Response


def write_stream(request: Callable[[], Response], path: str, failure: str, refusal: str) -> None:
    """Send the request and write its body to ``path``, or to standard output without one.

    A file appears only when it is complete. CommandError beginning with ``failure``, or
    ``refusal`` for a terminal.
    """
    if not path:
        if sys.stdout.isatty():
            raise CommandError(refusal)
        for piece in request():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        words = "no such file or directory"
        raise CommandError(f"{failure}: invalid output path: stat {folder}: {words}")
    response = request()
    partial = f"{path}.part-{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            for piece in response:
                file.write(piece)
        os.replace(partial, path)
    except OSError as error:
        raise CommandError(f"{failure}: write {path}: {str(error.strerror).lower()}")
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
