"""Record a dockerd's answers, so that the comparison needs none.

    python -m tests.compare.record --host unix:///run/peer/docker.sock [--pid PID] [CASE...]

It works with containers, networks, volumes and images whose names begin with `cmp-` and an image
`compare`, and removes them; use a dockerd without others, since `ps`, `images` and `info` are
compared too. `--pid` is dockerd's, for published ports, if it has a network namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.compare import differences, offered, runner
from tests.compare.cases import CASES
from tests.harness import docker_cli

#: A directory per major version of the docker CLI, since the CLI's own messages are compared too.
RECORDED = Path(__file__).with_name("recorded")


@contextmanager
def peer(host: str, pid: int | None) -> Iterator[runner.Target]:
    """A dockerd at ``host``, ready for cases."""
    process = pid or os.getpid()
    enter = ["nsenter", f"--net=/proc/{process}/ns/net", "--"]
    places = [("/var/run/docker", "<exec-root>")]
    target = runner.Target(docker_cli(), host.removeprefix("unix://"), enter, places)
    target.prepare()
    namespace = f"compare-{os.getpid()}"
    subprocess.run(["ip", "netns", "attach", namespace, str(process)], check=True)
    try:
        with offered.registry(namespace) as words:
            target.offer(words)
            target.clear()
            yield target
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compare.record", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    parser.add_argument("cases", nargs="*")
    given = parser.parse_args(argv)
    with peer(given.host, given.pid) as target:
        return _record(target, set(given.cases), given.check)


def _record(target: runner.Target, wanted: set[str], check: bool) -> int:
    recorded = RECORDED / runner.cli_version(target.docker)
    recorded.mkdir(parents=True, exist_ok=True)
    if not check and not wanted:
        # A dockerd's package brings the init that `--init` puts into containers.
        _write(recorded / "host.json", runner.host_facts() | {"init": True})
    changed = 0
    for case in CASES:
        if wanted and case.name not in wanted:
            continue
        try:
            answers = runner.run(case, target)
        except runner.Stuck as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            changed += 1
            continue
        path = recorded / f"{case.name}.json"
        if check:
            for difference in differences.between(case.name, json.loads(path.read_text()), answers):
                print(difference)
                changed += 1
        else:
            _write(path, answers)
    return 1 if changed else 0


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
