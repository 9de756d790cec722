"""Records: durable, in one transaction, in order, and nothing half."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from pyengine.errors import EngineError
from pyengine.state.database import Database, Delete, Put


class Thing(msgspec.Struct):
    name: str
    number: int = 0


class Unencodable(msgspec.Struct):
    value: object


def load(path: Path, table: str = "things") -> dict[str, Thing]:
    database = Database(path)
    try:
        return database.load(table, Thing)
    finally:
        database.close()


async def test_what_was_committed_is_there_again_in_order(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    await database.commit(Put("things", "b", Thing("b", 1)), Put("things", "a", Thing("a", 2)))
    await database.commit(Put("things", "b", Thing("b", 3)), Put("others", "x", Thing("x")))
    await database.commit(Delete("things", "a"), Delete("things", "absent"))
    database.close()
    assert load(tmp_path / "db") == {"b": Thing("b", 3)}
    assert load(tmp_path / "db", "others") == {"x": Thing("x")}
    assert load(tmp_path / "db", "nonesuch") == {}


async def test_order_is_of_insertion_not_of_replacement(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    for key in "cab":
        await database.commit(Put("things", key, Thing(key)))
    await database.commit(Put("things", "c", Thing("c", 9)))
    database.close()
    assert list(load(tmp_path / "db")) == ["c", "a", "b"]


async def test_a_struct_may_change_after_the_call(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    thing = Thing("x", 1)
    database.commit_soon(Put("things", "x", thing))
    thing.number = 2
    database.close()
    assert load(tmp_path / "db")["x"].number == 1


async def test_many_at_once_share_transactions(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    began = time.monotonic()
    await asyncio.gather(
        *(database.commit(Put("things", str(n), Thing("x", n))) for n in range(500))
    )
    assert time.monotonic() - began < 5
    database.close()
    assert len(load(tmp_path / "db")) == 500


async def test_a_commit_that_fails_says_so_and_later_ones_work(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    await database.commit(Put("things", "a", Thing("a")))
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("DROP TABLE things")
    with pytest.raises(EngineError, match="the engine's database cannot be written") as error:
        await database.commit(Put("new", "x", Thing("x")), Put("things", "b", Thing("b")))
    assert "no such table" in error.value.detail
    await database.commit(Put("fine", "c", Thing("c")))
    database.close()
    assert load(tmp_path / "db", "new") == {}, "all of a transaction or nothing"
    assert load(tmp_path / "db", "fine") == {"c": Thing("c")}


async def test_what_cannot_be_encoded_is_refused_at_the_call(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with pytest.raises(TypeError):
        await database.commit(Put("things", "a", Unencodable(object())))
    await database.commit(Put("things", "a", Thing("a")))
    database.close()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(EngineError, match="was written by a newer pyengine") as error:
        Database(tmp_path / "db")
    assert "schema 99" in error.value.detail


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


KILLED = """
import asyncio, sys
from pathlib import Path
import msgspec
from pyengine.state.database import Database, Put
class Thing(msgspec.Struct):
    name: str
    number: int = 0
async def main():
    database = Database(Path(sys.argv[1]))
    for number in range(10**6):
        await database.commit(Put("things", str(number), Thing("x", number)),
                              Put("pairs", str(number), Thing("y", number)))
        print(number, flush=True)
asyncio.run(main())
"""


def test_after_a_kill_everything_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "db")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = 50 + len(process.communicate()[0].splitlines())
    things, pairs = load(tmp_path / "db"), load(tmp_path / "db", "pairs")
    assert len(things) >= acknowledged
    assert things.keys() == pairs.keys()
