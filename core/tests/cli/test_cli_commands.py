"""Commands against a fake engine: what they ask, what they print, how they end."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

CONTAINER = {
    "Id": "c" * 64,
    "Names": ["/web"],
    "Image": "busybox",
    "ImageID": "sha256:" + "i" * 64,
    "Command": "sleep 100",
    "Created": 0,
    "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
    "State": "running",
    "Status": "Up 3 seconds",
    "Labels": {},
}


@pytest.fixture
def two_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 7200.0)


@pytest.mark.usefixtures("two_hours")
def test_ps(engine: Any, pyengine: Run) -> None:
    engine.on("GET /containers/json", [CONTAINER])
    assert pyengine("ps").out == (
        "CONTAINER ID   IMAGE     COMMAND       CREATED       STATUS         PORTS"
        "                  NAMES\n"
        'cccccccccccc   busybox   "sleep 100"   2 hours ago   Up 3 seconds   '
        "0.0.0.0:8080->80/tcp   web\n"
    )
    assert pyengine("ps", "-q").out == "c" * 12 + "\n"
    assert pyengine("container", "list", "--format", "{{.Names}}\\t{{.Ports}}").out == (
        "web\t0.0.0.0:8080->80/tcp\n"
    )


def test_ps_asks_for_what_was_asked(engine: Any, pyengine: Run) -> None:
    engine.on("GET /containers/json", [])
    pyengine("ps", "-a", "-s", "-n", "3", "-f", "name=web", "-f", "name=db")
    query = engine.requests("GET /containers/json")[0].query
    assert query.startswith("all=1&limit=3&size=1&filters=%7B%22name%22")
    pyengine("ps", "--format", "{{.Size}}")
    assert "size=1" in engine.requests("GET /containers/json")[1].query


def test_the_version_is_negotiated(
    engine: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.on("GET /containers/json", [])
    for theirs, ours in (("1.24", "v1.24"), ("1.45", "v1.45"), ("1.99", "v1.51")):
        engine.version = theirs
        pyengine("ps")
        assert engine.seen[-1].target.split("/")[1] == ours
    monkeypatch.setenv("DOCKER_API_VERSION", "1.44")
    pyengine("ps")
    assert engine.seen[-1].target.split("/")[1] == "v1.44"


def test_config_file(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    settings = {"psFormat": "{{.Image}}", "HttpHeaders": {"X-Test": "yes", "User-Agent": "old"}}
    (tmp_path / "config" / "config.json").write_text(json.dumps(settings))
    engine.on("GET /containers/json", [CONTAINER])
    assert pyengine("ps").out == "busybox\n"
    assert engine.seen[-1].headers["x-test"] == "yes"
    assert engine.seen[-1].headers["user-agent"] == "pyengine"


@pytest.mark.parametrize(
    ("words", "first", "code"),
    [
        (
            ["ps"],
            "Cannot connect to the pyengine daemon at unix:///none. Is the engine running?",
            1,
        ),
        (
            ["run", "x"],
            "pyengine: Cannot connect to the pyengine daemon at unix:///none. ",
            125,
        ),
        (
            ["-H", "tcp://127.0.0.1:1", "ps"],
            "Cannot connect to the pyengine daemon at tcp://127.0.0.1:1.",
            1,
        ),
        (
            ["-H", "npipe://x", "ps"],
            "Failed to initialize: unsupported protocol scheme in host `npipe://x`: npipe",
            1,
        ),
        (["-H", "a", "-H", "b", "ps"], "specify only one -H", 1),
    ],
)
def test_no_engine(
    pyengine: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], first: str, code: int
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///none")
    outcome = pyengine(*words)
    assert outcome.code == code
    assert outcome.err.startswith(first)


def test_errors_of_several_names(engine: Any, pyengine: Run) -> None:
    engine.on("POST /containers/a/stop", None, 204)
    engine.on("POST /containers/c/stop", None, 304)
    engine.on("POST /containers/b/stop", {"message": "No such container: b"}, 404)
    outcome = pyengine("stop", "-t", "0", "a", "b", "c")
    assert outcome.out == "a\nc\n"
    assert outcome.err == "Error response from daemon: No such container: b\n"
    assert outcome.code == 1
    assert engine.requests("POST /containers/a/stop")[0].query == "t=0"


def test_rm_force_tolerates_missing(engine: Any, pyengine: Run) -> None:
    engine.on("DELETE /containers/x", {"message": "No such container: x"}, 404)
    assert pyengine("rm", "x").code == 1
    outcome = pyengine("rm", "-fv", "x")
    assert (outcome.code, outcome.out) == (0, "")
    assert "No such container: x" in outcome.err
    assert engine.seen[-1].query == "force=1&v=1"


def _creatable(engine: Any) -> None:
    engine.on("POST /containers/create", {"Id": "c1", "Warnings": []}, 201)
    engine.on("POST /containers/c1/start", None, 204)


def test_run_detached(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    _creatable(engine)
    cidfile = tmp_path / "cid"
    outcome = pyengine("run", "-d", "--name", "web", "--cidfile", str(cidfile), "img")
    assert (outcome.code, outcome.out) == (0, "c1\n")
    assert cidfile.read_text() == "c1"
    made = engine.requests("POST /containers/create")[0]
    assert made.query == "name=web"
    assert made.json()["AttachStdout"] is False
    again = pyengine("run", "-d", "--cidfile", str(cidfile), "img")
    assert again.code == 125
    assert "container ID file found" in again.err


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ("exec /etc: permission denied", 126),
        ("exec /etc: is a directory", 126),
        ("Conflict. The container name is in use", 125),
    ],
)
def test_run_that_cannot_start(engine: Any, pyengine: Run, message: str, code: int) -> None:
    _creatable(engine)
    engine.on("POST /containers/c1/start", {"message": message}, 400)
    outcome = pyengine("run", "-d", "img")
    assert outcome.code == code
    assert outcome.err == (
        f"pyengine: Error response from daemon: {message}\n\n"
        "Run 'pyengine run --help' for more information\n"
    )


def test_a_failed_create_leaves_no_cidfile(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    engine.on("POST /containers/create", {"message": "no space left on device"}, 500)
    cidfile = tmp_path / "cid"
    assert pyengine("run", "--cidfile", str(cidfile), "img").code == 125
    assert not cidfile.exists()


def test_a_missing_image_is_pulled(engine: Any, pyengine: Run) -> None:
    pulled: list[str] = []

    def create(request: Any) -> None:
        if pulled:
            request.send({"Id": "c1"}, 201)
        else:
            request.fail(404, "No such image: busybox:latest")

    def pull(request: Any) -> None:
        pulled.append(request.query)
        request.chunks(
            b'{"status":"Pulling from library/busybox","id":"latest"}\n{"status":"Done"}\n'
        )

    engine.routes["POST /containers/create"] = create
    engine.routes["POST /images/create"] = pull
    outcome = pyengine("create", "busybox")
    assert outcome.out == "c1\n"
    assert outcome.err == (
        "Unable to find image 'busybox:latest' locally\n"
        "latest: Pulling from library/busybox\nDone\n"
    )
    assert pulled == ["fromImage=busybox&tag=latest"]
    pulled.clear()
    assert pyengine("create", "--pull", "never", "busybox").code == 1
    assert pulled == []


def test_a_pull_that_fails(engine: Any, pyengine: Run) -> None:
    engine.routes["POST /images/create"] = lambda request: request.chunks(
        b'{"status":"Pulling"}\n', b'{"errorDetail":{"message":"manifest unknown"},"error":"x"}\n'
    )
    outcome = pyengine("pull", "busybox")
    assert outcome.code == 1
    assert outcome.out == "Using default tag: latest\nPulling\n"
    assert outcome.err == "manifest unknown\n"


def test_trace(engine: Any, pyengine: Run) -> None:
    _creatable(engine)
    steps = [
        {"name": "mount", "start_us": 2000, "duration_us": 1000, "process": "shim"},
        {"name": "clone", "start_us": 1000, "duration_us": 500, "process": "zygote"},
    ]
    engine.on("GET /pyengine/containers/c1/trace", {"steps": steps})
    outcome = pyengine("run", "-d", "--trace", "img")
    assert outcome.out == "c1\n"
    lines = outcome.err.splitlines()
    assert lines[0].split() == ["START", "DURATION", "PROCESS", "STEP", "TIMELINE"]
    assert lines[1].split()[:6] == ["0.000", "ms", "0.500", "ms", "zygote", "clone"]
    assert lines[2].split()[:6] == ["1.000", "ms", "1.000", "ms", "shim", "mount"]
    assert "2.000 ms" in lines[3]
    assert lines[3].split()[-1] == "total"
    outcome = pyengine("run", "-d", "--trace=json", "img")
    assert json.loads(outcome.err) == {"steps": steps}


def test_logs(engine: Any, pyengine: Run) -> None:
    engine.on("GET /containers/web/json", {"Id": "c1", "Config": {"Tty": False}})

    def send(request: Any) -> None:
        out = struct.pack(">BxxxI", 1, 4) + b"out\n"
        err = struct.pack(">BxxxI", 2, 4) + b"err\n"
        request.chunks(out + err[:6], err[6:])

    engine.routes["GET /containers/c1/logs"] = send
    outcome = pyengine("logs", "-t", "--tail", "5", "--since", "1700000000", "web")
    assert (outcome.out, outcome.err) == ("out\n", "err\n")
    assert engine.seen[-1].query == "stdout=1&stderr=1&timestamps=1&tail=5&since=1700000000"
    assert pyengine("logs", "--since", "foo", "web").err == (
        'invalid value for "since": failed to parse value as time or duration: "foo"\n'
    )


def test_inspect_finds_the_kind(engine: Any, pyengine: Run) -> None:
    engine.on("GET /volumes/data", {"Name": "data", "Labels": None})
    outcome = pyengine("inspect", "data")
    assert outcome.out == '[\n    {\n        "Name": "data",\n        "Labels": null\n    }\n]\n'
    assert pyengine("inspect", "-f", "{{.Name}}:{{.Labels}}", "data").out == "data:map[]\n"
    assert pyengine("inspect", "-f", "json", "data").out == '[{"Name":"data","Labels":null}]\n'
    outcome = pyengine("inspect", "nope", "data", "-f", "{{.Name}}")
    assert (outcome.code, outcome.out) == (1, "data\n")
    assert outcome.err == "Error: No such object: nope\n"
    assert pyengine("inspect", "nope").out == "[]\n"
    assert pyengine("inspect", "-f", "{{", "data").code == 64


def test_version(engine: Any, pyengine: Run) -> None:
    details = {"ApiVersion": "1.45", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}
    details |= {"GitCommit": "abc", "GoVersion": "go1", "BuildTime": "2025-05-30T12:07:14Z"}
    component = {"Name": "Engine", "Version": "26", "Details": details}
    engine.on("GET /version", {"Version": "26", "Components": [component]})
    lines = pyengine("version").out.splitlines()
    assert lines[0] == "Client:"
    assert lines[2] == " API version:       1.45 (downgraded from 1.51)"
    assert "  Version:          26" in lines
    assert "  Built:            Fri May 30 12:07:14 2025" in lines
    assert (
        pyengine("version", "-f", "{{.Server.Version}} {{.Client.ApiVersion}}").out == "26 1.45\n"
    )


def test_version_without_an_engine(pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///none")
    outcome = pyengine("version")
    assert outcome.code == 1
    assert outcome.out.startswith("Client:\n Version:")
    assert outcome.err.startswith("Cannot connect to the pyengine daemon")


def test_info(engine: Any, pyengine: Run) -> None:
    engine.on(
        "GET /info",
        {
            "Containers": 3,
            "ServerVersion": "1.0",
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"]],
            "OSType": "linux",
            "SecurityOptions": ["name=seccomp,profile=builtin"],
            "MemTotal": 1 << 30,
            "Warnings": ["WARNING: No swap limit support"],
        },
    )
    outcome = pyengine("info")
    for line in (
        " Containers: 3",
        " Storage Driver: overlay2",
        "  Backing Filesystem: extfs",
        " Security Options:\n  seccomp\n   Profile: builtin",
        " Total Memory: 1GiB",
    ):
        assert f"\n{line}\n" in outcome.out
    assert outcome.err == "WARNING: No swap limit support\n"
    assert pyengine("info", "-f", "{{.Driver}} {{.MemTotal}}").out == "overlay2 1073741824\n"
    assert pyengine("info", "-f", "{{.Nope}}").code == 1


def test_events(engine: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    event = {
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": "c1", "Attributes": {"name": "web", "exitCode": "3"}},
        "scope": "local",
        "time": 1,
        "timeNano": 1_000_000_005,
    }
    line = json.dumps(event, separators=(",", ":")).encode()
    engine.routes["GET /events"] = lambda request: request.chunks(line + b"\n")
    assert pyengine("events", "--until", "0s").out == (
        "1970-01-01T00:00:01.000000005Z container die c1 (exitCode=3, name=web)\n"
    )
    assert pyengine("events", "--format", "json").out == line.decode() + "\n"
    assert pyengine(
        "events", "--format", "{{.Action}} {{.Actor.Attributes.name}} {{.TimeNano}}"
    ).out == ("die web 1000000005\n")
    outcome = pyengine("events", "--format", "{{.Foo}}")
    assert outcome.code == 64
    assert outcome.err.startswith("Error parsing format: template: :1:2: executing")


def test_port_top_and_diff(engine: Any, pyengine: Run) -> None:
    bindings = [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    ports = {"80/tcp": bindings, "9/udp": None}
    engine.on("GET /containers/web/json", {"NetworkSettings": {"Ports": ports}})
    assert pyengine("port", "web").out == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    assert pyengine("port", "web", "80").out == "0.0.0.0:8080\n[::]:8080\n"
    assert pyengine("port", "web", "9/udp").err == (
        "Error: No public port '9/udp' published for web\n"
    )
    engine.on("GET /containers/web/top", {"Titles": ["PID", "CMD"], "Processes": [["1", "sh"]]})
    assert pyengine("top", "web", "-o", "pid").out == f"{'PID':20}CMD\n{'1':20}sh\n"
    assert engine.seen[-1].query == "ps_args=-o%20pid"
    changes = [{"Kind": 0, "Path": "/a"}, {"Kind": 1, "Path": "/b"}, {"Kind": 2, "Path": "/c"}]
    engine.on("GET /containers/web/changes", changes)
    assert pyengine("diff", "web").out == "C /a\nA /b\nD /c\n"


def test_import_and_load_send_the_archive(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(os.urandom(3_000_000))
    engine.routes["POST /images/create"] = lambda request: request.chunks(
        b'{"status":"sha256:1"}\n'
    )
    assert pyengine("import", "-c", "CMD sh", str(archive), "new:v1").out == "sha256:1\n"
    sent = engine.requests("POST /images/create")[0]
    assert sent.body == archive.read_bytes()
    assert sent.query == "fromSrc=-&repo=new%3Av1&changes=CMD%20sh"
    engine.routes["POST /images/load"] = lambda request: request.chunks(
        b'{"stream":"Loaded image: new:v1\\n"}\n'
    )
    assert pyengine("load", "-i", str(archive)).out == "Loaded image: new:v1\n"
    assert engine.requests("POST /images/load")[0].body == archive.read_bytes()
    assert pyengine("load", "-i", "/nope").err == "open /nope: no such file or directory\n"


def test_export_writes_a_whole_file_or_none(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    engine.routes["GET /containers/web/export"] = lambda request: request.chunks(b"tar")
    out = tmp_path / "out.tar"
    assert pyengine("export", "-o", str(out), "web").code == 0
    assert out.read_bytes() == b"tar"
    assert pyengine("export", "web").out == "tar"
    assert pyengine("export", "-o", str(tmp_path / "no" / "x"), "web").code == 1
    assert pyengine("export", "-o", str(tmp_path / "y"), "gone").code == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith("y")]


def _tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_cp_out_of_a_container(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    engine.routes["GET /containers/web/archive"] = lambda request: request.chunks(_tar(a=b"hello"))
    assert pyengine("cp", "web:/etc/a", str(tmp_path)).code == 0
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert pyengine("cp", "web:/etc/a", str(tmp_path / "renamed")).code == 0
    assert (tmp_path / "renamed").read_bytes() == b"hello"
    with tarfile.open(
        fileobj=io.BytesIO(pyengine("cp", "web:/etc/a", "-").out.encode())
    ) as archive:
        assert archive.getnames() == ["a"]


def test_cp_never_writes_outside_its_target(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    target = tmp_path / "in" / "side"
    target.mkdir(parents=True)
    evil = _tar(**{"../../escaped": b"x"})
    engine.routes["GET /containers/web/archive"] = lambda request: request.chunks(evil)
    outcome = pyengine("cp", "web:/x", str(target))
    assert outcome.code == 1
    assert not (tmp_path / "escaped").exists()


def test_cp_into_a_container(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"data")
    engine.on("PUT /containers/web/archive")
    assert pyengine("cp", str(source), "web:/etc/new").code == 0
    sent = engine.requests("PUT /containers/web/archive")[0]
    assert "path=%2Fetc" in sent.query
    with tarfile.open(fileobj=io.BytesIO(sent.body)) as archive:
        assert archive.getnames() == ["new"]
        assert archive.getmember("new").uid == os.getuid()


def test_networks_and_volumes(engine: Any, pyengine: Run) -> None:
    network = {"Id": "n" * 64, "Name": "net10", "Driver": "bridge", "Scope": "local"}
    engine.on("GET /networks", [network, {**network, "Name": "abc"}])
    assert (
        pyengine("network", "ls").out.splitlines()[1] == "nnnnnnnnnnnn   abc       bridge    local"
    )
    engine.on("POST /networks/create", {"Id": "n1", "Warning": "look out"}, 201)
    outcome = pyengine(
        *("network", "create", "--subnet", "10.1.0.0/16", "--subnet", "fd00::/64", "--ipv6"),
        *("--gateway", "10.1.0.1", "--ip-range", "fd00::/80", "-o", "a=b", "net"),
    )
    assert (outcome.out, outcome.err) == ("n1\n", "WARNING: look out\n")
    made = engine.seen[-1].json()
    assert made["IPAM"]["Config"] == [
        {"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1"},
        {"Subnet": "fd00::/64", "IPRange": "fd00::/80"},
    ]
    assert made["EnableIPv6"] is True
    assert made["Options"] == {"a": "b"}
    outcome = pyengine("network", "create", "--subnet", "10.1.0.0/16", "--gateway", "10.2.0.1", "x")
    assert outcome.err == "no matching subnet for gateway 10.2.0.1\n"
    volumes = [
        {"Name": name, "Driver": "local", "Scope": "local", "Mountpoint": "/"}
        for name in ("v10", "v9")
    ]
    engine.on("GET /volumes", {"Volumes": volumes})
    assert pyengine("volume", "ls", "-q").out == "v9\nv10\n"


def test_prune_asks_first(engine: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.on("POST /containers/prune", {"ContainersDeleted": ["c1"], "SpaceReclaimed": 2048})
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert pyengine("container", "prune").code == 0
    assert engine.requests("POST /containers/prune") == []
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    outcome = pyengine("container", "prune")
    assert outcome.out.endswith("Deleted Containers:\nc1\n\nTotal reclaimed space: 2.048kB\n")


def test_update_and_rename(engine: Any, pyengine: Run) -> None:
    engine.on("POST /containers/web/update", {"Warnings": None})
    assert pyengine("update", "-m", "64m", "--restart", "always", "web").out == "web\n"
    body = engine.seen[-1].json()
    assert body["Memory"] == 64 << 20
    assert body["RestartPolicy"]["Name"] == "always"
    assert "NanoCpus" not in body
    engine.on("POST /containers/web/rename", {"message": "name in use"}, 409)
    assert pyengine("rename", "web", "db").err == (
        "Error response from daemon: name in use\nError: failed to rename container named web\n"
    )


def test_stats(engine: Any, pyengine: Run) -> None:
    sample = {
        "name": "/web",
        "id": "c" * 64,
        "cpu_stats": {
            "cpu_usage": {"total_usage": 300},
            "system_cpu_usage": 2000,
            "online_cpus": 2,
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 3 << 20, "limit": 10 << 20, "stats": {"inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 0}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 5000}]},
        "pids_stats": {"current": 4},
    }
    engine.on("GET /containers/web/stats", sample)
    row = pyengine("stats", "--no-stream", "web").out.splitlines()[1]
    assert " ".join(row.split()) == (
        "cccccccccccc web 20.00% 2MiB / 10MiB 20.00% 1kB / 0B 5kB / 0B 4"
    )


def test_start_time_and_imports(engine: Any) -> None:
    engine.on("GET /version", {"Version": "1", "Components": []})
    program = (
        "import sys; from pyengine.cli import main; main(['version']); "
        "heavy = {'click', 'msgspec', 'asyncio', 'aiohttp', 'pluggy', 'stevedore', 'http.client', "
        "'importlib.metadata', 'typing', 'dataclasses', 'inspect', 'ssl', 'subprocess'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    argv = [sys.executable, "-c", program]
    taken = []
    for _ in range(5):
        # Processor time, because a busy machine stretches the other.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stderr == "[]\n"
    assert min(taken) < 0.12
