"""The content store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pyengine.errors import InvalidParameter, NotFound
from pyengine.state.content import ContentStore


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_write_and_read(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    assert store.write(b"hello") == store.write(b"hello") == digest(b"hello")
    assert ContentStore(tmp_path).read(digest(b"hello")) == b"hello"
    assert store.path(digest(b"hello")) == tmp_path / "blobs/sha256" / digest(b"hello")[7:]
    with store.open(digest(b"hello")) as file:
        assert file.read() == b"hello"
    store.remove(digest(b"hello"))
    store.remove(digest(b"hello"))
    assert not store.has(digest(b"hello"))
    with pytest.raises(NotFound):
        store.read(digest(b"hello"))


def test_what_is_not_as_expected_is_not_kept(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    for expected, size in ((digest(b"other"), -1), (digest(b"data"), 5)):
        with store.ingest() as ingest:
            ingest.write(b"da")
            ingest.write(memoryview(b"ta"))
            with pytest.raises(InvalidParameter):
                ingest.commit(expected, size)
    assert not store.has(digest(b"data"))
    assert list((tmp_path / "ingest").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:../x", "md5:00", "sha256:AB"])
def test_names_are_digests(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter):
        ContentStore(tmp_path).path(name)


def test_sweep(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    kept, gone = store.write(b"kept"), store.write(b"gone")
    (tmp_path / "ingest" / "half").write_bytes(b"...")
    assert set(store.sweep({kept})) == {gone[7:], "half"}
    assert store.read(kept) == b"kept"
    assert store.sweep({kept}) == []
