"""Health checks, seen with the docker CLI."""

from __future__ import annotations

import json
import time

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker, eventually

pytestmark = pytest.mark.usefixtures("tidied")

HEALTH = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
#: Healthy while /ok is there.
CHECK = ("--health-cmd", "test -e /ok && echo fine", "--health-interval", "200ms",
         "--health-retries", "2")  # fmt: skip


def is_now(docker: Docker, name: str, status: str) -> bool:
    return eventually(lambda: docker.state(name, HEALTH) == status)


def actions(docker: Docker, name: str) -> list[str]:
    lines = docker.out("events", "--since", "0", "--until", str(time.time()), "--filter",
                       f"container={name}", "--format", "{{.Action}}")  # fmt: skip
    return lines.splitlines()


def test_healthy_unhealthy_and_back(docker: Docker) -> None:
    docker("run", "-d", "--name", "h1", *CHECK, "busybox", "sleep", "1000")
    assert docker.state("h1", HEALTH) in ("starting", "unhealthy")
    assert is_now(docker, "h1", "unhealthy")
    assert "(unhealthy)" in docker.out("ps", "--filter", "name=h1", "--format", "{{.Status}}")
    docker("exec", "h1", "touch", "/ok")
    assert is_now(docker, "h1", "healthy")
    assert docker.out("ps", "-q", "--filter", "health=healthy", "--filter", "name=h1")
    assert not docker.out("ps", "-q", "--filter", "health=unhealthy", "--filter", "name=h1")
    health = docker.engine.inspect("h1")["State"]["Health"]
    assert health["FailingStreak"] == 0
    assert health["Log"][-1]["ExitCode"] == 0
    assert health["Log"][-1]["Output"] == "fine\n"
    assert health["Log"][-1]["Start"] < health["Log"][-1]["End"]
    assert len(health["Log"]) <= 5
    told = actions(docker, "h1")
    first, second = (told.index(f"health_status: {word}") for word in ("unhealthy", "healthy"))
    assert told.index("start") < first < second
    probe = "/bin/sh -c test -e /ok && echo fine"
    assert f"exec_create: {probe}" in told
    assert f"exec_start: {probe}" in told
    assert "exec_die" in told
    docker("stop", "-t", "0", "h1")
    assert docker.state("h1", HEALTH) == "unhealthy", "for whoever waits for it"
    assert actions(docker, "h1").count("health_status: unhealthy") == 1


def test_a_start_period_with_probes_of_its_own(docker: Docker) -> None:
    docker("run", "-d", "--name", "h2", "--health-cmd", "test -e /ok", "--health-interval", "1h",
           "--health-start-period", "1h", "--health-start-interval", "200ms",
           "--health-retries", "1", "busybox",
           "sh", "-c", "sleep 1; touch /ok; sleep 1000")  # fmt: skip
    assert docker.out("ps", "--filter", "name=h2", "--format", "{{.Status}}").endswith(
        "(health: starting)"
    )
    assert is_now(docker, "h2", "healthy")
    assert "health_status: unhealthy" not in actions(docker, "h2")


def test_a_probe_that_does_not_end_is_killed(docker: Docker) -> None:
    docker("run", "-d", "--name", "h3", "--health-cmd", "echo begun; exec sleep 7777",
           "--health-interval", "100ms", "--health-timeout", "500ms", "--health-retries", "1",
           "busybox", "sleep", "1000")  # fmt: skip
    assert is_now(docker, "h3", "unhealthy")
    result = docker.engine.inspect("h3")["State"]["Health"]["Log"][0]
    assert result["ExitCode"] == -1
    assert result["Output"] == "Health check exceeded timeout (500ms): begun\n"
    docker("pause", "h3")
    assert eventually(lambda: "7777" not in docker.out("top", "h3"))


def test_a_long_output_is_cut(docker: Docker) -> None:
    docker("run", "-d", "--name", "h4", "--health-cmd", "head -c 9000 /dev/zero | tr '\\0' x",
           "--health-interval", "200ms", "busybox", "sleep", "1000")  # fmt: skip
    assert is_now(docker, "h4", "healthy")
    output = docker.engine.inspect("h4")["State"]["Health"]["Log"][-1]["Output"]
    assert output == "x" * 4096 + "..."


def test_a_paused_container_is_not_asked(docker: Docker) -> None:
    docker("run", "-d", "--name", "h5", *CHECK, "busybox", "sh", "-c", "touch /ok; sleep 1000")
    assert is_now(docker, "h5", "healthy")
    docker("pause", "h5")
    last = docker.engine.inspect("h5")["State"]["Health"]["Log"][-1]
    time.sleep(1)
    health = docker.engine.inspect("h5")["State"]["Health"]
    assert (health["Status"], health["Log"][-1]) == ("unhealthy", last)
    docker("unpause", "h5")
    assert is_now(docker, "h5", "healthy")
    assert docker.engine.inspect("h5")["State"]["Health"]["Log"][-1]["Start"] > last["Start"]


def test_the_next_daemon_knows_that_a_paused_one_is_unhealthy(new_engine: EngineProcess) -> None:
    engine = new_engine
    engine.docker("run", "-d", "--name", "h14", *CHECK, "busybox",
                  "sh", "-c", "touch /ok; sleep 1000")  # fmt: skip

    def health() -> str:
        return engine.out("inspect", "-f", HEALTH, "h14")

    assert eventually(lambda: health() == "healthy")
    engine.docker("pause", "h14")
    engine.kill()
    engine.start()
    assert health() == "unhealthy"
    engine.docker("unpause", "h14")
    assert eventually(lambda: health() == "healthy")


def test_the_check_of_the_image_and_none(docker: Docker) -> None:
    docker("run", "--name", "h6", "busybox", "true")
    docker("commit", "-c", 'HEALTHCHECK --interval=1h CMD ["true"]', "h6", "checked")
    docker("run", "-d", "--name", "h7", "checked", "sleep", "1000")
    assert docker.state("h7", HEALTH) == "starting"
    docker("run", "-d", "--name", "h8", "--no-healthcheck", "checked", "sleep", "1000")
    assert docker.state("h8", HEALTH) == ""
    assert "health" not in docker.out("ps", "--filter", "name=h8", "--format", "{{.Status}}")
    docker("run", "-d", "--name", "h9", "--health-interval", "100ms", "checked", "sleep", "1000")
    assert is_now(docker, "h9", "healthy")


def test_bad_checks_are_refused(docker: Docker) -> None:
    done = docker("run", "--health-cmd", "true", "--health-interval", "1us", "busybox", check=False)
    assert "Interval in Healthcheck cannot be less than 1ms" in done.stderr
    done = docker("run", "--annotation", "pyengine.on-unhealthy=reboot", "busybox", check=False)
    assert "invalid value 'reboot' for pyengine.on-unhealthy (none, restart or stop)" in done.stderr


def test_an_unhealthy_container_is_started_anew(docker: Docker) -> None:
    docker("run", "-d", "--name", "h10", "--annotation", "pyengine.on-unhealthy=restart",
           "--health-cmd", "test ! -e /run/broken", "--health-interval", "100ms",
           "--health-retries", "1", "--tmpfs", "/run", "busybox", "sleep", "1000")  # fmt: skip
    assert is_now(docker, "h10", "healthy")
    before = docker.state("h10", "{{.State.StartedAt}}")
    docker("exec", "h10", "touch", "/run/broken")
    assert eventually(lambda: docker.state("h10", "{{.State.StartedAt}}") != before, 30)
    assert is_now(docker, "h10", "healthy")
    assert docker.state("h10", "{{.RestartCount}}") == "1"


def test_an_unhealthy_container_is_stopped(docker: Docker) -> None:
    docker("run", "-d", "--name", "h11", "--label", "pyengine.on-unhealthy=stop",
           "--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1",
           "--stop-timeout", "0", "busybox", "sleep", "1000")  # fmt: skip
    assert eventually(lambda: docker.state("h11", "{{.State.Status}}") == "exited", 20)


def test_a_pause_hides_no_failure_after_it(docker: Docker) -> None:
    docker("run", "-d", "--name", "h13", *CHECK, "--label", "pyengine.on-unhealthy=stop",
           "--stop-timeout", "0", "busybox", "sh", "-c", "touch /ok; sleep 1000")  # fmt: skip
    assert is_now(docker, "h13", "healthy")
    docker("exec", "h13", "rm", "/ok")
    docker("pause", "h13")
    time.sleep(1)
    assert docker.state("h13", "{{.State.Status}}") == "paused"
    docker("unpause", "h13")
    assert eventually(lambda: docker.state("h13", "{{.State.Status}}") == "exited", 20)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_next_daemon_goes_on_asking(new_engine: EngineProcess, end: str) -> None:
    engine = new_engine
    engine.stop()
    engine.start("--live-restore")
    engine.docker("run", "-d", "--name", "h12", *CHECK, "busybox",
                  "sh", "-c", "touch /ok; sleep 1000")  # fmt: skip

    def health() -> dict[str, object]:
        found: dict[str, object] = json.loads(
            engine.out("inspect", "-f", "{{json .State.Health}}", "h12")
        )
        return found

    assert eventually(lambda: health()["Status"] == "healthy")
    getattr(engine, end)()
    engine.start()
    assert health()["Status"] == "healthy"
    engine.docker("exec", "h12", "rm", "/ok")
    assert eventually(lambda: health()["Status"] == "unhealthy")
