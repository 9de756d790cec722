"""``pyengine pull`` and ``pyengine push``."""

from __future__ import annotations

import sys

from pyengine.cli import progress, reference
from pyengine.cli.client import CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

_DOCKER_HUB = "https://index.docker.io/v1/"


def credentials(session: Session, image: str) -> dict[str, str]:
    """The header with the registry's credentials from config.json, as the API wants them."""
    import base64
    import json

    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    server = first if is_host and first != "docker.io" else _DOCKER_HUB
    stored = session.config().get("auths")
    entry = stored.get(server) if isinstance(stored, dict) else None
    if not isinstance(entry, dict):
        return {}
    auth = {key: str(entry[key]) for key in ("identitytoken", "registrytoken") if entry.get(key)}
    if entry.get("auth"):
        user, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
        auth.update(username=user, password=password)
    auth["serveraddress"] = server
    encoded = base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
    return {"X-Registry-Auth": encoded}


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
        Flag(
            "disable-content-trust",
            "",
            "bool",
            "Skip image verification",
            default=True,
            hidden=True,
        ),
        Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
        Flag("quiet", "q", "bool", "Suppress verbose output"),
    ],
    at_least=1,
    at_most=1,
    creates=True,
)
def pull(session: Session, options: Options, arguments: list[str]) -> None:
    image = arguments[0]
    name, tag = _split(image)
    if options["all-tags"] and tag:
        raise CommandError("tag can't be used with --all-tags/-a")
    if not tag and not options["all-tags"] and not options["quiet"]:
        print("Using default tag: latest", flush=True)
    progress.show_pull(
        session.client,
        image,
        options["platform"],
        quiet=options["quiet"],
        out=sys.stdout,
        all_tags=options["all-tags"],
        headers=credentials(session, image),
    )
    whole = reference.normalize(name)
    if not options["all-tags"]:
        whole += f"{'@' if '@' in image else ':'}{tag or 'latest'}"
    print(whole)


@command(
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    [
        Flag("all-tags", "a", "bool", "Push all tags of an image to the repository"),
        Flag("disable-content-trust", "", "bool", "Skip image signing", default=True, hidden=True),
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
    headers = credentials(session, image) or {"X-Registry-Auth": "e30="}
    response = session.client.open(
        "POST", f"/images/{quote(name)}/push", {"tag": tag}, headers=headers
    )
    progress.show(response, None if options["quiet"] else sys.stdout)
    if options["quiet"]:
        print(image)
