"""-v, --mount and --tmpfs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker


@pytest.fixture(scope="module")
def filled(engine: EngineProcess) -> str:
    """An image with contents in /data, /declared (a VOLUME) and a link /link -> /data."""
    engine.docker("rm", "-f", "maker", check=False)
    engine.docker(
        "run",
        "--name",
        "maker",
        "busybox",
        "sh",
        "-c",
        "mkdir /data /declared; echo image >/data/file; ln -s file /data/link; chown -R 7:8 /data;"
        "chmod 2750 /data; echo declared >/declared/file; ln -s /data /link;"
        "ln -s /etc /evil; touch /data/.hidden",
    )
    tar = engine.root / "filled.tar"
    engine.docker("export", "-o", str(tar), "maker")
    engine.docker("rm", "maker")
    engine.docker("import", "-c", "CMD sh", "-c", "VOLUME /declared", str(tar), "filled")
    return "filled"


def volume(docker: Docker, name: str) -> str:
    docker("volume", "create", name)
    return name


@pytest.fixture
def named(docker: Docker) -> str:
    """A volume's name that does not exist yet."""
    name = f"vol-{docker.name()}"
    docker("volume", "rm", "-f", name)
    return name


def test_a_named_volume_outlives_its_containers(docker: Docker, named: str) -> None:
    docker.sh("echo kept >/v/file", "-v", f"{named}:/v")
    assert docker.sh("cat /v/file", "-v", f"{named}:/v") == "kept"
    where = docker.out("volume", "inspect", "-f", "{{.Mountpoint}}", named)
    assert Path(where, "file").read_text() == "kept\n"
    name = docker.up("-v", f"{named}:/v", "busybox", "sleep", "60")
    docker.fails("volume", "rm", named, code=1, says="volume is in use")
    docker("rm", "-f", name)
    docker("volume", "rm", named)
    assert not os.path.exists(where)


def test_an_anonymous_volume_goes_with_rm_v(docker: Docker) -> None:
    before = set(docker.out("volume", "ls", "-q").split())
    docker.sh("touch /v/x", "-v", "/v")
    assert set(docker.out("volume", "ls", "-q").split()) == before, "--rm removes it"
    name = docker.name()
    docker("run", "--name", name, "-v", "/v", "busybox", "true")
    (made,) = set(docker.out("volume", "ls", "-q").split()) - before
    docker("rm", name)
    assert made in docker.out("volume", "ls", "-q"), "rm alone keeps it"
    docker("volume", "rm", made)


def test_binds(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    assert docker.sh("cat /b/file; echo from >/b/inside", "-v", f"{tmp_path}:/b") == "host"
    assert (tmp_path / "inside").read_text() == "from\n"
    out = docker.sh(
        "touch /b/x 2>&1; cat /f", "-v", f"{tmp_path}:/b:ro", "-v", f"{tmp_path}/file:/f"
    )
    assert out.splitlines() == ["touch: /b/x: Read-only file system", "host"]


def test_a_missing_source_is_made_by_v_and_refused_by_mount(docker: Docker, tmp_path: Path) -> None:
    docker.sh("true", "-v", f"{tmp_path}/made:/b")
    assert (tmp_path / "made").is_dir()
    docker.fails(
        "run",
        "--rm",
        "--mount",
        f"type=bind,src={tmp_path}/absent,dst=/b",
        "busybox",
        "true",
        code=125,
        says="bind source path does not exist",
    )
    assert not (tmp_path / "absent").exists()


def test_mount_in_all_types(docker: Docker, named: str, tmp_path: Path) -> None:
    out = docker.sh(
        "echo v >/v/f; touch /b/x 2>/dev/null || echo read-only; df -k /t | tail -1; stat -c %a /t",
        "--mount",
        f"type=volume,src={named},dst=/v",
        "--mount",
        f"type=bind,src={tmp_path},dst=/b,readonly",
        "--mount",
        "type=tmpfs,dst=/t,tmpfs-size=4m,tmpfs-mode=1770",
    )
    lines = out.splitlines()
    assert lines[0] == "read-only"
    assert lines[1].split()[1] == "4096"
    assert lines[2] == "1770"


def test_tmpfs_options(docker: Docker) -> None:
    out = docker.sh("grep ' /t ' /proc/mounts", "--tmpfs", "/t:size=1m,mode=700,noexec")
    assert out.startswith("tmpfs /t tmpfs rw,nosuid,nodev,noexec")
    assert "size=1024k" in out
    assert "mode=700" in out


def test_nested_mounts_are_made_from_the_outside_in(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text("deep")
    out = docker.sh(
        "cat /m/inner/file; touch /m/outer",
        "-v",
        f"{tmp_path}/deep:/m/inner:ro",
        "-v",
        f"{tmp_path}/outer:/m",
    )
    assert out == "deep"
    assert (tmp_path / "outer/outer").exists()


def test_volumes_from(docker: Docker, named: str) -> None:
    first = docker.up("-v", f"{named}:/v", "busybox", "sh", "-c", "echo x >/v/f; sleep 60")
    assert docker.sh(
        "cat /v/f; touch /v/y 2>&1 || true", "--volumes-from", f"{first}:ro"
    ).splitlines() == [
        "x",
        "touch: /v/y: Read-only file system",
    ]


def test_inspect_shows_mounts(docker: Docker, named: str, tmp_path: Path) -> None:
    name = docker.name()
    docker("create", "--name", name, "-v", f"{named}:/v:ro", "-v", f"{tmp_path}:/b", "busybox")
    mounts = {m["Destination"]: m for m in json.loads(docker.state(name, "{{json .Mounts}}"))}
    assert mounts["/v"]["Type"] == "volume"
    assert mounts["/v"]["Name"] == named
    assert mounts["/v"]["RW"] is False
    assert mounts["/v"]["Driver"] == "local"
    assert mounts["/b"]["Source"] == str(tmp_path)
    assert mounts["/b"]["Propagation"] == "rprivate"


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("/tmp:y", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b:bogus", "invalid mode: bogus"),
        ("b@d:/x", "includes invalid characters for a local volume name"),
    ],
)
def test_bad_volumes(docker: Docker, flag: str, says: str) -> None:
    docker.fails("create", "-v", flag, "busybox", code=1, says=says)


def test_two_mounts_at_one_place(docker: Docker) -> None:
    docker.fails(
        "create", "-v", "/a:/x", "-v", "/b:/x", "busybox", code=1, says="Duplicate mount point: /x"
    )


# -- what the image has comes along ----------------------------------------------------------------


def test_a_new_volume_is_filled_from_the_image(docker: Docker, filled: str, named: str) -> None:
    out = docker.out(
        "run",
        "--rm",
        "-v",
        f"{named}:/data",
        filled,
        "sh",
        "-c",
        "cat /data/link; stat -c '%u:%g %a' /data; ls -A /data",
    )
    assert out.splitlines() == ["image", "7:8 2750", ".hidden", "file", "link"]
    # A second use does not fill it again.
    docker.sh("rm /v/file", "-v", f"{named}:/v")
    assert docker.out("run", "--rm", "-v", f"{named}:/data", filled, "ls", "/data") == "link"


def test_nocopy(docker: Docker, filled: str, named: str) -> None:
    assert (
        docker.out("run", "--rm", "-v", f"{named}:/data:nocopy", filled, "ls", "-A", "/data") == ""
    )
    assert (
        docker.out(
            "run",
            "--rm",
            "--mount",
            f"src={named},dst=/data,volume-nocopy=true",
            filled,
            "ls",
            "-A",
            "/data",
        )
        == ""
    )


def test_declared_volumes_are_filled_and_kept_over_a_restart(docker: Docker, filled: str) -> None:
    name = docker.up(filled, "sleep", "60")
    assert docker.exec(name, "cat", "/declared/file") == "declared"
    docker.exec(name, "sh", "-c", "rm /declared/file")
    docker("restart", "-t", "0", name)
    assert docker.exec(name, "ls", "/declared") == "", "it is filled once only"


def test_a_link_in_the_image_is_followed_inside_only(
    docker: Docker, filled: str, named: str
) -> None:
    out = docker.out("run", "--rm", "-v", f"{named}:/evil", filled, "ls", "/evil")
    # /evil -> /etc of the image: never the host's.
    assert set(out.split()) <= {"passwd", "group", "hosts", "hostname", "resolv.conf", "mtab"}
    assert "passwd" in out


def test_a_full_volume_hides_the_image(docker: Docker, filled: str, named: str) -> None:
    docker.sh("echo mine >/v/mine", "-v", f"{named}:/v")
    assert docker.out("run", "--rm", "-v", f"{named}:/data", filled, "ls", "/data") == "mine"


def test_a_new_volume_is_filled_when_the_container_is_made(docker: Docker, filled: str) -> None:
    name = docker.name()
    docker("create", "--name", name, "-v", f"{name}-a:/data", "-v", f"{name}-b:/nonesuch", filled)
    try:
        assert docker.sh("cat /v/file", "-v", f"{name}-a:/v") == "image"
        docker.sh("rm -r /v/*", "-v", f"{name}-a:/v")
        docker("start", name)
        docker("wait", name)
        assert docker.sh("ls -A /v", "-v", f"{name}-a:/v") == ".hidden", "once only"
        assert docker.sh("ls -A /v", "-v", f"{name}-b:/v") == ""
    finally:
        docker("rm", "-f", "-v", name)
        docker("volume", "rm", f"{name}-a", f"{name}-b")


def test_a_declared_volume_over_a_file(docker: Docker) -> None:
    before = docker.out("volume", "ls", "-q")
    docker.fails(
        *("run", "--rm", "-v", "/bin/busybox", "busybox", "true"),
        code=125,
        says="cannot mount volume over existing file, file exists",
    )
    assert docker.out("volume", "ls", "-q") == before


def test_a_directory_over_a_file(docker: Docker, tmp_path: Path) -> None:
    docker.fails(
        *("run", "--rm", "-v", f"{tmp_path}:/etc/passwd", "busybox", "true"),
        code=125,
        says="Are you trying to mount a directory onto a file (or vice-versa)?",
    )


def test_a_subpath_of_a_volume(docker: Docker, named: str) -> None:
    docker.sh("mkdir -p /v/a/b; echo deep >/v/a/b/f; ln -s / /v/out", "-v", f"{named}:/v")
    mount = f"type=volume,src={named},dst=/s,volume-subpath="
    assert docker.sh("cat /s/f", "--mount", mount + "a/b") == "deep"
    docker.sh("ln -s b /v/a/inside; mkdir /v/bin", "-v", f"{named}:/v")
    assert docker.sh("cat /s/f", "--mount", mount + "a/inside") == "deep"
    docker.fails(
        *("run", "--rm", "--mount", mount + "out", "busybox", "true"),
        code=125,
        says="path concatenation escapes the base directory",
    )
    part = f"type=volume,src={named},dst=/bin,volume-subpath=bin"
    assert docker.sh("ls /bin/busybox", "--mount", part) == "/bin/busybox", "what the image has"
    docker.fails(
        *("run", "--rm", "--mount", mount + "none", "busybox", "true"),
        code=127,
        says="no such file or directory",
    )


def test_volumes_that_nobody_named_say_so(docker: Docker) -> None:
    name = docker.up("-v", "/a", "--mount", "type=volume,dst=/b", "busybox", "sleep", "60")
    volumes = docker.state(name, "{{range .Mounts}}{{.Name}} {{end}}").split()
    assert len(volumes) == 2
    for volume in volumes:
        shown = docker.out("volume", "inspect", "-f", "{{json .Labels}}", volume)
        assert json.loads(shown) == {"com.docker.volume.anonymous": ""}


def test_a_tmpfs_over_a_mount(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "hidden").touch()
    flags = ("--mount", f"type=bind,src={tmp_path},dst=/x", "--tmpfs", "/x")
    assert docker.sh("ls /x; stat -c %a /x", *flags) == "1777"
    docker.fails(
        *("run", "--rm", "-v", f"{tmp_path}:/x", "--tmpfs", "/x", "busybox", "true"),
        code=125,
        says="Duplicate mount point: /x",
    )
