"""pyengine answers as dockerd does, command by command.

The answers of a dockerd 26.1 are in recorded/, by version of the docker CLI; with
PYENGINE_PEER=unix://... a living one is asked instead (PYENGINE_PEER_PID: its process, if it has a
network namespace of its own). Every difference needs a line in accepted.toml, and every line there
a difference. With a CLI for which nothing is recorded, answers of the API and exit codes are
compared, and the texts that the CLI makes of them are not.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compare import differences, offered, runner
from tests.compare.cases import CASES
from tests.compare.record import RECORDED, peer
from tests.compare.steps import Case
from tests.harness import EngineProcess

_ACCEPTED = differences.accepted()
_FROM_ENGINE = re.compile(r"(GET|POST|PUT|DELETE) /|.* > exit$")
_used: set[differences.Accepted] = set()
_compared: set[str] = set()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, docker_binary: str) -> Iterator[runner.Target]:
    engine = EngineProcess(Path(tmp_path_factory.mktemp("compare")), docker_binary)
    engine.start()
    try:
        enter = ["nsenter", f"--net=/run/netns/{engine.namespace}", "--"]
        places = [(str(engine.run), "<exec-root>")]
        target = runner.Target(docker_binary, str(engine.socket), enter, places)
        target.prepare()
        with offered.registry(engine.namespace) as words:
            target.offer(words)
            yield target
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def theirs() -> Iterator[runner.Target | None]:
    """A living dockerd, or None: then its recorded answers serve."""
    named = os.environ.get("PYENGINE_PEER")
    pid = os.environ.get("PYENGINE_PEER_PID")
    if not named:
        yield None
        return
    with peer(named, int(pid) if pid else None) as target:
        yield target


@pytest.fixture(scope="module")
def recorded(docker_binary: str) -> Path:
    """The recordings for this CLI, or those for the newest."""
    version = runner.cli_version(docker_binary)
    if (RECORDED / version).exists():
        return RECORDED / version
    return max(RECORDED.iterdir(), key=lambda path: int(path.name))


@pytest.fixture(scope="module")
def strange(theirs: runner.Target | None, recorded: Path, docker_binary: str) -> set[str]:
    """The facts of this host that differ from those of the recording's."""
    here = runner.host_facts()
    if theirs is not None:
        # It brings its own init, but the kernel is the same.
        return set() if here["init"] else {"init"}
    facts = json.loads((recorded / "host.json").read_text())
    found = {fact for fact in here if here[fact] != facts[fact]}
    version = runner.cli_version(docker_binary)
    if version != recorded.name:
        warnings.warn(
            f"nothing is recorded for docker CLI {version}: texts go uncompared", stacklevel=1
        )
        found.add("cli")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_dockerd(
    case: Case,
    ours: runner.Target,
    theirs: runner.Target | None,
    recorded: Path,
    strange: set[str],
) -> None:
    if theirs is not None:
        expected = runner.run(case, theirs)
    else:
        expected = json.loads((recorded / f"{case.name}.json").read_text())
    found = runner.run(case, ours)
    left = []
    for difference in differences.between(case.name, expected, found):
        if "cli" in strange and not _FROM_ENGINE.match(difference.at):
            continue
        holding = (a for a in _ACCEPTED if not a.host or a.host in strange)
        line = next((a for a in holding if a.covers(difference)), None)
        if line is None:
            left.append(difference)
        else:
            _used.add(line)
    _compared.add(case.name)
    assert not left, "\n".join(map(str, left))


def test_no_accepted_difference_is_stale(strange: set[str]) -> None:
    if len(_compared) < len(CASES) or strange - {"init"}:
        pytest.skip("not every case was compared, or on another host than the recording's")
    stale = [a for a in _ACCEPTED if not a.host and a not in _used]
    assert not stale, "\n".join(f"{a.case}: {a.at}" for a in stale)
