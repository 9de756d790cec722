"""pyengine answers as dockerd does, command by command.

The answers of a dockerd 26.1 are in recorded/; with PYENGINE_PEER=unix://... a living one is asked
instead (PYENGINE_PEER_PID: its process, if it has a network namespace of its own). Every difference
needs a line in accepted.toml, and every line there a difference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compare import differences, runner
from tests.compare.cases import CASES
from tests.compare.record import RECORDED, peer
from tests.compare.steps import Case
from tests.harness import EngineProcess

_ACCEPTED = differences.accepted()
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
        yield target
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def theirs() -> runner.Target | None:
    """A living dockerd, or None: then its recorded answers serve."""
    named = os.environ.get("PYENGINE_PEER")
    pid = os.environ.get("PYENGINE_PEER_PID")
    return peer(named, int(pid) if pid else None) if named else None


@pytest.fixture(scope="module")
def strange(theirs: runner.Target | None, docker_binary: str) -> set[str]:
    """The facts of this host that differ from those of the recording's."""
    if theirs is not None:
        return set()
    recorded = json.loads((RECORDED / "host.json").read_text())
    here = runner.host_facts(docker_binary)
    return {fact for fact in here if here[fact] != recorded[fact]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_dockerd(
    case: Case, ours: runner.Target, theirs: runner.Target | None, strange: set[str]
) -> None:
    if theirs is not None:
        expected = runner.run(case, theirs)
    else:
        expected = json.loads((RECORDED / f"{case.name}.json").read_text())
    found = runner.run(case, ours)
    left = []
    for difference in differences.between(case.name, expected, found):
        holding = (a for a in _ACCEPTED if not a.host or a.host in strange)
        line = next((a for a in holding if a.covers(difference)), None)
        if line is None:
            left.append(difference)
        else:
            _used.add(line)
    _compared.add(case.name)
    assert not left, "\n".join(map(str, left))


def test_no_accepted_difference_is_stale() -> None:
    if len(_compared) < len(CASES):
        pytest.skip("only some of the cases were compared")
    stale = [a for a in _ACCEPTED if not a.host and a not in _used]
    assert not stale, "\n".join(f"{a.case}: {a.at}" for a in stale)
