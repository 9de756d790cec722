"""JSON lines to what the container wrote, a block of the file at a time.

A step of Python per character or per field would cost ten times what the container took to write
it. So a block is split at what stands between two records, each record at what stands between its
text and its end; the texts are joined again and handed to a C parser as one JSON string, which
undoes the escapes and finds any damage. Only then are records looked at one by one.
"""

from __future__ import annotations

import json
import re
from calendar import timegm
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote_plus

import msgspec

from pyengine.bases.logreader import LONGEST_CHUNK, cut_chunk
from pyengine.contracts.logging import STDERR, STDOUT, LogChunk, LogQuery
from pyengine_log_json_file.encode import timestamp

#: No block may be longer than a chunk: what comes out is never longer than what went in.
BLOCK = LONGEST_CHUNK

_BEGIN = b'{"log":"'
_STREAM = b'","stream":"'
_BETWEEN = b'"}\n' + _BEGIN
_STREAMS = {"stdout": STDOUT, "stderr": STDERR}
#: The rest of a record after ``_STREAM``, as dockerd and this package write it.
_REST = re.compile(rb'(stdout|stderr)"(?:,"attrs":(\{.*\}))?,"time":"(\d{4}-\d\d-\d\dT[-+:.\dZ]+)')
#: The rests of many records without attributes, all of one stream.
_PLAIN = {
    STDOUT: re.compile(rb'(?:stdout","time":"[-:.T\d]{19,29}(?:Z\n|Z$))*'),
    STDERR: re.compile(rb'(?:stderr","time":"[-:.T\d]{19,29}(?:Z\n|Z$))*'),
}
#: Where the time, and its seconds, are in the rest of such a record.
_TIME, _SECOND = slice(16, None), slice(16, 35)
_CACHED = 1024

_string = msgspec.json.Decoder(str)
_text, _rest = itemgetter(0), itemgetter(2)
#: Text, ``_STREAM``, rest: what ``bytes.partition`` makes of a record.
_Parts = tuple[bytes, bytes, bytes]


class _Rest:
    """What a query makes of the rest of a record. Records of one write have the same."""

    __slots__ = ("prefix", "shown", "stream", "time")

    def __init__(self, stream: int, time: bytes, attrs: dict[str, str], query: LogQuery) -> None:
        self.stream = stream
        self.time = parse_time(time)
        self.shown = (
            (query.stdout if stream == STDOUT else query.stderr)
            and self.time >= query.since
            and (not query.until or self.time <= query.until)
        )
        self.prefix = b""
        if query.timestamps:
            self.prefix = _fixed(time) + b" "
        if query.details:
            pairs = (f"{quote_plus(key)}={quote_plus(attrs[key])}" for key in sorted(attrs))
            self.prefix += ",".join(pairs).encode() + b" "


class Decoder:
    """For one query. ``decode`` takes whole lines; only a cache lives from call to call."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._rests: dict[bytes, _Rest | None] = {}
        # What whole blocks are compared with: records of these seconds need a closer look.
        self._since = timestamp(query.since)[:19] if query.since else b""
        self._until = timestamp(query.until)[:19] if query.until else b"~"

    def decode(self, block: bytes) -> Iterator[LogChunk]:
        """Yield what ``block`` (ending in a newline) holds for the query, in order."""
        while not block.startswith(_BEGIN):
            line, _, block = block.partition(b"\n")
            yield from self._slowly(line)
            if not block:
                return
        damaged = b""
        if not block.endswith(b'"}\n'):
            cut = block.rfind(b"\n", 0, -1) + 1
            block, damaged = block[:cut], block[cut:-1]
        if block:
            records = block[len(_BEGIN) : -3].split(_BETWEEN)
            yield from self._records([record.partition(_STREAM) for record in records])
        if damaged:
            yield from self._slowly(damaged)

    def _records(self, records: list[_Parts]) -> Iterator[LogChunk]:
        texts: list[bytes]
        rests = {record[2] for record in records}
        stream = self._one_stream(rests)
        if stream:
            first = min(rest[_SECOND] for rest in rests)
            last = max(rest[_SECOND] for rest in rests)
            if last < self._since or first > self._until or not self._wanted(stream):
                return
            if first > self._since and last < self._until:
                if self._query.timestamps:
                    shown = {rest: _fixed(rest[_TIME]) + b" " for rest in rests}
                    texts = [shown[record[2]] + record[0] for record in records]
                else:
                    texts = [record[0] for record in records]
                data = _unescape(b"".join(texts))
                if data is not None:
                    yield from cut_chunk(stream, data, parse_time(records[-1][2][_TIME]))
                    return
        held: list[_Parts] = []
        texts = []
        stream = time = 0
        for key, group in groupby(records, key=_rest):
            rest = self._rest(key)
            if rest is not None and not rest.shown:
                continue
            if held and (rest is None or rest.stream != stream):
                yield from self._release(held, texts, stream, time)
                held, texts = [], []
            run = list(group)
            if rest is None:
                for record in run:
                    for line in _line(record).split(b"\n"):
                        yield from self._slowly(line)
                continue
            stream, time = rest.stream, rest.time
            held += run
            texts.append(rest.prefix)
            texts.append(rest.prefix.join(map(_text, run)))
        if held:
            yield from self._release(held, texts, stream, time)

    def _one_stream(self, rests: set[bytes]) -> int:
        """The stream of all records with these rests, if they are of the plain kind; or 0."""
        if not self._query.details:
            for stream, plain in _PLAIN.items():
                if plain.fullmatch(b"\n".join(rests)):
                    return stream
        return 0

    def _wanted(self, stream: int) -> bool:
        return self._query.stdout if stream == STDOUT else self._query.stderr

    def _release(
        self, records: Sequence[_Parts], texts: list[bytes], stream: int, time: int
    ) -> Iterator[LogChunk]:
        data = _unescape(b"".join(texts))
        if data is not None:
            yield from cut_chunk(stream, data, time)
            return
        for record in records:
            for line in _line(record).split(b"\n"):
                yield from self._slowly(line)

    def _slowly(self, line: bytes) -> Iterator[LogChunk]:
        """One line that may be anything: a record in another order of fields, or damage."""
        try:
            record = json.loads(line)
            attrs = {str(key): str(value) for key, value in (record.get("attrs") or {}).items()}
            stream = _STREAMS[record["stream"]]
            rest = _Rest(stream, record["time"].encode(), attrs, self._query)
            text = record.get("log", "").encode("utf-8", "replace")
        except (ValueError, KeyError, AttributeError, TypeError):
            return
        if rest.shown and text:
            yield LogChunk(stream, rest.prefix + text, rest.time)

    def _rest(self, text: bytes) -> _Rest | None:
        try:
            return self._rests[text]
        except KeyError:
            pass
        rest = None
        match = _REST.fullmatch(text)
        if match:
            stream, attrs, time = match.groups()
            try:
                parsed = msgspec.json.decode(attrs, type=dict[str, str]) if attrs else {}
                rest = _Rest(_STREAMS[stream.decode()], time, parsed, self._query)
            except (msgspec.DecodeError, ValueError):
                rest = None
        if len(self._rests) >= _CACHED:
            self._rests.clear()
        self._rests[text] = rest
        return rest


def _line(record: _Parts) -> bytes:
    return _BEGIN + b"".join(record) + b'"}'


def _unescape(text: bytes) -> bytes | None:
    """The JSON string with ``text`` between its quotes; None if it cannot stand there."""
    try:
        return _string.decode(b'"' + text + b'"').encode()
    except (msgspec.DecodeError, UnicodeError):
        return None


def parse_time(text: bytes) -> int:
    """RFC 3339 to ns since the epoch; ``ValueError`` if it is something else."""
    if text[-1:] != b"Z" or text[10:11] != b"T":
        moment = datetime.fromisoformat(text.decode()).astimezone(UTC)
        return timegm(moment.timetuple()) * 1_000_000_000 + moment.microsecond * 1000
    global _last_second
    second, epoch = _last_second
    if text[:19] != second:
        second = text[:19]
        moment = datetime.fromisoformat(second.decode()).replace(tzinfo=UTC)
        epoch = timegm(moment.timetuple()) * 1_000_000_000
        _last_second = second, epoch
    fraction = text[20:-1]
    return epoch + int(fraction.ljust(9, b"0")[:9]) if fraction else epoch


#: Its text and its ns; one object, as readers run on several threads.
_last_second: tuple[bytes, int] = (b"", 0)


def _fixed(time: bytes) -> bytes:
    """The form of ``docker logs -t``: UTC with always nine digits."""
    if time[-1:] != b"Z":
        seconds, fraction = divmod(parse_time(time), 1_000_000_000)
        whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return whole.encode() + b".%09dZ" % fraction
    return time[:19] + b"." + time[20:-1].ljust(9, b"0") + b"Z"
