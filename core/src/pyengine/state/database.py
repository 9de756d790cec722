"""Records in SQLite: one writer thread, one transaction per commit, durable when it returns.

Every table is ``(key TEXT PRIMARY KEY, body BLOB)`` with a msgspec struct as JSON in ``body``.
Readers use the services' own snapshots in memory; the file is read once, at start. WAL with
``synchronous=FULL``: what :meth:`Database.commit` returned for survives a power cut
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pyengine.errors import EngineError
from pyengine.faults import failpoint

T = TypeVar("T")

SCHEMA_VERSION = 1


class Put(msgspec.Struct, frozen=True):
    """Insert or replace ``value`` (a msgspec struct) under ``key``."""

    table: str
    key: str
    value: Any


class Delete(msgspec.Struct, frozen=True):
    """Remove ``key``; absent is fine."""

    table: str
    key: str


Change = Put | Delete
#: Statements, the tables they need, and who waits.
_Job = tuple[list[tuple[str, tuple[Any, ...]]], set[str], "Future[None]"]


class Database:
    """The engine's database file. Not inherited by forks: the daemon never forks containers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._tables: set[str] = set()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise EngineError(
                f"{path} was written by a newer pyengine",
                f"schema {version}, this one knows {SCHEMA_VERSION}",
                "upgrade pyengine-core, or use another --data-root",
            )
        self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        for (name,) in self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type='table'"
        ):
            self._tables.add(name)
        os.chmod(path, 0o600)
        self._thread = threading.Thread(target=self._write, name="database", daemon=True)
        self._thread.start()

    def tables(self, prefix: str) -> list[str]:
        """Tables whose name begins with ``prefix``. For the start only."""
        return sorted(table for table in self._tables if table.startswith(prefix))

    def load(self, table: str, type: type[T]) -> dict[str, T]:
        """All records of ``table`` by key, in order of insertion. For the start only."""
        if table not in self._tables:
            return {}
        decoder = msgspec.json.Decoder(type)
        rows = self._connection.execute(f'SELECT key, body FROM "{table}" ORDER BY rowid')
        return {key: decoder.decode(body) for key, body in rows}

    async def commit(self, *changes: Change) -> None:
        """Write all ``changes`` in one transaction; on return they are on disk.

        Structs are encoded before this returns to the loop, so they may change afterwards.
        """
        await asyncio.shield(asyncio.wrap_future(self._submit(changes)))

    def commit_soon(self, *changes: Change) -> None:
        """As :meth:`commit` without waiting; later commits come after it. For what may be lost in
        a crash because the next start finds it out anyway."""
        self._submit(changes)

    def close(self) -> None:
        """Write what is queued, then close."""
        self._queue.put(None)
        self._thread.join(timeout=10)
        self._connection.close()

    def _submit(self, changes: Sequence[Change]) -> Future[None]:
        statements: list[tuple[str, tuple[Any, ...]]] = []
        tables = {change.table for change in changes}
        for change in changes:
            if change.table not in self._tables:
                statements.append(
                    (
                        f'CREATE TABLE IF NOT EXISTS "{change.table}"'
                        " (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
                        (),
                    )
                )
            if isinstance(change, Put):
                statements.append(
                    (
                        f'INSERT INTO "{change.table}" (key, body) VALUES (?, ?)'
                        " ON CONFLICT (key) DO UPDATE SET body = excluded.body",
                        (change.key, msgspec.json.encode(change.value)),
                    )
                )
            else:
                statements.append((f'DELETE FROM "{change.table}" WHERE key = ?', (change.key,)))
        done: Future[None] = Future()
        self._queue.put((statements, tables, done))
        return done

    def _write(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs = [job]
            closing = False
            # Several callers waiting: one transaction, one fsync for all of them.
            while not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    closing = True
                    break
                jobs.append(more)
            self._transaction(jobs)
            if closing:
                return

    def _transaction(self, jobs: list[_Job]) -> None:
        try:
            failpoint("database.begin")
            self._connection.execute("BEGIN IMMEDIATE")
            for statements, _, _ in jobs:
                for sql, arguments in statements:
                    self._connection.execute(sql, arguments)
            failpoint("database.commit")
            self._connection.execute("COMMIT")
            failpoint("database.committed")
        except Exception as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            failure = EngineError(
                "the engine's database cannot be written",
                str(error),
                f"is there room at {self._path}?",
            )
            for _, _, done in jobs:
                done.set_exception(failure)
        else:
            # Not before: one that was rolled back has to be made again.
            for _, tables, done in jobs:
                self._tables |= tables
                done.set_result(None)
