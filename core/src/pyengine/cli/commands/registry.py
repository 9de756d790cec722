"""``pyengine pull`` and ``pyengine push``."""

from __future__ import annotations

import sys

from pyengine.cli import credentials, platforms, progress, reference
from pyengine.cli.client import CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session


def _split(image: str) -> tuple[str, str]:
    try:
        reference.check(image)
    except ValueError as error:
        raise CommandError(str(error))
    return reference.split(image)


@command(
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    [
        Flag("all-tags", "a", "bool", "Download all tagged images in the repository"),
        Flag("disable-content-trust", "", "bool", "Skip image verification", default=True),
        Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
        Flag("quiet", "q", "bool", "Suppress verbose output"),
    ],
    at_least=1,
    at_most=1,
    creates=True,
)
def pull(session: Session, options: Options, arguments: list[str]) -> None:
    image = arguments[0]
    _, tag = _split(image)
    if options["all-tags"] and tag:
        raise CommandError("tag can't be used with --all-tags/-a")
    if not tag and not options["all-tags"] and not options["quiet"]:
        print("Using default tag: latest", flush=True)
    progress.show_pull(
        session,
        image,
        platforms.wanted(options),
        quiet=options["quiet"],
        out=sys.stdout,
        all_tags=options["all-tags"],
    )
    print(_whole(image, options["all-tags"]))


def _whole(image: str, all_tags: bool) -> str:
    """The full name, with registry and tag."""
    name, tag = reference.split(image)
    whole = reference.normalize(name)
    return whole if all_tags else f"{whole}{'@' if '@' in image else ':'}{tag or 'latest'}"


@command(
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    [
        Flag("all-tags", "a", "bool", "Push all tags of an image to the repository"),
        Flag("disable-content-trust", "", "bool", "Skip image signing", default=True),
        Flag(
            "platform", "", "string", "Push a platform-specific manifest as a single-platform image"
        ),
        Flag("quiet", "q", "bool", "Suppress verbose output"),
    ],
    at_least=1,
    at_most=1,
)
def push(session: Session, options: Options, arguments: list[str]) -> None:
    image = arguments[0]
    name, tag = _split(image)
    if options["all-tags"]:
        if tag:
            raise CommandError("tag can't be used with --all-tags/-a")
    elif not tag:
        tag = "latest"
        if not options["quiet"]:
            print("Using default tag: latest", flush=True)
    query = {"tag": tag, "platform": platforms.parse(options["platform"])}
    headers = credentials.header(session, image)
    response = session.client.open("POST", f"/images/{quote(name)}/push", query, headers=headers)
    server = reference.normalize(name).partition("/")[0]
    progress.show(response, None if options["quiet"] else sys.stdout, f"to {server}")
    if options["quiet"]:
        print(_whole(image, options["all-tags"]))
