"""Ids between user namespaces and the host, and who makes files where they are translated."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import idmaps, mounts, syscalls
from pyengine.linux.idmaps import IdMapping, IdMaps

MAPS = IdMaps(
    (IdMapping(0, 200000, 1000), IdMapping(1000, 500000, 10)), (IdMapping(0, 300000, 1000),)
)


def test_ids_are_translated_both_ways() -> None:
    assert MAPS.root == (200000, 300000)
    assert MAPS.to_host(999, 999) == (200999, 300999)
    assert MAPS.to_host(1009, 0) == (500009, 300000)
    assert MAPS.to_container(500009, 300007) == (1009, 7)
    assert MAPS.to_container(0, 500000) == (idmaps.NOBODY, idmaps.NOBODY)
    for uid, gid in ((1010, 0), (0, 1000)):
        with pytest.raises(InvalidParameter, match="cannot be mapped to a host ID"):
            MAPS.to_host(uid, gid)
    assert idmaps.text(MAPS.uids) == "0 200000 1000\n1000 500000 10\n"


def test_a_namespace_is_made_once() -> None:
    fd = idmaps.namespace(MAPS)
    assert idmaps.namespace(IdMaps(MAPS.uids, MAPS.gids)) == fd
    assert os.readlink(f"/proc/self/fd/{fd}") != os.readlink("/proc/self/ns/user")
    overlapping = IdMaps((IdMapping(0, 5, 10), IdMapping(5, 100, 10)), MAPS.gids)
    with pytest.raises(EngineError, match=r"user namespace cannot be made.*0 5 10"):
        idmaps.namespace(overlapping)


def test_files_are_made_through_a_map_by_its_root(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    os.chown(tmp_path / "old", 7, 8)
    tree = mounts.bind_tree(str(tmp_path), False)
    idmaps.show_through(tree, MAPS)
    try:
        found = os.stat("old", dir_fd=tree)
        assert (found.st_uid, found.st_gid) == (200007, 300008)
        with pytest.raises(OSError, match="too large"):
            os.mkdir("new", dir_fd=tree)
        before = syscalls.capget()
        with idmaps.acting_as_root_of(MAPS):
            os.mkdir("new", dir_fd=tree)
            os.chown("new", 200003, 300004, dir_fd=tree)
            assert syscalls.capget() == before
            beside = threading.Thread(target=os.mkdir, args=(tmp_path / "of-the-thread",))
            beside.start()
            beside.join()
        with idmaps.acting_as_root_of(None):
            os.mkdir(tmp_path / "plain")
    finally:
        os.close(tree)
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {
        "old": (7, 8),
        "new": (3, 4),
        "of-the-thread": (200000, 300000),
        "plain": (0, 0),
    }
    assert syscalls.capget() == before


def test_not_every_file_system_can_be_mapped(tmp_path: Path) -> None:
    mappable = idmaps.Mappable()
    assert mappable(tmp_path, MAPS)
    assert not mappable("/proc", MAPS)
    assert not mappable("/proc/self", MAPS)
    assert not mappable(tmp_path, None)
    with pytest.raises(FileNotFoundError):
        mappable(tmp_path / "absent", MAPS)
