"""The content store."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyengine.errors import InvalidParameter, NotFound
from pyengine.state.content import ContentStore, Partial


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ingests(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "ingest").iterdir())


def test_write_and_read(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    assert store.write(b"hello") == store.write(b"hello") == digest(b"hello")
    assert ContentStore(tmp_path).read(digest(b"hello")) == b"hello"
    assert store.path(digest(b"hello")) == tmp_path / "blobs/sha256" / digest(b"hello")[7:]
    with store.open(digest(b"hello")) as file:
        assert file.read() == b"hello"
    assert store.blobs() == {digest(b"hello"): 5}
    assert store.intact(digest(b"hello"))
    store.path(digest(b"hello")).write_bytes(b"jello")
    assert not store.intact(digest(b"hello"))
    store.remove(digest(b"hello"))
    store.remove(digest(b"hello"))
    assert not store.has(digest(b"hello"))
    with pytest.raises(NotFound):
        store.read(digest(b"hello"))


def test_what_is_not_as_expected_is_not_kept(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    for expected, size in ((digest(b"other"), -1), (digest(b"data"), 5), (digest(b"data"), 3)):
        with store.ingest() as ingest:
            ingest.write(b"da")
            ingest.write(memoryview(b"ta"))
            with pytest.raises(InvalidParameter):
                ingest.commit(expected, size)
    assert not store.has(digest(b"data"))
    assert ingests(tmp_path) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:../x", "md5:00", "sha256:AB"])
def test_names_are_digests(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter):
        ContentStore(tmp_path).path(name)
    with pytest.raises(InvalidParameter):
        ContentStore(tmp_path).ingest(name)


# -- resumed ingests ------------------------------------------------------------------------------


def test_an_ingest_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    wanted = digest(b"hello world")
    with ContentStore(tmp_path).ingest(wanted) as ingest:
        ingest.write(b"hello ")
    store = ContentStore(tmp_path)
    assert store.partial() == [Partial("sha256-" + wanted[7:], wanted, 6)]
    with store.ingest(wanted) as ingest:
        assert (ingest.size, ingest.found) == (6, 6)
        with pytest.raises(InvalidParameter):
            ingest.commit(wanted, 11)  # too short: it can be continued
        ingest.write(b"world")
        assert ingest.commit(wanted, 11) == wanted
    assert store.read(wanted) == b"hello world"
    assert ingests(tmp_path) == []


def test_an_ingest_that_turned_out_wrong_begins_again(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    wanted = digest(b"good")
    with store.ingest(wanted) as ingest:
        ingest.write(b"go")
        ingest.write(b"ld")
        with pytest.raises(InvalidParameter, match="content has digest"):
            ingest.commit(wanted, 4)
    with store.ingest(wanted) as ingest:
        assert ingest.size == 0
        ingest.write(b"bad")
        ingest.reset()
        assert ingest.size == 0
        ingest.write(b"good")
        ingest.commit(wanted, 4)
    assert store.read(wanted) == b"good"
    with store.ingest(digest(b"x")) as ingest:
        ingest.write(b"y")
        ingest.discard()
    assert ingests(tmp_path) == []


def test_two_writers_of_one_digest_are_kept_apart(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    wanted = digest(b"both")
    with store.ingest(wanted) as first:
        first.write(b"bo")
        with store.ingest(wanted) as second:
            assert second.size == 0
            second.write(b"bo")
            assert len(ingests(tmp_path)) == 2
            assert store.partial() == []
            assert not store.drop(Partial("sha256-" + wanted[7:], wanted, 2))
        first.write(b"th")
        with store.ingest(wanted) as third:
            third.write(b"both")
            third.commit(wanted, 4)
        first.commit(wanted, 4)
    assert store.read(wanted) == b"both"
    assert ingests(tmp_path) == []


def test_what_is_partial_can_be_dropped(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    (tmp_path / "ingest").mkdir()
    (tmp_path / "ingest" / "0123").write_bytes(b"...")
    with store.ingest(digest(b"half")) as ingest:
        ingest.write(b"ha")
    left = sorted(store.partial())
    assert [(one.name[:6], one.expected, one.size) for one in left] == [
        ("0123", "", 3),
        ("sha256", digest(b"half"), 2),
    ]
    assert all(store.drop(one) for one in left)
    assert store.partial() == []


def test_a_blob_that_is_demoted_is_an_ingest_again(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    blob = store.write(b"data")
    store.demote(blob)
    assert not store.has(blob)
    with store.ingest(blob) as ingest:
        assert ingest.size == 4
        ingest.commit(blob, 4)
    assert store.read(blob) == b"data"


_WRITER = """
import hashlib, sys
from pathlib import Path
from pyengine.state.content import ContentStore
expected = "sha256:" + hashlib.sha256(b"abcdef" * 1000).hexdigest()
store = ContentStore(Path(sys.argv[1]))
with store.ingest(expected) as ingest:
    ingest.write((b"abcdef" * 1000)[ingest.size:])
    ingest.commit(expected, 6000)
"""


def test_killed_at_any_step(tmp_path: Path) -> None:
    """Whatever step was the last one, the next attempt ends with the blob and nothing else."""
    wanted = digest(b"abcdef" * 1000)
    kills = 0
    for step in range(1, 50):
        root, faults = tmp_path / f"root{step}", tmp_path / f"faults{step}"
        faults.mkdir()
        (faults / "kill").write_text(f"daemon {step}")
        killed = subprocess.run(
            [sys.executable, "-c", _WRITER, str(root)],
            env=os.environ | {"PYENGINE_FAULTS": str(faults)},
            timeout=30,
            check=False,
        )
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL
        kills += 1
        store = ContentStore(root)
        assert all(store.intact(blob) for blob in store.blobs())
        subprocess.run([sys.executable, "-c", _WRITER, str(root)], timeout=30, check=True)
        assert store.blobs() == {wanted: 6000}
        assert store.partial() == []
    assert kills >= 4
