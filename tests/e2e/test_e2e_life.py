"""From create to rm: stop, kill, wait, restart, pause, rename, events."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Docker, eventually

TRAP = "trap 'echo {0}; exit 3' {0}; echo ready; while :; do sleep 0.05; done"


@contextlib.contextmanager
def following(docker: Docker, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A docker command in the background, ended at the latest with the block."""
    process = subprocess.Popen(
        docker.engine.command(*words),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(docker: Docker, name: str) -> None:
    assert eventually(lambda: "ready" in docker.out("logs", name))


@pytest.mark.parametrize(
    ("flags", "stop", "signal_name"),
    [
        ((), (), "TERM"),
        (("--stop-signal", "INT"), (), "INT"),
        ((), ("-s", "USR1"), "USR1"),
        (("--stop-signal", "10"), (), "USR1"),
    ],
)
def test_stop_signals(
    docker: Docker, flags: tuple[str, ...], stop: tuple[str, ...], signal_name: str
) -> None:
    name = docker.up(*flags, "busybox", "sh", "-c", TRAP.format(signal_name))
    ready(docker, name)
    docker("stop", *stop, name)
    assert docker.state(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"
    assert docker.out("logs", name) == f"ready\n{signal_name}"


def test_stop_timeouts(docker: Docker) -> None:
    for flags, stop in ((("--stop-timeout", "1"), ()), ((), ("-t", "1"))):
        name = docker.up(*flags, "busybox", "sh", "-c", "trap '' TERM; echo ready; sleep 60")
        ready(docker, name)
        began = time.monotonic()
        docker("stop", *stop, name)
        assert 0.9 < time.monotonic() - began < 4
        assert docker.state(name, "{{.State.ExitCode}}") == "137"


def test_kill(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", TRAP.format("HUP"))
    ready(docker, name)
    docker("kill", "-s", "SIGHUP", name)
    assert docker.out("wait", name) == "3"
    docker.fails("kill", name, code=1, says="is not running")
    docker.fails("kill", "-s", "NONESUCH", name, code=1, says="invalid signal: NONESUCH")
    docker.fails("kill", "-s", "0", name, code=1, says="invalid signal: 0")
    docker("start", name)
    ready(docker, name)
    docker("kill", name)
    assert docker.out("wait", name) == "137"


def wait(docker: Docker, name: str, condition: str) -> subprocess.Popen[str]:
    # No flag of the CLI has the conditions; the API waits in a process of its own.
    return subprocess.Popen(
        [
            "curl",
            "-s",
            "--unix-socket",
            str(docker.engine.socket),
            "-X",
            "POST",
            f"http://d/v1.45/containers/{name}/wait?condition={condition}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_wait_conditions(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--name", name, "busybox", "sh", "-c", "exit 4")
    with wait(docker, name, "not-running") as now:
        assert json.loads(now.communicate(timeout=10)[0]) == {"StatusCode": 0}
    with wait(docker, name, "next-exit") as later, wait(docker, name, "removed") as last:
        time.sleep(0.3)
        assert later.poll() is None
        docker("start", name)
        assert json.loads(later.communicate(timeout=10)[0]) == {"StatusCode": 4}
        assert last.poll() is None
        docker("rm", name)
        assert json.loads(last.communicate(timeout=10)[0]) == {"StatusCode": 4}
    with wait(docker, "nonesuch", "not-running") as missing:
        assert "No such container" in missing.communicate(timeout=10)[0]


def test_restart_keeps_what_was_written(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "echo x >>/count; wc -l </count; sleep 60")
    started = docker.state(name, "{{.State.StartedAt}}")
    docker("restart", "-t", "0", name)
    assert eventually(lambda: docker.out("logs", name) == "1\n2")
    assert docker.state(name, "{{.State.StartedAt}}") > started
    assert docker.state(name, "{{.RestartCount}}") == "0"


def test_start_of_what_runs_and_of_what_ended(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    assert docker.out("start", name) == name
    assert docker.out("stop", "-t", "0", name) == name
    assert docker.out("stop", name) == name, "stopping twice is fine"


def test_restart_policy_on_failure(docker: Docker) -> None:
    name = docker.up("--restart", "on-failure:2", "busybox", "sh", "-c", "echo try; exit 5")
    assert eventually(
        lambda: docker.state(name) == "exited" and docker.state(name, "{{.RestartCount}}") == "2"
    )
    assert docker.out("logs", name).splitlines() == ["try"] * 3
    assert docker.state(name, "{{.State.ExitCode}}") == "5"


def test_pause(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    docker("pause", name)
    assert docker.state(name, "{{.State.Status}} {{.State.Paused}} {{.State.Running}}") == (
        "paused true true"
    )
    assert "(Paused)" in docker.out("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    lines = docker.out("logs", name)
    time.sleep(0.3)
    assert docker.out("logs", name) == lines
    docker.fails("exec", name, "true", code=1, says="is paused")
    docker.fails("pause", name, code=1, says="is already paused")
    docker("unpause", name)
    assert eventually(lambda: len(docker.out("logs", name)) > len(lines))
    docker.fails("unpause", name, code=1, says="is not paused")
    docker("pause", name)
    docker("rm", "-f", name)


def test_rename(docker: Docker) -> None:
    first, second, third = (docker.name() for _ in range(3))
    docker.up("busybox", "sleep", "60", name=first)
    docker.up("busybox", "sleep", "60", name=second)
    docker.fails("rename", first, second, code=1, says="is already in use by container")
    docker("rename", first, third)
    assert docker.state(third, "{{.Name}}") == f"/{third}"
    docker.fails("inspect", first, code=1, says="No such object")
    docker.up("busybox", "sleep", "60", name=first)


def test_top(docker: Docker) -> None:
    name = docker.up("busybox", "sh", "-c", "sleep 77 & exec sleep 78")
    lines = docker.out("top", name).splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert sorted(line.split(None, 7)[7] for line in lines[1:]) == ["sleep 77", "sleep 78"]
    assert docker.out("top", name, "-o", "pid,comm").splitlines()[0].split() == ["PID", "COMMAND"]
    docker.fails("top", name, "--nonesuch", code=1, says="ps")


def test_diff(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    assert docker.out("diff", name) == "", "an untouched container shows nothing"
    docker.exec(
        name,
        "sh",
        "-c",
        "echo x >/new; rm /etc/group; echo y >>/etc/passwd;"
        "mkdir -p /var/a/b; rm -r /tmp; mkdir /tmp",
    )
    assert set(docker.out("diff", name).splitlines()) == {
        "A /new",
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        "C /var",
        "A /var/a",
        "A /var/a/b",
        "C /tmp",
    }


def test_remove(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    docker.fails("rm", name, code=1, says="stop the container before removing or force remove")
    assert docker.out("rm", "-f", name) == name
    docker.fails("rm", name, code=1, says=f"No such container: {name}")
    docker("rm", "-f", name)


def test_ids_by_prefix(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "60")
    id = docker.state(name, "{{.Id}}")
    assert docker.state(id[:12], "{{.Name}}") == f"/{name}"
    assert docker.state(id[:6], "{{.Id}}") == id


def test_events_in_order(docker: Docker) -> None:
    name = docker.name()
    since = str(time.time())
    docker("run", "--name", name, "busybox", "true")
    docker("rm", name)
    out = docker.out(
        "events", "--since", since, "--until", str(time.time() + 0.3), "--format", "{{json .}}"
    )
    events = [json.loads(line) for line in out.splitlines()]
    id = next(e["Actor"]["ID"] for e in events if e["Actor"]["Attributes"].get("name") == name)
    ours = [
        f"{e['Type']} {e['Action']}"
        for e in events
        if id in (e["Actor"]["ID"], e["Actor"]["Attributes"].get("container"))
    ]
    containers = [line for line in ours if line.startswith("container")]
    assert containers == [
        "container create",
        "container attach",
        "container start",
        "container die",
        "container destroy",
    ]
    assert ours.index("network connect") < ours.index("container start")
    # The link goes off everybody's path, perhaps after the container did.
    assert ours.index("network disconnect") > ours.index("container die")


def test_events_follow_with_filters(docker: Docker) -> None:
    name = docker.name()
    with following(
        docker,
        "events",
        "--filter",
        f"container={name}",
        "--filter",
        "event=die",
        "--format",
        "{{.Action}} {{.Actor.Attributes.exitCode}}",
    ) as events:
        time.sleep(0.5)
        docker(
            "run", "--name", name, "--network", "none", "busybox", "sh", "-c", "exit 6", check=False
        )
        assert events.stdout is not None
        assert events.stdout.readline() == "die 6\n"


def test_ps(docker: Docker) -> None:
    name = docker.up("--label", "who=me", "busybox", "sleep", "60")
    form = ("--format", "{{.Names}} {{.Image}} {{.State}} {{.Command}}", "--no-trunc")
    for word in (
        "label=who=me",
        f"name={name}",
        "ancestor=busybox",
        "status=running",
        "network=bridge",
    ):
        assert f'{name} busybox running "sleep 60"' in docker.out("ps", "--filter", word, *form)
    assert name not in docker.out("ps", "-a", "--filter", "status=exited", *form)
    docker.fails("ps", "--filter", "nonesuch=1", code=1, says="invalid filter 'nonesuch'")
    assert docker.out("ps", "-l", "--format", "{{.Names}}") == name


def test_many_starts_at_once(docker: Docker) -> None:
    names = [docker.name() for _ in range(8)]
    running = [
        subprocess.Popen(
            docker.engine.command("run", "--name", name, "busybox", "sh", "-c", f"exit {number}"),
            stdin=subprocess.DEVNULL,
        )
        for number, name in enumerate(names)
    ]
    assert [process.wait(60) for process in running] == list(range(8))


def test_two_starts_of_one_container(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--name", name, "busybox", "sleep", "60")
    both = [
        subprocess.Popen(docker.engine.command("start", name), stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(30) for process in both] == [0, 0]
    assert docker.state(name) == "running"


def test_the_exit_code_of_a_signal_to_the_client(docker: Docker) -> None:
    name = docker.name()
    with following(
        docker, "run", "--name", name, "busybox", "sh", "-c", TRAP.format("INT")
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 3


def test_events_go_on_behind_a_number(docker: Docker) -> None:
    """docker's command shows no numbers, the API and our command do."""
    name = docker.name()
    docker("create", "--name", name, "busybox")
    docker("rename", name, f"{name}x")
    docker("rm", f"{name}x")
    until = str(int(time.time()) + 1)
    command = [sys.executable, "-m", "pyengine", "-H", f"unix://{docker.engine.socket}", "events"]
    flags = ["--since", "0", "--until", until, "--format", "json"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    numbers = [message["sequence"] for message in seen if message["Action"] != "gap"]
    assert numbers == sorted(set(numbers))
    created = next(m for m in seen if m["Action"] == "create" and
                   m["Actor"]["Attributes"].get("name") == name)  # fmt: skip
    after = ["--after", str(created["sequence"]), "--until", until, "--format", "json"]
    done = subprocess.run([*command, *after], capture_output=True, text=True, check=True)
    rest = [json.loads(line) for line in done.stdout.splitlines()]
    assert [m["Action"] for m in rest if m["Actor"]["ID"] == created["Actor"]["ID"]] == [
        "rename",
        "destroy",
    ]


LISTENS = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"


def test_a_signal_wakes_what_is_paused(docker: Docker) -> None:
    """It could not hear it otherwise, and would be killed when its time to end is over."""
    name = docker.name()
    docker("run", "-d", "--name", name, "busybox", "sh", "-c", LISTENS)
    while "ready" not in docker.out("logs", name):
        time.sleep(0.05)
    docker("pause", name)
    docker("kill", "-s", "WINCH", name)
    assert docker.out("inspect", "-f", "{{.State.Status}}", name) == "running"
    docker("pause", name)
    began = time.time()
    docker("stop", "-t", "20", name)
    assert docker.out("inspect", "-f", "{{.State.ExitCode}}", name) == "7"
    assert time.time() - began < 10
    shown = docker.out(
        "events", "--since", f"{began:.9f}", "--until", f"{time.time():.9f}",
        "--filter", f"container={name}", "--format", "{{.Action}}",
    )  # fmt: skip
    assert shown.split()[:2] == ["kill", "unpause"]


def test_an_error_of_a_restart_says_so(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--name", name, "busybox", "nonsense")
    done = docker("restart", name, check=False)
    assert f"Cannot restart container {name}: " in done.stderr
    assert "nonsense" in done.stderr
    done = docker("restart", "missing-container", check=False)
    assert "No such container: missing-container" in done.stderr
    assert "Cannot restart" not in done.stderr


def test_a_restart_does_not_remove(docker: Docker) -> None:
    name = docker.up("--rm", "busybox", "sleep", "1000")
    docker("restart", "-t", "0", name)
    assert docker.state(name) == "running"
    docker("kill", name)
    eventually(lambda: docker("inspect", name, check=False).returncode == 1)


def test_execs_end_with_the_run_they_were_made_for(docker: Docker) -> None:
    name = docker.up("busybox", "sleep", "1000")
    made = docker.engine.api("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})[1]["Id"]
    docker("restart", "-t", "0", name)
    status, body = docker.engine.api("POST", f"/exec/{made}/start", {"Detach": True})
    assert (status, body["message"]) == (404, f"No such exec instance: {made}")
    docker("pause", name)
    says = f"Container {name} is paused, unpause the container before exec"
    docker.fails("exec", name, "true", code=1, says=says)


def test_attaching_and_resizing_are_events(docker: Docker) -> None:
    name = docker.up("-t", "busybox", "sleep", "2")
    assert docker.engine.api("POST", f"/containers/{name}/resize?h=40&w=120")[0] == 200
    docker("attach", "--no-stdin", name)
    told = docker.out("events", "--since", "1m", "--until", "0s", "-f", f"container={name}",
                      "--format", "{{json .Action}}{{json .Actor.Attributes}}")  # fmt: skip
    assert '"attach"' in told
    assert any('"resize"' in s and '"height":"40"' in s and '"width":"120"' in s
               for s in told.splitlines())  # fmt: skip


def test_volumes_that_go_with_a_container_are_gone(docker: Docker) -> None:
    name = docker.up("-v", "/data", "busybox", "sleep", "1000")
    place = Path(docker.state(name, "{{(index .Mounts 0).Source}}"))
    assert place.is_dir()
    docker("rm", "-f", "-v", name)
    assert not place.exists()


def test_ancestors_of_a_container_are_also_what_its_image_was_built_upon(docker: Docker) -> None:
    name, committed = docker.up("busybox", "sleep", "1000"), f"made-{docker.name()}:1"
    docker("commit", name, committed)
    later = docker.up(committed, "sleep", "1000")
    try:
        shown = docker.out("ps", "--filter", "ancestor=busybox", "--format", "{{.Names}}").split()
        assert {name, later} <= set(shown)
        shown = docker.out("ps", "--filter", f"ancestor={committed}", "--format", "{{.Names}}")
        assert shown == later
    finally:
        docker("rm", "-f", later)
        docker("rmi", committed)
