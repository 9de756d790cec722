"""`python -m bench [CASE...]`: run the cases and print the table. See `--help`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.case import Case, all_cases
from bench.engines import CommandFailed, Dockerd, Engine, Podman, Pyengine
from bench.measure import Effort, Result, measure
from bench.peer import Peer, PeerError
from bench.report import document, table


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments().parse_args(argv)
    cases = _chosen(given.cases)
    if given.list:
        for case in cases:
            print(f"{case.name:18} {case.about}")
        return 0
    if not cases:
        print(f"bench: no case matches {' '.join(given.cases)}; see --list", file=sys.stderr)
        return 2
    effort = Effort(factor=given.rounds, spaced=given.spaced)
    if given.quick:
        effort = Effort(factor=0.25, spaced=0)
    results: list[Result] = []
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        try:
            engines = _started(given.engines.split(","), given, stack)
        except (PeerError, CommandFailed) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        versions = {e.name: _version(e) for e in engines}
        for case in cases:
            try:
                results += measure(case, engines, effort, lambda text: print(text, file=sys.stderr))
            except CommandFailed as error:
                failed[case.name] = str(error)
                print(f"{case.name}: failed: {error}", file=sys.stderr)
    baseline = given.baseline
    if results:
        print(table(results, baseline))
    if given.json:
        text = json.dumps(document(results, baseline, versions, failed), indent=1)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(text + "\n")
        print(f"\n{given.json}")
    return 1 if failed else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", help="names or patterns of cases (default: all)")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rounds, none spaced")
    parser.add_argument("--rounds", type=float, default=1.0, help="scales the number of rounds")
    parser.add_argument("--spaced", type=int, default=10, help="rounds spaced by a second")
    parser.add_argument("--engines", default="pyengine,dockerd", help="which, in this order")
    parser.add_argument("--baseline", default="dockerd", help="what ratios refer to")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="also to here")
    parser.add_argument("--root", type=Path, help="work directory (default: $PYENGINE_BENCH_DIR)")
    parser.add_argument("--program", type=Path, help="pyengine to measure (default: this venv's)")
    parser.add_argument("--flag", action="append", default=[], help="added to pyengine daemon")
    return parser


def _chosen(patterns: Sequence[str]) -> list[Case]:
    return [
        case
        for case in all_cases()
        if not patterns or any(fnmatch.fnmatchcase(case.name, p) for p in patterns)
    ]


def _started(names: Sequence[str], given: argparse.Namespace, stack: ExitStack) -> list[Engine]:
    """The engines in the order asked for; the peer is always there, for its network."""
    peer = Peer(given.root)
    dockerd = Dockerd(peer)
    stack.callback(dockerd.close)
    engines: list[Engine] = []
    for name in names:
        engine: Engine
        if name == "dockerd":
            engine = dockerd
        elif name == "podman":
            engine = Podman(peer)
        elif name == "pyengine":
            engine = Pyengine(peer, given.program, given.flag)
            stack.callback(engine.close)
        else:
            raise CommandFailed(f"no engine is called {name}: pyengine, dockerd or podman")
        engines.append(engine)
    return engines


def _version(engine: Engine) -> str:
    try:
        return engine.run("version", "--format", "{{.Server.Version}}")
    except CommandFailed:
        return engine.run("version", "--format", "{{.Client.Version}}")


if __name__ == "__main__":
    sys.exit(main())
