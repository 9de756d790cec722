"""Commands on images: images, history, import, load, save, tag, rmi."""

from __future__ import annotations

import sys
import time

from pyengine.cli import platforms, reference, table, units
from pyengine.cli.client import ApiError, CommandError, filters, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

_EPOCH_2000 = 946684800


class ImageRow(Row):
    """One name of an image as ``--format`` sees it."""

    HEADERS = {
        "ID": "IMAGE ID",
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "VirtualSize": "SIZE",
        "Containers": "CONTAINERS",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
    }
    type_name = "*formatter.imageContext"

    def __init__(
        self, image: dict[str, Any], repository: str, tag: str, digest: str, trunc: bool
    ) -> None:
        self._i, self._trunc = image, trunc
        self._repository, self._tag, self._digest = repository, tag, digest

    def ID(self) -> str:
        return table.short_id(self._i["Id"]) if self._trunc else str(self._i["Id"])

    def Repository(self) -> str:
        return self._repository

    def Tag(self) -> str:
        return self._tag

    def Digest(self) -> str:
        return self._digest

    def CreatedSince(self) -> str:
        return units.human_duration(time.time() - self._i["Created"]) + " ago"

    def CreatedAt(self) -> str:
        return units.go_time(self._i["Created"])

    def Size(self) -> str:
        return units.human_size(self._i["Size"], 3)

    def VirtualSize(self) -> str:
        return units.human_size(self._i.get("VirtualSize") or self._i["Size"])

    def Containers(self) -> str:
        count = self._i.get("Containers", -1)
        return "N/A" if count == -1 else str(count)

    def SharedSize(self) -> str:
        shared = self._i.get("SharedSize", -1)
        return "N/A" if shared == -1 else units.human_size(shared)

    def UniqueSize(self) -> str:
        shared = self._i.get("SharedSize", -1)
        return "N/A" if shared == -1 else units.human_size(self._i["Size"] - shared)


def familiar(name: str) -> str:
    """A name without the default registry."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def image_rows(image: dict[str, Any], trunc: bool, digests: bool) -> Iterator[ImageRow]:
    """A row per tag (per tag and digest with ``digests``), and one for each untagged digest."""
    tags: dict[str, list[str]] = {}
    by_digest: dict[str, list[str]] = {}
    for tagged in image.get("RepoTags") or []:
        if tagged != "<none>:<none>":
            name, _, tag = tagged.rpartition(":")
            tags.setdefault(familiar(name), []).append(tag)
    for digested in image.get("RepoDigests") or []:
        if digested != "<none>@<none>":
            name, _, digest = digested.partition("@")
            by_digest.setdefault(familiar(name), []).append(digest)
    if not tags and not by_digest:
        yield ImageRow(image, "<none>", "<none>", "<none>", trunc)
    for name, names in tags.items():
        known = by_digest.pop(name, [])
        for tag in names:
            for digest in (known if digests else None) or ["<none>"]:
                yield ImageRow(image, name, tag, digest, trunc)
    for name, left in by_digest.items():
        for digest in left if digests else [""]:
            yield ImageRow(image, name, "<none>", digest, trunc)


_IMAGES = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_IMAGES_DIGEST = (
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
)


@command(
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    [
        Flag("all", "a", "bool", "Show all images (default hides intermediate images)"),
        Flag("digests", "", "bool", "Show digests"),
        Flag("filter", "f", "filter", "Filter output based on conditions provided"),
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("quiet", "q", "bool", "Only show image IDs"),
        Flag("tree", "", "bool", "List multi-platform images as a tree"),
    ],
    at_most=1,
)
def images(session: Session, options: Options, arguments: list[str]) -> None:
    if options["tree"]:
        _tree(session, options, arguments)
        return
    given = options["format"] or str(session.config().get("imagesFormat") or "")
    default = _IMAGES_DIGEST if options["digests"] else _IMAGES
    format = table.choose_format(given, default, options["quiet"])
    wanted = filters([*options["filter"], *(f"reference={name}" for name in arguments)])
    query = {"all": options["all"], "filters": wanted}
    found = session.client.get("/images/json", query)
    digests = options["digests"] or "{{.Digest}}" in format
    rows: list[Row] = []
    for image in found:
        rows += image_rows(image, not options["no-trunc"], digests)
    table.show(format, rows, ImageRow.HEADERS)


def _tree(session: Session, options: Options, arguments: list[str]) -> None:
    from pyengine.cli import imagetree

    for flag, name in (
        *(("no-trunc", "no-trunc"), ("quiet", "quiet"), ("digests", "show-digest")),
        ("format", "format"),
    ):
        if options[flag]:
            raise CommandError(f"--{name} is not yet supported with --tree")
    wanted = filters([*options["filter"], *(f"reference={name}" for name in arguments)])
    query = {"all": options["all"], "filters": wanted, "manifests": True}
    found = session.client.get("/images/json", query)
    if not options["all"]:
        found = [image for image in found if image.get("RepoTags") or image.get("RepoDigests")]
    sys.stdout.write(imagetree.render(found))


class HistoryRow(Row):
    """One step of an image's history as ``--format`` sees it."""

    HEADERS = {
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    }
    type_name = "*image.historyContext"

    def __init__(self, step: dict[str, Any], trunc: bool, human: bool) -> None:
        self._h, self._trunc, self._human = step, trunc, human

    def ID(self) -> str:
        return table.short_id(self._h["Id"]) if self._trunc else str(self._h["Id"])

    def CreatedAt(self) -> str:
        local = time.localtime(self._h["Created"])
        zone = time.strftime("%z", local)
        zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
        return time.strftime("%Y-%m-%dT%H:%M:%S", local) + zone

    def CreatedSince(self) -> str:
        if not self._human:
            return self.CreatedAt()
        if self._h["Created"] <= _EPOCH_2000:
            return "N/A"
        return units.human_duration(time.time() - self._h["Created"]) + " ago"

    def CreatedBy(self) -> str:
        text = str(self._h.get("CreatedBy") or "").replace("\t", " ")
        return table.ellipsis(text, 45) if self._trunc else text

    def Size(self) -> str:
        size = self._h.get("Size") or 0
        return units.human_size(size, 3) if self._human else str(size)

    def Comment(self) -> str:
        return str(self._h.get("Comment") or "")


@command(
    "[OPTIONS] IMAGE",
    "Show the history of an image",
    [
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("human", "H", "bool", "Print sizes and dates in human readable format", default=True),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("platform", "", "string", "Show history for the given platform"),
        Flag("quiet", "q", "bool", "Only show image IDs"),
    ],
    at_least=1,
    at_most=1,
)
def history(session: Session, options: Options, arguments: list[str]) -> None:
    when = "CreatedSince" if options["human"] else "CreatedAt"
    default = (
        f"table {{{{.ID}}}}\t{{{{.{when}}}}}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}"
    )
    format = table.choose_format(options["format"], default, options["quiet"])
    query = {"platform": platforms.parse(options["platform"])}
    steps = session.client.get(f"/images/{quote(arguments[0])}/history", query)
    rows = [HistoryRow(step, not options["no-trunc"], options["human"]) for step in steps]
    table.show(format, rows, HistoryRow.HEADERS)


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise CommandError(f"open {path}: {str(error.strerror).lower()}")


@command(
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Import the contents from a tarball to create a filesystem image",
    [
        Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
        Flag("message", "m", "string", "Set commit message for imported image"),
        Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
    ],
    at_least=1,
    at_most=2,
    creates=True,
)
def import_image(session: Session, options: Options, arguments: list[str]) -> None:
    from pyengine.cli import progress

    source, repository = arguments[0], arguments[1] if len(arguments) > 1 else ""
    remote = "://" in source
    query = {
        "fromSrc": source if remote else "-",
        "repo": repository,
        "message": options["message"],
        "platform": platforms.wanted(options),
        "changes": options["change"],
    }
    client = session.client
    if remote:
        response = client.open("POST", "/images/create", query)
    else:
        file = sys.stdin.buffer if source == "-" else _open(source)
        kind = {"Content-Type": "application/x-tar"}
        with file:
            sent = progress.upload(file, sys.stdout)
            response = client.open("POST", "/images/create", query, headers=kind, stream=sent)
    progress.show(response, sys.stdout)


@command(
    "[OPTIONS]",
    "Load an image from a tar archive or STDIN",
    [
        Flag("input", "i", "string", "Read from tar archive file, instead of STDIN"),
        Flag("platform", "", "string", "Load only the given platform variant"),
        Flag("quiet", "q", "bool", "Suppress the load output"),
    ],
    at_most=0,
    creates=True,
)
def load(session: Session, options: Options, _: list[str]) -> None:
    from pyengine.cli import progress

    if not options["input"] and sys.stdin.isatty():
        raise CommandError("requested load from stdin, but stdin is empty")
    client = session.client
    # What is shown is how much has been sent, and that is known here: the engine may be quiet.
    query = {"quiet": True, "platform": platforms.parse(options["platform"])}
    kind = {"Content-Type": "application/x-tar"}
    with _open(options["input"]) if options["input"] else sys.stdin.buffer as file:
        sent = progress.upload(file, None if options["quiet"] else sys.stdout)
        response = client.open("POST", "/images/load", query, headers=kind, stream=sent)
    progress.show(response, sys.stdout)


@command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    [
        Flag("output", "o", "string", "Write to a file, instead of STDOUT"),
        Flag("platform", "", "string", "Save only the given platform variant"),
    ],
    at_least=1,
)
def save(session: Session, options: Options, names: list[str]) -> None:
    from pyengine.cli.output import write_stream

    query = {"names": names, "platform": platforms.parse(options["platform"])}
    write_stream(
        lambda: session.client.open("GET", "/images/get", query),
        options["output"],
        "failed to save image",
        "cowardly refusing to save to a terminal. Use the -o flag or redirect",
    )


@command(
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    at_least=2,
    at_most=2,
)
def tag(session: Session, _: Options, arguments: list[str]) -> None:
    source, target = arguments
    if "@" in target:
        raise CommandError("refusing to create a tag with a digest reference")
    try:
        reference.check(target)
    except ValueError as error:
        raise CommandError(
            f'Error parsing reference: "{target}" is not a valid repository/tag: {error}'
        )
    name, label = reference.split(target)
    session.client.post(f"/images/{quote(source)}/tag", {"repo": name, "tag": label or "latest"})


@command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    [
        Flag("force", "f", "bool", "Force removal of the image"),
        Flag("no-prune", "", "bool", "Do not delete untagged parents"),
        Flag("platform", "", "strings", "Remove only the given platform variant"),
    ],
    at_least=1,
)
def rmi(session: Session, options: Options, names: list[str]) -> None:
    query = {
        "force": options["force"],
        "noprune": options["no-prune"],
        "platforms": [platforms.parse(name) for name in options["platform"]],
    }
    errors, fatal = [], False
    for name in names:
        try:
            deleted = session.client.delete(f"/images/{quote(name)}", query) or []
        except ApiError as error:
            fatal = fatal or error.status != 404
            errors.append(str(error))
            continue
        for step in deleted:
            if step.get("Deleted"):
                print("Deleted:", step["Deleted"])
            else:
                print("Untagged:", step["Untagged"])
    if errors:
        sys.stdout.flush()
        if fatal or not options["force"]:
            raise CommandError("\n".join(errors))
        print("\n".join(errors), file=sys.stderr)
