"""A new volume is filled with what the image has there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pyengine.engine.containers import copyup
from pyengine.engine.containers.copyup import MARK, copy_up


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    data = root / "data"
    (data / "deep").mkdir(parents=True)
    (data / "file").write_text("from the image")
    os.link(data / "file", data / "deep/hard")
    os.symlink("/etc/passwd", data / "link")
    os.setxattr(data / "file", "user.colour", b"red")
    os.chown(data / "file", 7, 8)
    os.chown(data, 1000, 1001)
    data.chmod(0o2750)
    return root


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    found = tmp_path / "volume"
    found.mkdir()
    return found


def test_contents_owners_and_links_come_along(image: Path, volume: Path) -> None:
    assert copy_up(image, "/data", volume)
    assert (volume / "file").read_text() == "from the image"
    assert (volume / "file").stat().st_ino == (volume / "deep/hard").stat().st_ino
    assert (volume / "file").stat().st_uid == 7
    assert os.readlink(volume / "link") == "/etc/passwd"
    assert os.getxattr(volume / "file", "user.colour") == b"red"
    found = volume.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o2750)
    assert MARK not in os.listxattr(volume)


def test_a_volume_with_contents_is_left_alone(image: Path, volume: Path) -> None:
    (volume / "mine").write_text("kept")
    assert not copy_up(image, "/data", volume)
    assert os.listdir(volume) == ["mine"]
    assert volume.stat().st_uid == 0


def test_an_empty_directory_gives_its_owner(image: Path, volume: Path) -> None:
    (image / "empty").mkdir(mode=0o700)
    os.chown(image / "empty", 5, 6)
    assert not copy_up(image, "/empty", volume)
    assert (volume.stat().st_uid, volume.stat().st_gid) == (5, 6)


@pytest.mark.parametrize("destination", ["/absent", "/data/file", "/loop"])
def test_what_is_no_directory_copies_nothing(image: Path, volume: Path, destination: str) -> None:
    os.symlink("/loop", image / "loop")
    assert not copy_up(image, destination, volume)
    assert os.listdir(volume) == []


def test_a_link_of_the_image_leads_nowhere_but_into_the_image(
    image: Path, volume: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("of the host")
    os.symlink(str(tmp_path / "secret"), image / "absolute")
    os.symlink("../../../../.." + str(tmp_path / "secret"), image / "climbing")
    os.symlink("/data", image / "inside")
    assert not copy_up(image, "/absolute", volume)
    assert not copy_up(image, "/climbing", volume)
    assert os.listdir(volume) == []
    assert copy_up(image, "/inside", volume)
    assert (volume / "file").exists()


def test_after_a_crash_in_the_middle_the_next_begins_anew(image: Path, volume: Path) -> None:
    (volume / "half").mkdir()
    (volume / "half/done").write_text("x")
    os.setxattr(volume, MARK, b"1")
    assert copy_up(image, "/data", volume)
    assert sorted(os.listdir(volume)) == ["deep", "file", "link"]
    assert MARK not in os.listxattr(volume)


def test_what_fails_leaves_the_volume_empty(
    image: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: object, root: int, *_: object) -> None:
        os.mkdir("half", dir_fd=root)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copyup, "unpack", full)
    with pytest.raises(OSError, match="No space left"):
        copy_up(image, "/data", volume)
    assert os.listdir(volume) == []
    assert MARK not in os.listxattr(volume)
