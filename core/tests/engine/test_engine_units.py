"""Small parts of the engine: names, filters, mounts, resolv.conf, sizes, ps, merging images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyengine.engine import names
from pyengine.engine.containers import resolv
from pyengine.engine.containers.merging import merge_image
from pyengine.engine.containers.mounts import (
    check_sources,
    from_mount,
    parse_bind,
    resolve,
    tmpfs_options,
)
from pyengine.engine.containers.processes import parse, top
from pyengine.engine.filters import select
from pyengine.engine.model import (
    BindOptions,
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    ImageOptions,
    Mount,
    MountPoint,
    PortBinding,
    State,
    Status,
    TmpfsOptions,
    VolumeOptions,
)
from pyengine.engine.units import parse_size
from pyengine.errors import EngineError, InvalidParameter, NotFound

BAD_VOLUME = "invalid volume specification"


def container(name: str = "web", created: str = "2026-01-01T00:00:00Z", **more: Any) -> Container:
    state = State(status=more.pop("status", Status.RUNNING), exit_code=more.pop("exit_code", 0))
    values: dict[str, Any] = {
        "id": more.pop("id", "a" * 64), "name": name, "created": created, "path": "sh", "args": [],
        "config": ContainerConfig(), "host_config": HostConfig(), "state": state, **more,
    }  # fmt: skip
    return Container(**values)


# -- names -----------------------------------------------------------------------------------------


def test_ids_are_64_digits_and_never_look_like_a_number() -> None:
    made = {names.new_id() for _ in range(200)}
    assert len(made) == 200
    assert all(names.ID.fullmatch(id) and not id[:12].isdecimal() for id in made)


@pytest.mark.parametrize("name", ["ab", "/web", "a.b-c_d", "0x"])
def test_names_that_are_fine(name: str) -> None:
    assert names.check_name(name) == name.removeprefix("/")


@pytest.mark.parametrize("name", ["a", "-ab", "a b", "a/b", "ä1", "", "/"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"only \[a-zA-Z0-9\]\[a-zA-Z0-9_.-\] are allowed"):
        names.check_name(name)


def test_what_a_reference_means() -> None:
    things = {"abc1": "first", "abc2": "second", "ffff": "third"}
    by_name = {"web": "second"}.get

    def find(ref: str) -> str:
        return names.resolve(ref, things, by_name, "container")

    assert [find("abc1"), find("web"), find("f")] == ["first", "second", "third"]
    with pytest.raises(InvalidParameter, match="multiple IDs found with provided prefix: abc"):
        find("abc")
    for missing in ("x", "abc3"):
        with pytest.raises(NotFound, match=f"No such container: {missing}"):
            find(missing)
    with pytest.raises(InvalidParameter, match='invalid name or ID supplied: ""'):
        find("")


def test_a_name_beats_the_beginning_of_an_id() -> None:
    assert names.resolve("ab", {"abcd": "id"}, {"ab": "name"}.get, "container") == "name"


# -- ps --filter -----------------------------------------------------------------------------------


def test_what_runs_or_will_run_again_is_listed() -> None:
    every = [container(str(status), status=status) for status in Status]
    found = select(
        every, {}, all=False, limit=-1, images_of=lambda ref: [ref], find=lambda ref: every[0]
    )
    assert sorted(one.name for one in found) == ["paused", "restarting", "running"]


def test_ports_and_networks_of_a_list() -> None:
    web = container("web", "2026-01-01T00:00:00Z", id="a1" * 32)
    web.ports = {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")], "90/udp": None}
    web.networks = {"front": EndpointSettings(network_id="abcdef")}

    def found(name: str, value: str) -> bool:
        return bool(select([web], {name: [value]}, all=True, limit=-1, images_of=lambda ref: [ref],
                           find=lambda ref: web))  # fmt: skip

    assert found("publish", "8080")
    assert found("publish", "8000-8100/tcp")
    assert not found("publish", "80"), "the container's port"
    assert not found("publish", "8080/udp")
    assert found("expose", "80/tcp")
    assert found("expose", "90/udp")
    assert not found("expose", "8080")
    assert found("network", "front")
    assert found("network", "abc")
    assert not found("network", "fro")
    assert not found("network", "def")


ALL = [
    container("web", "2026-01-01T00:00:00Z", id="a1" * 32, image="i1",
              config=ContainerConfig(labels={"tier": "front", "x": ""},
                                     exposed_ports={"80/tcp": {}})),
    container("db", "2026-01-02T00:00:00Z", id="b2" * 32, image="i2", status=Status.EXITED,
              exit_code=3, mounts=[MountPoint(type="volume", name="data", destination="/data")]),
    container("webber", "2026-01-03T00:00:00Z", id="c3" * 32, image="i1", status=Status.PAUSED),
    container("fresh", "2026-01-04T00:00:00Z", id="d4" * 32, status=Status.CREATED),
]  # fmt: skip


def chosen(all: bool = True, limit: int = -1, **filters: list[str]) -> list[str]:
    def find(ref: str) -> Container:
        return names.resolve(ref, {r.id: r for r in ALL}, {r.name: r for r in ALL}.get, "container")

    given = {key.replace("_", "-"): value for key, value in filters.items()}
    found = select(ALL, given, all=all, limit=limit,
                   images_of=lambda ref: {"front": ["i1"]}.get(ref, []), find=find)  # fmt: skip
    return [record.name for record in found]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["fresh", "webber", "db", "web"]),
        ({"name": ["web"]}, ["webber", "web"]),
        ({"name": ["/db"]}, ["db"]),
        ({"name": ["db", "fresh"]}, ["fresh", "db"]),
        ({"id": ["a1", "b2"]}, ["db", "web"]),
        ({"label": ["tier"]}, ["web"]),
        ({"label": ["tier=front", "x"]}, ["web"]),
        ({"label": ["tier=back"]}, []),
        ({"status": ["exited", "paused"]}, ["webber", "db"]),
        ({"exited": ["3"]}, ["db"]),
        ({"exited": ["0"]}, []),
        ({"before": ["webber"]}, ["db", "web"]),
        ({"since": ["web"], "before": ["fresh"]}, ["webber", "db"]),
        ({"ancestor": ["front"]}, ["webber", "web"]),
        ({"volume": ["/data"]}, ["db"]),
        ({"volume": ["data", "none"]}, ["db"]),
        ({"expose": ["80"]}, ["web"]),
        ({"expose": ["70-90/tcp"]}, ["web"]),
        ({"expose": ["80/udp"]}, []),
        ({"health": ["healthy"]}, []),
        ({"is_task": ["true"]}, []),
        ({"is_task": ["false"]}, ["fresh", "webber", "db", "web"]),
        ({"id": [""]}, []),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: list[str]) -> None:
    assert chosen(**filters) == expected


def test_only_running_ones_by_default_and_limits() -> None:
    assert chosen(all=False) == ["webber", "web"]
    assert chosen(all=False, limit=2) == ["fresh", "webber"]
    assert chosen(all=False, status=["exited"]) == ["db"]


@pytest.mark.parametrize(
    ("filters", "says"),
    [({"nonesuch": ["x"]}, "invalid filter 'nonesuch'"),
     ({"status": ["happy"]}, "invalid filter 'status=happy'"),
     ({"exited": ["x"]}, "invalid filter 'exited=x'"),
     ({"is_task": ["T"]}, r"invalid filter 'is-task=\[T\]'"),
     ({"publish": ["eighty"]}, "eighty"), ({"expose": ["80-x"]}, "80-x")],
)  # fmt: skip
def test_filters_that_are_wrong(filters: dict[str, list[str]], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        chosen(**filters)


def test_before_a_container_that_is_not_there() -> None:
    with pytest.raises(NotFound):
        chosen(before=["nonesuch"])


# -- mounts ----------------------------------------------------------------------------------------


def test_binds() -> None:
    point = parse_bind("/src/../a/:/dst/./x:ro,rslave")
    assert (point.type, point.source, point.destination) == ("bind", "/a", "/dst/x")
    assert (point.rw, point.propagation) == (False, "rslave")
    named = parse_bind("data:/x:nocopy", "nfs")
    assert (named.type, named.name, named.driver, named.no_copy) == ("volume", "data", "nfs", True)
    assert parse_bind("data:/x").mode == "z"
    anonymous = parse_bind("/x")
    assert (anonymous.type, anonymous.name, anonymous.rw) == ("volume", "", True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:b:c:d", BAD_VOLUME), (":/x", BAD_VOLUME), ("a:", BAD_VOLUME), ("", BAD_VOLUME),
        ("relative", "mount path must be absolute"), ("/a:b", "mount path must be absolute"),
        ("/a:ro", "invalid volume specification: '/a:ro'$"), ("/a:/b:z,Z", "invalid mode: z,Z"),
        ("/a:/b:shared,slave", "invalid mode"), ("/a:/b:cached,delegated", "invalid mode"),
        ("/a:/b:nocopy", "field VolumeOptions must not be specified"),
        ("v:/b:shared", "field BindOptions must not be specified"),
        ("/a:/", "destination can't be '/'"), ("v:/..", "destination can't be '/'"),
        ("/a:/b:huh", "invalid mode: huh"), ("v::ro", "field Target must not be empty"),
    ],
)  # fmt: skip
def test_binds_that_are_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        parse_bind(text)


def test_mounts() -> None:
    bind = from_mount(Mount(type="bind", source="/a", target="/b", read_only=True))
    assert (bind.source, bind.rw, bind.propagation) == ("/a", False, "rprivate")
    volume = from_mount(Mount(type="volume", source="v", target="/b",
                              volume_options=VolumeOptions(no_copy=True)))  # fmt: skip
    assert (volume.name, volume.no_copy) == ("v", True)
    tmpfs = TmpfsOptions(size_bytes=1024, mode=0o700)
    assert tmpfs_options(tmpfs) == ["size=1024", "mode=700"]
    assert tmpfs_options(None) == []


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        (Mount(type="bind", source="/a"), "field Target must not be empty"),
        (Mount(type="bind", source="/a", target="b"), "mount path must be absolute"),
        (Mount(type="bind", target="/b"), "field Source must not be empty"),
        (Mount(type="bind", source="a", target="/b"), "mount path must be absolute"),
        (Mount(type="tmpfs", source="a", target="/b"), "field Source must not be specified"),
        (Mount(type="volume", target="/b", bind_options=BindOptions(propagation="shared")),
         "field BindOptions must not be specified"),
        (Mount(type="bind", source="/a", target="/b", bind_options=BindOptions(propagation="x")),
         "invalid propagation mode: x"),
        (Mount(type="volume", source="v", target="/b",
               volume_options=VolumeOptions(subpath="../x")),
         "subpath must be a relative path within the volume"),
        (Mount(type="volume", target="/b", volume_options=VolumeOptions(subpath="x")),
         "must not set Subpath when using anonymous volumes"),
        (Mount(type="floppy", target="/b"), 'type "floppy": mount type unknown'),
        (Mount(type="npipe", source="x", target="/b"), 'type "npipe": mount type unknown'),
        (Mount(type="bind", source="/a", target="/b", cluster_options={}),
         "field ClusterOptions must not be specified"),
        (Mount(type="bind", source="/a", target="/b", image_options=ImageOptions()),
         "field ImageOptions must not be specified"),
        (Mount(type="tmpfs", target="/b", tmpfs_options=TmpfsOptions(options=[["uid", "0"]])),
         "invalid option: uid"),
        (Mount(type="tmpfs", target="/b", tmpfs_options=TmpfsOptions(options=[[]])),
         "invalid option array length"),
        (Mount(type="image", target="/b"), "field Source must not be empty"),
        (Mount(type="bind", source="/a", target="/b",
               bind_options=BindOptions(read_only_non_recursive=True)),
         "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"),
        (Mount(type="bind", source="/a", target="/b",
               bind_options=BindOptions(read_only_force_recursive=True)),
         "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"),
        (Mount(type="tmpfs", target="/"), "destination can't be '/'"),
    ],
)  # fmt: skip
def test_mounts_that_are_wrong(mount: Mount, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        from_mount(mount)


def test_who_wins_at_one_place() -> None:
    mounts = [MountPoint(type="volume", name=name, destination=where)
              for name, where in (("old", "/a"), ("kept", "/k"))]  # fmt: skip
    other = container(mounts=mounts)
    points = resolve(
        ContainerConfig(volumes={"/a": {}, "/image/": {}, "/t": {}}),
        HostConfig(volumes_from=["other:ro"], binds=["new:/a"], tmpfs={"/t": ""},
                   mounts=[Mount(type="volume", source="m", target="/m")]),
        lambda ref: other,
    )  # fmt: skip
    found = {point.destination: (point.name, point.rw, point.no_copy) for point in points}
    assert found == {
        "/a": ("new", True, False), "/k": ("kept", False, True), "/m": ("m", True, False),
        "/image": ("", True, False),
    }  # fmt: skip


@pytest.mark.parametrize(
    "host",
    [
        HostConfig(binds=["a:/x", "/b:/x/"]),
        HostConfig(binds=["a:/x"], tmpfs={"/x/": ""}),
        HostConfig(binds=["a:/x"], mounts=[Mount(type="tmpfs", target="/x")]),
    ],
)
def test_two_at_one_place(host: HostConfig) -> None:
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /x"):
        resolve(ContainerConfig(), host, lambda ref: container())


def bound(source: str, **options: Any) -> MountPoint:
    """The mount point of a bind, as the engine with its data in /var/lib/pe makes it."""
    mount = Mount(type="bind", source=source, target="/x", bind_options=BindOptions(**options))
    (point,) = resolve(
        ContainerConfig(), HostConfig(mounts=[mount]), lambda ref: container(),
        data_root="/var/lib/pe",
    )  # fmt: skip
    return point


@pytest.mark.parametrize("source", ["/", "/var/lib", "/var/lib/pe", "/var/lib/pe/overlay2/x"])
def test_mounts_of_the_engine_go_away_in_containers_too(source: str) -> None:
    assert bound(source).propagation == "rslave"
    assert bound(source, propagation="rshared").propagation == "rshared"
    with pytest.raises(InvalidParameter, match='use either propagation mode "rslave" or "rshared"'):
        bound(source, propagation="private")


@pytest.mark.parametrize("source", ["/var/lib/peter", "/srv"])
def test_other_binds_are_private(source: str) -> None:
    assert bound(source).propagation == "rprivate"


def test_read_only_binds_of_old_clients_are_not_recursive() -> None:
    host = HostConfig(
        binds=["/a:/a:ro", "/b:/b"],
        mounts=[Mount(type="bind", source="/c", target="/c", read_only=True)],
    )
    for recursive in (True, False):
        points = resolve(
            ContainerConfig(), host, lambda ref: container(), recursive_read_only=recursive
        )
        found = {
            point.destination: point.spec.bind_options.read_only_non_recursive
            for point in points
            if point.spec and point.spec.bind_options
        }
        never = not recursive
        assert (found["/a"], found["/b"], found.get("/c", False)) == (never, False, never)


@pytest.mark.parametrize("item", ["", "c:huh", "c:nocopy", "c:rslave", "c:ro,rw"])
def test_volumes_from_what_is_wrong(item: str) -> None:
    with pytest.raises(InvalidParameter, match=r"invalid mode|cannot be an empty"):
        resolve(ContainerConfig(), HostConfig(volumes_from=[item]), lambda ref: container())


def test_missing_sources(tmp_path: Path) -> None:
    check_sources([parse_bind(f"{tmp_path}/made/deep:/x")])
    assert (tmp_path / "made/deep").is_dir()
    with pytest.raises(InvalidParameter, match="bind source path does not exist"):
        check_sources([from_mount(Mount(type="bind", source=f"{tmp_path}/no", target="/x"))])
    os.symlink("nowhere", tmp_path / "dangling")
    with pytest.raises(EngineError, match=r"creating mount source path .* file exists"):
        check_sources([parse_bind(f"{tmp_path}/dangling:/x")])
    assert not (tmp_path / "nowhere").exists()


# -- resolv.conf and hosts -------------------------------------------------------------------------


def test_parsing_resolv_conf() -> None:
    text = (
        "# comment\nnameserver 1.1.1.1 # why\nnameserver fe80::1%eth0\n;x\nsearch a.b c.d\n"
        "domain e.f\noptions ndots:2 rotate\noptions edns0\nnameserver\n"
    )
    assert resolv.parse(text) == (
        ["1.1.1.1", "fe80::1%eth0"], ["e.f"], ["ndots:2", "rotate", "edns0"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "item", ["peer:10.0.0.1", "six:2001:db8::1", "six:[::1]", "h:host-gateway"]
)
def test_extra_hosts(item: str) -> None:
    resolv.check_extra_hosts([item])


@pytest.mark.parametrize(
    ("item", "says"),
    [("peer", 'bad format for add-host: "peer"'), (":1.1.1.1", "bad format for add-host"),
     ("peer:here", 'invalid IP address in add-host: "here"')],
)  # fmt: skip
def test_extra_hosts_that_are_wrong(item: str, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        resolv.check_extra_hosts([item])


# -- sizes, top ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (7, 7), ("64m", 64 << 20), ("64M", 64 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048),
     (" 1 g ", 1 << 30), ("1t", 1 << 40), ("5b", 5)],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "1x", "-1", "1 2", "0x10", "1,5g"])
def test_sizes_that_are_wrong(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid size: "):
        parse_size(text)


def test_the_rows_of_ps() -> None:
    output = "UID  PID PPID CMD\nroot   1    0 init\nroot  22    1 sh -c  'a  b'\nx 3\n"
    assert parse(output, {22, 3}) == (
        ["UID", "PID", "PPID", "CMD"],
        [["root", "22", "1", "sh -c  'a  b'"], ["x", "3"]],
    )
    with pytest.raises(EngineError, match="Couldn't find PID field in ps output"):
        parse("UID CMD\n", set())


async def test_top_asks_the_hosts_ps() -> None:
    titles, rows = await top([os.getpid()], "-o pid,args")
    assert titles == ["PID", "COMMAND"]
    assert [row[0] for row in rows] == [str(os.getpid())]
    with pytest.raises(InvalidParameter, match="is not allowed"):
        await top([1], "-o pid -o cmd=PID")
    with pytest.raises(EngineError, match="ps: error"):
        await top([1], "--nonesuch")
    with pytest.raises(InvalidParameter):
        await top([1], "-o 'pid")


# -- what the image adds ---------------------------------------------------------------------------

IMAGE = ContainerConfig(
    user="web", working_dir="/app", env=["A=image", "B=image"], entrypoint=["run"], cmd=["-d"],
    labels={"a": "image", "b": "image"}, exposed_ports={"80/tcp": {}}, volumes={"/data": {}},
    stop_signal="INT", stop_timeout=3, shell=["/bin/sh"],
)  # fmt: skip


def merged(**request: Any) -> ContainerConfig:
    config = ContainerConfig(**request)
    merge_image(config, IMAGE)
    return config


def test_the_image_fills_what_is_open() -> None:
    config = merged()
    for name in ("user", "working_dir", "entrypoint", "cmd", "stop_signal", "stop_timeout", "shell",
                 "labels", "exposed_ports", "volumes", "env"):  # fmt: skip
        assert getattr(config, name) == getattr(IMAGE, name), name


def test_empty_lists_of_words() -> None:
    assert merged(cmd=[]).cmd == ["-d"]
    config = merged(entrypoint=[], cmd=[])
    assert (config.entrypoint, config.cmd) == ([], ["-d"])
    config = merged(entrypoint=[""])
    assert (config.entrypoint, config.cmd) == (None, None)


def test_the_request_beats_the_image() -> None:
    config = merged(user="root", working_dir="/", stop_signal="TERM", stop_timeout=0,
                    env=["B=mine", "C"], labels={"b": "mine"}, exposed_ports={"81/udp": {}},
                    volumes={"/more": {}})  # fmt: skip
    assert (config.user, config.working_dir, config.stop_signal, config.stop_timeout) == (
        "root", "/", "TERM", 0,
    )  # fmt: skip
    assert config.env == ["B=mine", "C", "A=image"]
    assert config.labels == {"a": "image", "b": "mine"}
    assert set(config.exposed_ports or {}) == {"80/tcp", "81/udp"}
    assert set(config.volumes or {}) == {"/data", "/more"}


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "expected"),
    [
        (None, None, ["run", "-d"]),
        (None, ["x"], ["run", "x"]),
        (["mine"], None, ["mine"]),  # the image's arguments were for the image's entrypoint
        (["mine"], ["x"], ["mine", "x"]),
        ([""], ["x"], ["x"]),
        ([""], None, []),
    ],
)
def test_entrypoint_and_command(
    entrypoint: list[str] | None, cmd: list[str] | None, expected: list[str]
) -> None:
    config = merged(entrypoint=entrypoint, cmd=cmd)
    assert [*(config.entrypoint or []), *(config.cmd or [])] == expected


def test_the_image_itself_is_not_changed() -> None:
    before = repr(IMAGE)
    config = merged(env=["X=1"], labels={"x": "1"})
    assert config.labels is not IMAGE.labels
    assert repr(IMAGE) == before
