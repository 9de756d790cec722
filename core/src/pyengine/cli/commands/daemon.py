"""``pyengine daemon``: the engine itself. Its flags are the engine's own affair."""

from __future__ import annotations

import gc

from pyengine.cli.flags import Command, Options
from pyengine.cli.session import Session


def _run(session: Session, _: Options, words: list[str]) -> int:
    # What is loaded from here on stays: walking it again and again is a tenth of the start. The
    # daemon switches collection on when it is ready.
    gc.disable()
    from pyengine.engine.main import main

    argv = [part for driver in session.options["driver"] for part in ("--driver", driver)]
    for flag in ("host", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey", "debug"):
        value = session.options[flag]
        if flag in session.options.changed:
            values = value if isinstance(value, list) else [value]
            for item in values:
                argv += [f"--{flag}"] if item is True else [f"--{flag}", str(item)]
    return main([*argv, *words]) or 0


daemon = Command("[OPTIONS]", "Run the engine", (), _run, raw=True)
