"""``pyengine content`` and ``pyengine snapshot``: blobs, and the layers unpacked of them."""

from __future__ import annotations

from pyengine.cli import table, units
from pyengine.cli.client import ApiError, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORMAT = Flag("format", "", "string", table.FORMAT_HELP)
_NO_TRUNC = Flag("no-trunc", "", "bool", "Don't truncate output")


class BlobRow(Row):
    """A blob as ``--format`` sees it."""

    HEADERS = {
        "Digest": "DIGEST",
        "Size": "SIZE",
        "MediaType": "MEDIA TYPE",
        "DiffID": "DIFF ID",
        "Sources": "SOURCES",
        "UsedBy": "USED BY",
    }
    type_name = "*formatter.contentContext"

    def __init__(self, blob: dict[str, Any], trunc: bool) -> None:
        self._b = blob
        self._trunc = trunc

    def Digest(self) -> str:
        digest = str(self._b["Digest"])
        return table.short_id(digest) if self._trunc else digest

    def Size(self) -> str:
        return units.human_size(self._b["Size"])

    def MediaType(self) -> str:
        return str(self._b["MediaType"])

    def DiffID(self) -> str:
        diff_id = str(self._b["DiffID"])
        return table.short_id(diff_id) if self._trunc else diff_id

    def Sources(self) -> str:
        return ",".join(self._b["Sources"])

    def UsedBy(self) -> str:
        users = ", ".join(self._b["UsedBy"])
        return table.ellipsis(users, 40) if self._trunc else users


@command(
    "[OPTIONS]",
    "List the blobs in the content store",
    [
        _FORMAT,
        _NO_TRUNC,
        Flag("quiet", "q", "bool", "Only display digests"),
    ],
    at_most=0,
)
def ls(session: Session, options: Options, _: list[str]) -> None:
    format = table.choose_format(
        options["format"],
        "table {{.Digest}}\t{{.Size}}\t{{.MediaType}}\t{{.UsedBy}}",
        options["quiet"],
        "{{.Digest}}",
    )
    blobs = session.client.get("/pyengine/content")
    trunc = not options["no-trunc"]
    table.show(format, [BlobRow(blob, trunc) for blob in blobs], BlobRow.HEADERS)


@command(
    "[OPTIONS] DIGEST",
    "Write a blob to a file or to STDOUT",
    [Flag("output", "o", "string", "Write to a file, instead of STDOUT")],
    at_least=1,
    at_most=1,
)
def get(session: Session, options: Options, arguments: list[str]) -> None:
    from pyengine.cli.output import write_stream

    write_stream(
        lambda: session.client.open("GET", f"/pyengine/content/{quote(arguments[0])}"),
        options["output"],
        "failed to get content",
        "cowardly refusing to write to a terminal. Use the -o flag or redirect",
    )


@command("DIGEST [DIGEST...]", "Remove blobs that nothing uses", at_least=1)
def rm(session: Session, _: Options, digests: list[str]) -> None:
    errors = []
    for digest in digests:
        try:
            answer = session.client.delete(f"/pyengine/content/{quote(digest)}")
        except ApiError as error:
            errors.append(str(error))
        else:
            print(answer["Deleted"], flush=True)
    if errors:
        raise CommandError("\n".join(errors))


class ProblemRow(Row):
    """What fsck found, as ``--format`` sees it."""

    HEADERS = {"Kind": "PROBLEM", "What": "WHAT", "Detail": "DETAIL"}
    type_name = "*formatter.fsckContext"

    def __init__(self, problem: dict[str, Any]) -> None:
        self._p = problem

    def Kind(self) -> str:
        return str(self._p["Kind"])

    def What(self) -> str:
        return str(self._p["What"])

    def Detail(self) -> str:
        return str(self._p["Detail"])


@command(
    "[OPTIONS]",
    "Check blobs, images and layers against each other",
    [
        _FORMAT,
        Flag("quick", "", "bool", "Do not read the blobs again"),
    ],
    at_most=0,
)
def fsck(session: Session, options: Options, _: list[str]) -> int:
    """Exit status 1 if something is wrong."""
    format = table.choose_format(
        options["format"], "table {{.Kind}}\t{{.What}}\t{{.Detail}}", quiet=False
    )
    found = session.client.get("/pyengine/content/fsck", {"quick": options["quick"]})
    if found:
        table.show(format, [ProblemRow(problem) for problem in found], ProblemRow.HEADERS)
        return 1
    if not options["format"]:
        print("nothing is wrong")
    return 0


class SnapshotRow(Row):
    """A layer as ``--format`` sees it."""

    HEADERS = {
        "ID": "SNAPSHOT ID",
        "Parent": "PARENT",
        "Kind": "KIND",
        "Driver": "DRIVER",
        "ChainID": "CHAIN ID",
        "DiffID": "DIFF ID",
        "Size": "SIZE",
        "UsedBy": "USED BY",
    }
    type_name = "*formatter.snapshotContext"

    def __init__(self, snapshot: dict[str, Any], trunc: bool) -> None:
        self._s = snapshot
        self._trunc = trunc

    def _id(self, name: str) -> str:
        text = str(self._s[name])
        return table.short_id(text) if self._trunc else text

    def ID(self) -> str:
        return self._id("ID")

    def Parent(self) -> str:
        return self._id("Parent")

    def Kind(self) -> str:
        return str(self._s["Kind"])

    def Driver(self) -> str:
        return str(self._s["Driver"])

    def ChainID(self) -> str:
        return self._id("ChainID")

    def DiffID(self) -> str:
        return self._id("DiffID")

    def Size(self) -> str:
        return units.human_size(self._s["Size"])

    def UsedBy(self) -> str:
        users = ", ".join(self._s["UsedBy"])
        return table.ellipsis(users, 40) if self._trunc else users


@command(
    "[OPTIONS]",
    "List the layers of images and containers in the storage drivers",
    [
        _FORMAT,
        _NO_TRUNC,
        Flag("quiet", "q", "bool", "Only display IDs"),
    ],
    at_most=0,
)
def snapshot_ls(session: Session, options: Options, _: list[str]) -> None:
    format = table.choose_format(
        options["format"],
        "table {{.ID}}\t{{.Parent}}\t{{.Kind}}\t{{.Driver}}\t{{.Size}}\t{{.UsedBy}}",
        options["quiet"],
    )
    found = session.client.get("/pyengine/snapshots")
    trunc = not options["no-trunc"]
    table.show(format, [SnapshotRow(one, trunc) for one in found], SnapshotRow.HEADERS)


class UsageRow(Row):
    """Sums of one storage driver, as ``--format`` sees them."""

    HEADERS = {
        "Driver": "DRIVER",
        "Kind": "KIND",
        "Count": "COUNT",
        "Size": "SIZE",
        "Unused": "UNUSED",
    }
    type_name = "*formatter.snapshotUsageContext"

    def __init__(self, usage: dict[str, Any]) -> None:
        self._u = usage

    def Driver(self) -> str:
        return str(self._u["Driver"])

    def Kind(self) -> str:
        return str(self._u["Kind"])

    def Count(self) -> str:
        return str(self._u["Count"])

    def Size(self) -> str:
        return units.human_size(self._u["Size"])

    def Unused(self) -> str:
        return units.human_size(self._u["Unused"])


@command(
    "[OPTIONS]",
    "Show how much the layers of each storage driver take",
    [_FORMAT],
    at_most=0,
)
def snapshot_usage(session: Session, options: Options, _: list[str]) -> None:
    format = table.choose_format(
        options["format"],
        "table {{.Driver}}\t{{.Kind}}\t{{.Count}}\t{{.Size}}\t{{.Unused}}",
        quiet=False,
    )
    found = session.client.get("/pyengine/snapshots/usage")
    table.show(format, [UsageRow(one) for one in found], UsageRow.HEADERS)
