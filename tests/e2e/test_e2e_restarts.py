"""What a restart policy does between two runs, and what the commands say then."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Docker, eventually
from tests.e2e.test_e2e_life import following


def restarting(docker: Docker, *flags: str) -> str:
    """A container that fails at once, with seconds to go until its next start."""
    name = docker.up("--restart", "always", *flags, "busybox", "sh", "-c", "exit 7")
    assert eventually(
        lambda: docker.state(name, "{{.State.Status}} {{ge .RestartCount 6}}") == "restarting true"
    )
    return name


def test_the_end_of_a_run_is_told_with_what_follows(docker: Docker) -> None:
    name = docker.name()
    filters = ("--filter", f"container={name}", "--filter", "event=die")
    with following(docker, "events", *filters, "--format", "{{.Action}}") as events:
        time.sleep(0.3)
        script = "sleep 0.3; exit 2"
        docker.up("--restart", "on-failure:1", "busybox", "sh", "-c", script, name=name)
        assert events.stdout is not None
        assert events.stdout.readline() == "die\n"
        # compose looks at this moment, and gives a container up that only says "exited".
        assert docker.state(name, "{{.State.Restarting}} {{.State.Running}}") == "true true"
        assert events.stdout.readline() == "die\n"
        assert eventually(lambda: docker.state(name) == "exited")


def test_words_for_one_that_is_restarting(docker: Docker) -> None:
    name = restarting(docker)
    id = docker.state(name, "{{.Id}}")
    busy = f"Container {id} is restarting, wait until the container is running"
    docker.fails("exec", name, "true", code=1, says=busy)
    docker.fails("top", name, code=1, says=busy)
    docker.fails("pause", name, code=1, says=busy)
    docker.fails("rm", name, code=1, says="container is restarting: stop the container before")


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_ended_between_two_runs_it_stays_so(docker: Docker, verb: str) -> None:
    name = restarting(docker)
    moment = "{{.State.Status}} {{.RestartCount}}"
    for _ in range(5):
        before = docker.state(name, moment)
        with following(docker, "wait", name) as waiting:
            time.sleep(0.3)
            ended, after = waiting.poll(), docker.state(name, moment)
            if not (before == after and before.startswith("restarting")):
                continue  # it ran meanwhile, and then who waits is told of its end
            assert ended is None, "it is about to run again"
            docker(verb, name)
            assert waiting.communicate(timeout=5)[0] == "7\n"
            break
    else:
        pytest.fail("it never waits long enough")
    count = docker.state(name, "{{.RestartCount}}")
    time.sleep(0.5)
    assert docker.state(name, moment) == f"exited {count}"


def test_any_signal_is_meant_to_end_one_without_a_signal_of_its_own(docker: Docker) -> None:
    script = "trap 'exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    for flags, after in (((), "exited"), (("--stop-signal", "USR2"), "running")):
        name = docker.up("--restart", "always", *flags, "busybox", "sh", "-c", script)
        assert eventually(lambda name=name: "ready" in docker.out("logs", name))
        docker("kill", "-s", "USR1", name)
        if after == "running":
            assert eventually(lambda name=name: docker.state(name, "{{.RestartCount}}") == "1")
        assert eventually(lambda name=name, after=after: docker.state(name) == after)


def test_starts_that_fail_come_at_growing_distances(docker: Docker, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mount = f"type=bind,src={source},dst=/source"
    name = docker.up("--restart", "always", "--mount", mount, "busybox", "sleep", "10.5")
    shutil.rmtree(source)
    assert eventually(lambda: docker.state(name) == "restarting", 20)
    time.sleep(2.0)
    # 0.1, 0.2, 0.4, 0.8 seconds apart; the ten seconds it ran before count once.
    count = int(docker.state(name, "{{.RestartCount}}"))
    assert 2 <= count <= 5
    state = json.loads(docker.out("inspect", name))[0]["State"]
    assert state["Status"] == "restarting"
    assert str(source) in state["Error"]
    source.mkdir()
    assert eventually(lambda: docker.state(name) == "running", 20)
