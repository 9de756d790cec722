"""docker cp both ways, by the stock client and over the API, in every state of a container."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zstandard
from harness import EngineProcess, mounts_below

from tests.e2e.conftest import Docker, eventually

HEADER = "X-Docker-Container-Path-Stat"
#: What is copied from, in one container: a bit of everything.
FILL = """
mkdir -p /d/sub; echo x >/d/f; echo y >/d/sub/g; chown 3:4 /d/f; chmod 4755 /d/f; chmod 1777 /d
ln -s d /ld; ln -s /d/f /lf; ln -s nowhere /broken; ln -s loop /loop; ln -s /d/f/x /through
mkfifo /d/fifo; mknod /d/null c 1 3; ln /d/sub/g /d/sub/h; echo v >/vol/v
"""
Answer = tuple[int, dict[str, str], bytes]


def archive(
    engine: EngineProcess, method: str, name: str, path: str, body: Any = None, **query: str
) -> Answer:
    """(status, headers, body) of a request to ``/containers/<name>/archive``."""
    connection = engine.connect()
    words = "".join(f"&{key}={value}" for key, value in query.items())
    try:
        connection.request(method, f"/containers/{name}/archive?path={quote(path)}{words}", body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def stat_of(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(answer[1][HEADER]))
    return found


def says(answer: Answer) -> str:
    message: str = json.loads(answer[2])["message"]
    return message


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return {member.name: member for member in found}


def tar_of(*entries: tuple[str, bytes | None], **attributes: Any) -> bytes:
    """Files, and directories where the content is None."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size, entry.mode = len(content or b""), 0o755 if content is None else 0o644
            for key, value in attributes.items():
                setattr(entry, key, value)
            made.addfile(entry, io.BytesIO(content or b""))
    return out.getvalue()


def trees(docker: Docker) -> Sequence[str]:
    """The containers' roots that are mounted on the host."""
    return [mount for mount in mounts_below(docker.engine.data) if mount.endswith("/merged")]


@pytest.fixture(params=["running", "paused", "stopped"])
def filled(request: pytest.FixtureRequest, docker: Docker) -> str:
    """A container with the contents of FILL and a volume at /vol, in that state."""
    name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", FILL)
    if request.param == "paused":
        docker("pause", name)
    elif request.param == "stopped":
        docker("stop", "-t", "0", name)
    return name


DIRECTORY = 1 << 31
LINK = 1 << 27


def test_stat(docker: Docker, filled: str) -> None:
    def stat(path: str) -> dict[str, Any]:
        return stat_of(archive(docker.engine, "HEAD", filled, path))

    assert stat("/d")["mode"] == stat("/ld/")["mode"] == stat("ld/.")["mode"]
    assert stat("/d")["mode"] == DIRECTORY | 1 << 20 | 0o777
    file = stat("/d/f")
    assert (file["name"], file["size"], file["mode"]) == ("f", 2, 1 << 23 | 0o755)
    assert file["mtime"].startswith("20")
    assert file["linkTarget"] == ""
    assert stat("/lf")["mode"] == LINK | 0o777
    assert stat("/d/fifo")["mode"] == 1 << 25 | 0o644
    assert stat("/d/null")["mode"] == 1 << 26 | 1 << 21 | 0o644
    names = {path: stat(path)["name"] for path in ("/", "/.", "/d/", "/d/.", "d/../d/sub")}
    assert names == {"/": "/", "/.": ".", "/d/": "d", "/d/.": ".", "d/../d/sub": "sub"}
    targets = {path: stat(path)["linkTarget"] for path in ("/ld", "/lf", "/broken")}
    assert targets == {"/ld": "/d", "/lf": "/d/f", "/broken": "/nowhere"}
    assert stat("/vol/v")["size"] == 2


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nope", 404, "Could not find the file /nope in container {name}"),
        ("/broken/", 404, "Could not find the file /broken/ in container {name}"),
        ("/d/f/", 500, "lstat /d/f/: not a directory"),
        ("/lf/", 500, "lstat /lf/: not a directory"),
        ("/d/f/x", 500, "lstat /d/f/x: not a directory"),
        ("/through", 500, "lstat /d/f/x: not a directory"),
        ("/loop", 500, "evalSymlinksInScope: too many links in /loop"),
        ("/loop/", 500, "lstat /loop/: too many levels of symbolic links"),
        ("", 400, "bad parameter: path cannot be empty"),
        ("/\0", 400, "bad parameter: path cannot have a zero byte in it"),
    ],
)
def test_paths_that_cannot_be_read(docker: Docker, path: str, status: int, message: str) -> None:
    name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", FILL)
    answer = archive(docker.engine, "GET", name, path)
    assert (answer[0], says(answer)) == (status, message.format(name=name))
    assert archive(docker.engine, "HEAD", name, path)[0] == status


def test_unknown_containers(docker: Docker) -> None:
    for method in ("GET", "PUT"):
        answer = archive(docker.engine, method, "nonesuch", "/etc")
        assert (answer[0], says(answer)) == (404, "No such container: nonesuch")


def test_names_in_the_archive(docker: Docker, filled: str) -> None:
    def names(path: str) -> list[str]:
        status, headers, data = archive(docker.engine, "GET", filled, path)
        assert (status, headers["Content-Type"]) == (200, "application/x-tar")
        assert HEADER in headers
        return list(members(data))

    inside = ["f", "fifo", "null", "sub", "sub/g", "sub/h"]
    assert names("/d") == names("d/") == ["d", *(f"d/{name}" for name in inside)]
    assert names("/ld/") == ["ld", *(f"ld/{name}" for name in inside)]
    assert names("/d/.") == names("/ld/.") == [".", *(f"./{name}" for name in inside)]
    assert names("/ld") == ["ld"]
    assert names("/lf") == ["lf"]
    assert names("/d/../d/f") == ["f"]
    assert {"", "/d", "/d/sub/g", "/vol/v", "/etc/hosts"} <= set(names("/"))
    assert "/proc/self" not in names("/")


def test_what_the_archive_has(docker: Docker, filled: str) -> None:
    found = members(archive(docker.engine, "GET", filled, "/d")[2])
    assert (found["d/f"].mode, found["d/f"].uid, found["d/f"].gid) == (0o4755, 3, 4)
    assert found["d/fifo"].isfifo()
    assert (found["d/null"].ischr(), found["d/null"].devmajor) == (True, 1)
    assert (found["d/sub/h"].islnk(), found["d/sub/h"].linkname) == (True, "d/sub/g")
    link = members(archive(docker.engine, "GET", filled, "/lf")[2])["lf"]
    assert (link.issym(), link.linkname) == (True, "/d/f")
    assert (found["d/fifo"].uname, found["d/f"].uname) == ("", "")


def test_compressed_on_demand(docker: Docker, filled: str) -> None:
    connection = docker.engine.connect()
    headers = {"Accept-Encoding": "deflate, gzip;q=1.0"}
    connection.request("GET", f"/containers/{filled}/archive?path=/d", headers=headers)
    answer = connection.getresponse()
    assert answer.getheader("Content-Encoding") == "gzip"
    plain = archive(docker.engine, "GET", filled, "/d")[2]
    assert gzip.decompress(answer.read()) == plain
    connection.close()


# -- into a container ------------------------------------------------------------------------------

COMPRESSIONS: Sequence[Callable[[bytes], bytes]] = (
    bytes,
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstandard.compress,
)


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_upload(docker: Docker, filled: str, compress: Callable[[bytes], bytes]) -> None:
    body = tar_of(("new", b"hello"), ("implied/x", b"y"), uid=12, gid=34, mtime=1_700_000_000)
    for path in ("/ld", "/vol"):
        status, _, answer = archive(docker.engine, "PUT", filled, path, compress(body))
        assert (status, answer) == (200, b"")
    data = archive(docker.engine, "GET", filled, "/d/new")[2]
    entry = members(data)["new"]
    assert (entry.uid, entry.gid, entry.mtime, entry.size) == (12, 34, 1_700_000_000, 5)
    assert "implied/x" in members(archive(docker.engine, "GET", filled, "/vol/implied")[2])
    if docker.state(filled) == "exited":
        docker("start", filled)
    elif docker.state(filled) == "paused":
        docker("unpause", filled)
    assert docker.exec(filled, "cat", "/d/new", "/vol/new") == "hellohello"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/d/f", 400, "extraction point is not a directory"),
        ("/lf", 400, "extraction point is not a directory"),
        ("/nope", 404, "Could not find the file /nope in container {name}"),
        ("/broken", 404, "Could not find the file /broken in container {name}"),
        ("/d/f/x", 500, "not a directory"),
        ("/loop", 500, "EvalSymlinks: too many links"),
        ("/ro", 400, "mounted volume is marked read-only"),
        ("/ro/below", 400, "mounted volume is marked read-only"),
        ("/etc", 500, "hosts: device or resource busy"),
    ],
)
def test_places_that_cannot_be_written(
    docker: Docker, tmp_path: Path, path: str, status: int, message: str
) -> None:
    (tmp_path / "below").mkdir()
    name = docker.up("--network", "none", "-v", "/vol", "-v", f"{tmp_path}:/ro:ro", "busybox",
                     "sleep", "1000")  # fmt: skip
    docker.exec(name, "sh", "-c", FILL)
    answer = archive(docker.engine, "PUT", name, path, tar_of(("hosts", b"x")))
    assert (answer[0], says(answer)) == (status, message.format(name=name))
    assert os.listdir(tmp_path) == ["below"]
    assert "localhost" in docker.exec(name, "cat", "/etc/hosts")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_read_only_root(docker: Docker, state: str) -> None:
    name = docker.up("--network", "none", "--read-only", "-v", "/vol", "busybox", "sleep", "99")
    if state == "stopped":
        docker("stop", "-t", "0", name)
    answer = archive(docker.engine, "PUT", name, "/tmp", tar_of(("x", b"")))
    assert (answer[0], says(answer)) == (400, "container rootfs is marked read-only")
    assert archive(docker.engine, "PUT", name, "/vol", tar_of(("x", b"")))[0] == 200
    # Nor through a link that is in the volume.
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as made:
        entry = tarfile.TarInfo("out")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/tmp"
        made.addfile(entry)
    assert archive(docker.engine, "PUT", name, "/vol", out.getvalue())[0] == 200
    assert archive(docker.engine, "PUT", name, "/vol", tar_of(("out/x", b"")))[0] == 500
    assert docker.out("diff", name) == "A /vol"


def test_kinds_are_kept_if_asked(docker: Docker, filled: str) -> None:
    flag = {"noOverwriteDirNonDir": "true"}
    answer = archive(docker.engine, "PUT", filled, "/ld/", tar_of(("sub", b"x")), **flag)
    message = 'cannot overwrite directory "/d/sub" with non-directory "/d"'
    assert (answer[0], says(answer)) == (400, message)
    answer = archive(docker.engine, "PUT", filled, "/d", tar_of(("f", None)), **flag)
    message = 'cannot overwrite non-directory "/d/f" with directory "/d"'
    assert (answer[0], says(answer)) == (400, message)
    for body in (tar_of(("sub", b"x")), tar_of(("f", None))):
        assert archive(docker.engine, "PUT", filled, "/d", body)[0] == 200
    found = members(archive(docker.engine, "GET", filled, "/d")[2])
    assert (found["d/sub"].isfile(), found["d/f"].isdir()) == (True, True)


@pytest.mark.parametrize(
    ("user", "owner"), [("", (7, 8)), ("nobody", (65534, 65534)), ("5:6", (5, 6)), ("5", (5, 0))]
)
def test_the_containers_user_owns_it_if_asked(
    docker: Docker, user: str, owner: tuple[int, int]
) -> None:
    name = docker.name()
    docker("create", "--name", name, "-u", user, "busybox")
    body = tar_of(("x", b""), uid=7, gid=8)
    assert archive(docker.engine, "PUT", name, "/tmp", body, copyUIDGID="true")[0] == 200
    found = members(archive(docker.engine, "GET", name, "/tmp/x")[2])["x"]
    assert (found.uid, found.gid) == owner
    assert archive(docker.engine, "PUT", name, "/tmp", body)[0] == 200
    found = members(archive(docker.engine, "GET", name, "/tmp/x")[2])["x"]
    assert (found.uid, found.gid) == (7, 8)


def test_an_unknown_user(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--name", name, "-u", "ghost", "busybox")
    answer = archive(docker.engine, "PUT", name, "/tmp", tar_of(("x", b"")), copyUIDGID="1")
    assert answer[0] == 400
    assert "unable to find user ghost" in says(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"this is no tar" * 100,
        tar_of(("../../x", b"evil")),
        gzip.compress(tar_of(("x", bytes(10000))))[:-20],
        tar_of(("x", bytes(10000)))[:2000],
    ],
)
def test_bad_archives(docker: Docker, filled: str, body: bytes) -> None:
    assert archive(docker.engine, "PUT", filled, "/d", body)[0] == 400
    assert archive(docker.engine, "GET", filled, "/d/f")[0] == 200


def test_an_upload_that_breaks_off(docker: Docker, filled: str) -> None:
    """What had come stays, and nothing is held."""
    body = tar_of(("first", b"whole"), ("second", bytes(5_000_000)))
    head = f"PUT /containers/{filled}/archive?path=/d HTTP/1.1\r\nHost: d\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(docker.engine.socket))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:4_000_000])
        assert eventually(lambda: archive(docker.engine, "GET", filled, "/d/second")[0] == 200)
    assert archive(docker.engine, "GET", filled, "/d/first")[0] == 200
    docker("rm", "-f", "-v", filled)
    assert eventually(lambda: not trees(docker))


# -- states and mounts -----------------------------------------------------------------------------


def test_a_container_that_never_ran(docker: Docker, tmp_path: Path) -> None:
    """Its volumes and binds are there, filled from the image as at a start."""
    (tmp_path / "bound").write_text("b")
    name = docker.name()
    docker("create", "--network", "none", "--name", name, "-v", "/etc", "-v", f"{tmp_path}:/new/b",
           "busybox", "cat", "/etc/put", "/new/b/put", "/put")  # fmt: skip
    names = members(archive(docker.engine, "GET", name, "/")[2])
    assert {"/etc/passwd", "/new/b/bound", "/bin/busybox"} <= set(names)
    for path in ("/etc", "/new/b", "/"):
        assert archive(docker.engine, "PUT", name, path, tar_of(("put", b"1")))[0] == 200
    assert (tmp_path / "put").read_text() == "1"
    assert docker.out("start", "-a", name) == "111"
    assert "passwd" in members(archive(docker.engine, "GET", name, "/etc/passwd")[2])


def test_tmpfs_of_a_running_container(docker: Docker) -> None:
    name = docker.up("--network", "none", "--tmpfs", "/t", "--mount", "type=tmpfs,dst=/u",
                     "busybox", "sleep", "1000")  # fmt: skip
    docker.exec(name, "sh", "-c", "echo 1 >/t/a; echo 2 >/u/b")
    for path in ("/t/a", "/u/b"):
        assert archive(docker.engine, "GET", name, path)[0] == 200
    assert archive(docker.engine, "PUT", name, "/t", tar_of(("put", b"3")))[0] == 200
    assert docker.exec(name, "cat", "/t/put") == "3"


def test_volumes_in_volumes_and_over_links(docker: Docker, tmp_path: Path) -> None:
    """The deeper one is on top, a subpath is part of a volume, a link of the image is followed."""
    volume = docker.name()
    docker.sh("mkdir -p /v/part/deep; echo part >/v/part/p; echo top >/v/t", "-v", f"{volume}:/v")
    image = docker.name()
    base = docker.up("--network", "none", "busybox", "sh", "-c", "mkdir /real; ln -s /real /link")
    docker("wait", base)
    docker("export", "-o", str(tmp_path / "tar"), base)
    docker("import", str(tmp_path / "tar"), image)
    mount = ["--mount", f"src={volume},dst=/link/part,volume-subpath=part"]
    name = docker.up("--network", "none", "-v", "/real/part/deep", *mount, "-v", f"{volume}:/whole",
                     image, "sleep", "1000")  # fmt: skip
    docker.exec(name, "sh", "-c", "echo d >/real/part/deep/d")
    try:
        for state in ("running", "stopped"):
            found = members(archive(docker.engine, "GET", name, "/real/.")[2])
            expected = {".", "./part", "./part/deep", "./part/deep/d", "./part/p"}
            assert set(found) - {"./part/running"} == expected, state
            assert archive(docker.engine, "GET", name, "/link/part/p")[0] == 200
            body = tar_of((state, b""))
            assert archive(docker.engine, "PUT", name, "/link/part/", body)[0] == 200
            assert archive(docker.engine, "GET", name, f"/whole/part/{state}")[0] == 200
            docker("stop", "-t", "0", name)
    finally:
        docker("rm", "-f", "-v", name)
        docker("volume", "rm", volume)
        docker("rmi", image)


def test_a_copy_outlives_the_run_and_the_run_the_copy(docker: Docker) -> None:
    """A slow reader: the container ends, starts and ends meanwhile, on one and the same mount."""
    engine = docker.engine
    name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=30; echo x >/last")
    connection = engine.connect()
    connection.request("GET", f"/containers/{name}/archive?path=/")
    answer = connection.getresponse()
    begin = answer.read(1_000_000)
    docker("stop", "-t", "0", name)
    docker("start", name)
    docker.exec(name, "sh", "-c", "echo new >/new")
    docker("stop", "-t", "0", name)
    assert len(trees(docker)) == 1, "it is still read"
    found = members(begin + answer.read())
    connection.close()
    assert {"/big", "/last"} <= set(found)
    assert eventually(lambda: not trees(docker))
    docker("start", name)
    assert docker.exec(name, "cat", "/new") == "new"


def test_a_reader_that_goes_away_and_a_container_that_goes(docker: Docker) -> None:
    engine = docker.engine
    for goes in ("reader", "container"):
        name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
        docker.exec(name, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=30")
        connection = engine.connect()
        connection.request("GET", f"/containers/{name}/archive?path=/")
        connection.getresponse().read(1000)
        if goes == "reader":
            connection.close()
        docker("rm", "-f", "-v", name)
        connection.close()
        assert eventually(lambda: not trees(docker)), trees(docker)
    assert "Traceback" not in engine.tail(100)


def test_many_readers_do_not_stop_the_engine(docker: Docker) -> None:
    name = docker.up("--network", "none", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=20")
    readers = [docker.engine.connect() for _ in range(20)]
    for connection in readers:
        connection.request("GET", f"/containers/{name}/archive?path=/big")
        connection.getresponse().read(1000)
    began = time.monotonic()
    assert docker.sh("echo works") == "works"
    assert archive(docker.engine, "HEAD", name, "/big")[0] == 200
    assert time.monotonic() - began < 10
    for connection in readers:
        connection.close()


def test_nothing_of_the_host_is_in_reach(docker: Docker) -> None:
    """A link to where the host has something, and the container has not."""
    name = docker.up("--network", "none", "busybox", "sleep", "1000")
    place = docker.engine.data
    docker.exec(name, "sh", "-c", f"ln -s {place} /absolute; ln -s {'../' * 30}{place} /climbing; "
                                  f"ln -s /proc/1/root{place} /magic")  # fmt: skip
    for path in (str(place), "/absolute/", "/climbing/", "/magic/", "/proc/1/root/", "/dev/sda"):
        assert archive(docker.engine, "GET", name, path)[0] == 404, path
        assert archive(docker.engine, "PUT", name, path, tar_of(("x", b"")))[0] == 404, path
    docker("stop", "-t", "0", name)
    assert archive(docker.engine, "GET", name, "/absolute/")[0] == 404


# -- the stock client ------------------------------------------------------------------------------


def test_the_client_both_ways(docker: Docker, filled: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/g").write_text("g")
    (source / "f").write_text("f")
    (source / "link").symlink_to("f")
    os.chown(source / "f", 1234, 1235)
    for target, made in (("/", "/source"), ("/copy", "/copy"), ("/d", "/d/source")):
        docker("cp", str(source), f"{filled}:{target}")
        docker("cp", f"{filled}:{made}", str(tmp_path / "back"))
        assert (tmp_path / "back/sub/g").read_text() == "g"
        assert os.readlink(tmp_path / "back/link") == "f"
        subprocess.run(["rm", "-r", str(tmp_path / "back")], check=True)
    docker("cp", f"{source}/.", f"{filled}:/vol")
    docker("cp", str(source / "f"), f"{filled}:/ld/renamed")
    docker("cp", "-L", str(source / "link"), f"{filled}:/followed")
    docker("cp", str(source / "link"), f"{filled}:/kept")
    docker("cp", "-a", str(source / "f"), f"{filled}:/owned")
    docker("cp", f"{filled}:/vol/sub/.", str(tmp_path))
    assert (tmp_path / "g").read_text() == "g"
    docker("cp", f"{filled}:/d/renamed", str(tmp_path / "r"))
    assert (tmp_path / "r").read_text() == "f"
    docker("cp", "-L", f"{filled}:/lf", str(tmp_path / "lf"))
    assert (tmp_path / "lf").read_text() == "x\n"
    docker("cp", f"{filled}:/kept", str(tmp_path))
    assert os.readlink(tmp_path / "kept") == "f"
    stdout = subprocess.run(
        docker.engine.command("cp", f"{filled}:/owned", "-"), capture_output=True, check=True
    ).stdout
    assert (members(stdout)["owned"].uid, members(stdout)["owned"].gid) == (1234, 1235)
    subprocess.run(
        docker.engine.command("cp", "-", f"{filled}:/vol"),
        input=tar_of(("piped", b"p")),
        check=True,
    )
    docker("cp", f"{filled}:/vol/piped", str(tmp_path))
    assert (tmp_path / "piped").read_text() == "p"


def test_the_clients_errors(docker: Docker, filled: str, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    not_found = f"Could not find the file /nope in container {filled}"
    docker.fails("cp", f"{filled}:/nope", str(tmp_path), code=1, says=not_found)
    docker.fails("cp", str(tmp_path / "f"), f"{filled}:/nope/x", code=1, says=not_found)
    docker.fails("cp", str(tmp_path / "f"), f"{filled}:/nope/", code=1, says="no such directory")
    docker.fails("cp", str(tmp_path / "d"), f"{filled}:/d/f", code=1, says="cannot copy directory")
    docker.fails("cp", str(tmp_path / "nope"), f"{filled}:/", code=1, says="no such file")
    docker.fails("cp", "nonesuch:/x", str(tmp_path), code=1, says="No such container: nonesuch")


def test_events(docker: Docker, tmp_path: Path) -> None:
    name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
    volume = docker.state(name, "{{(index .Mounts 0).Name}}")
    begin = f"{time.time():.9f}"
    archive(docker.engine, "HEAD", name, "/etc")
    archive(docker.engine, "GET", name, "/etc")
    archive(docker.engine, "PUT", name, "/etc", tar_of(("x", b"")))
    archive(docker.engine, "PUT", name, "/nope", tar_of(("x", b"")))
    docker("export", "-o", str(tmp_path / "tar"), name)
    end = f"{time.time():.9f}"
    flags = ("--since", begin, "--until", end, "--format", "{{.Type}} {{.Action}}")
    events = docker.out("events", *flags, "--filter", f"container={name}").splitlines()
    assert events == ["container archive-path", "container extract-to-dir", "container export"]
    events = docker.out("events", *flags, "--filter", f"volume={volume}").splitlines()
    assert events == ["volume mount", "volume unmount"] * 4


def test_export_of_a_running_container(docker: Docker, tmp_path: Path) -> None:
    """GNU tar reads it; what is mounted is not in it, and a fifo does not block."""
    name = docker.up("--network", "none", "-v", "/vol", "busybox", "sleep", "1000")
    docker.exec(name, "sh", "-c", FILL)
    docker("export", "-o", str(tmp_path / "tar"), name)
    done = subprocess.run(
        ["tar", "tvf", str(tmp_path / "tar")], capture_output=True, text=True, check=True
    )
    listed = {line.split(None, 5)[5]: line for line in done.stdout.splitlines()}
    assert {"d/", "d/f", "d/fifo", "d/null", "vol/", "proc/", "etc/hosts"} <= set(listed)
    assert "vol/v" not in listed
    assert not any(name.startswith(("proc/", "sys/")) for name in listed if name[-1] != "/")
    assert listed["d/f"].startswith("-rwsr-xr-x 3/4")
    assert "lf -> /d/f" in listed
    assert "d/sub/h link to d/sub/g" in listed


def test_diff_of_everything(docker: Docker) -> None:
    name = docker.up("--network", "none", "busybox", "sh", "-c",
                     "mkdir -p /a/b; echo 1 >/a/b/c; sleep 1000")  # fmt: skip
    docker.exec(name, "sh", "-c", "chmod 700 /var; mv /etc/group /etc/moved; rm /bin/cat; "
                "ln /etc/passwd /etc/hard; rm -r /root; mkdir /root; touch /tmp/new; "
                "chown 1:1 /bin/busybox; mkdir /tmp/gone; rmdir /tmp/gone")  # fmt: skip
    assert docker.out("diff", name).splitlines() == [
        "A /a", "A /a/b", "A /a/b/c",
        "C /bin", "C /bin/busybox", "D /bin/cat",
        "C /etc", "D /etc/group", "A /etc/hard", "A /etc/moved",
        "C /root",
        "C /tmp", "A /tmp/new",
        "C /var",
    ]  # fmt: skip


def test_a_working_directory_is_there_before_the_start(docker: Docker, tmp_path: Path) -> None:
    name = docker.name()
    docker("create", "--name", name, "-w", "/new/place", "busybox", "cat", "x")
    (tmp_path / "x").write_text("copied")
    docker("cp", str(tmp_path / "x"), f"{name}:/new/place/")
    assert docker.out("start", "-a", name) == "copied"
