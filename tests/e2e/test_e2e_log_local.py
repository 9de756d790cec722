"""``--log-driver local`` by the docker CLI."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from harness import EngineProcess

from tests.e2e.conftest import Docker, eventually

LOCAL = ("--network", "none", "--log-driver", "local")


def files(docker: Docker, name: str) -> list[Path]:
    """The files of the log, the current one first."""
    hosts = docker.state(name, "{{.HostsPath}}")
    return sorted(Path(hosts).parent.glob("container.log*"))


def test_logs_of_both_streams_with_every_flag(docker: Docker) -> None:
    name = docker.name()
    script = "for i in 1 2 3 4; do echo o$i; sleep 0.05; echo e$i >&2; sleep 0.05; done; printf end"
    docker("run", "--name", name, *LOCAL, "-l", "team=a b", "-e", "X=ä", "--log-opt",
           "labels=team", "--log-opt", "env=X", "--log-opt", "tag={{.Name}}", "busybox", "sh",
           "-c", script)  # fmt: skip
    done = docker("logs", name)
    assert (done.stdout, done.stderr) == ("o1\no2\no3\no4\nend", "e1\ne2\ne3\ne4\n")
    assert docker.out("logs", "-f", name) == "o1\no2\no3\no4\nend"
    assert docker.out("logs", "--tail", "4", name) == "o4\nend", "with e3 and e4"
    assert docker.out("logs", "--tail", "0", name) == ""
    stamps = [line.split() for line in docker.out("logs", "-t", name).splitlines()]
    assert [word for _, word in stamps] == ["o1", "o2", "o3", "o4", "end"]
    times = [stamp for stamp, _ in stamps]
    assert times == sorted(times)
    assert docker.out("logs", "--since", times[2], name).split() == ["o3", "o4", "end"]
    assert docker.out("logs", "--until", times[1], name).split() == ["o1", "o2"]
    details = f"X=%C3%A4,tag={name},team=a+b"
    assert docker.out("logs", "--details", "--tail", "1", name) == f"{details} end"


def test_what_is_no_text_comes_back_as_it_was(docker: Docker) -> None:
    name = docker.up(*LOCAL, "busybox", "printf", r"\377\376\000x\n")
    docker("wait", name)
    command = docker.engine.command("logs", name)
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"\xff\xfe\0x\n"


def test_following_what_rotates_and_is_compressed(docker: Docker) -> None:
    """A reader that follows loses nothing; what rotated is small."""
    script = "for i in 1 2 3 4; do seq $i 4 40000; sleep 0.2; done"
    name = docker.up(*LOCAL, "--log-opt", "max-size=50k", "--log-opt", "max-file=30", "busybox",
                     "sh", "-c", script)  # fmt: skip
    expected = [str(number) for i in (1, 2, 3, 4) for number in range(i, 40001, 4)]
    assert docker.out("logs", "-f", name).split() == expected
    assert docker.out("logs", name).split() == expected
    assert docker.out("logs", "--tail", "15000", name).split() == expected[-15000:]
    found = files(docker, name)
    assert len(found) in range(4, 7)
    assert sum(path.suffix == ".gz" for path in found) >= len(found) - 2
    assert all(path.stat().st_size < 40_000 for path in found if path.suffix == ".gz")


def test_only_so_many_files(docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, *LOCAL, "--log-opt", "max-size=10k", "--log-opt", "max-file=3",
           "busybox", "seq", "20000")  # fmt: skip
    lines = docker.out("logs", name).split()
    assert lines == [str(number) for number in range(int(lines[0]), 20001)], "no gap"
    assert 1000 < len(lines) < 10000
    found = files(docker, name)
    assert len(found) == 3
    docker("rm", name)
    assert eventually(lambda: not any(path.exists() for path in found))


def test_a_restarted_container_goes_on_in_its_log(docker: Docker) -> None:
    name = docker.name()
    docker("run", "--name", name, *LOCAL, "busybox", "sh", "-c", "echo begin; printf rest")
    docker("start", "-a", name)
    assert docker.out("logs", name) == "begin\nrestbegin\nrest"
    # As if the power had failed while a record was written.
    (log,) = files(docker, name)
    log.write_bytes(log.read_bytes()[:-9])
    assert docker.out("logs", name) == "begin\nrestbegin"
    docker("start", "-a", name)
    assert docker.out("logs", name) == "begin\nrestbegin\nbegin\nrest"


def test_its_file_is_nobodys_affair(docker: Docker) -> None:
    """Only a log in a format of Docker's has a path in inspect."""
    paths = {}
    for driver in ("local", "none", "json-file"):
        name = docker.name()
        docker(
            "run", "--name", name, "--network", "none", "--log-driver", driver, "busybox", "true"
        )
        paths[driver] = docker.state(name, "{{.LogPath}}")
        assert docker.state(name, "{{.HostConfig.LogConfig.Type}}") == driver
        id = docker.state(name, "{{.Id}}")
    assert paths["local"] == paths["none"] == ""
    assert Path(paths["json-file"]).name == f"{id}-json.log"
    assert Path(paths["json-file"]).exists()


def test_bad_options(docker: Docker) -> None:
    for option, says in (
        ("nonesuch=1", "unknown log opt 'nonesuch' for log driver local"),
        ("max-size=big", "invalid value for max-size: big: invalid size: 'big'"),
        ("max-file=1", "compression cannot be enabled when max file count is 1"),
        ("compress=maybe", "invalid boolean value for compress"),
    ):
        docker.fails("run", "--rm", *LOCAL, "--log-opt", option, "busybox", code=125, says=says)


def test_the_engines_choice(engine_with: Any) -> None:
    """Also across a daemon that is killed: the container writes on, the next daemon reads."""
    engine: EngineProcess = engine_with(log_driver="local", log_opts={"max-size": "1m"})
    assert engine.out("info", "-f", "{{.LoggingDriver}}") == "local"
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"
    engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c", script)
    assert engine.inspect("box")["HostConfig"]["LogConfig"]["Type"] == "local"
    assert eventually(lambda: "5" in engine.lines("logs", "box"))
    engine.kill()
    engine.start()
    before = len(engine.lines("logs", "box"))
    assert eventually(lambda: len(engine.lines("logs", "box")) > before + 10)
    engine.docker("rm", "-f", "box")
