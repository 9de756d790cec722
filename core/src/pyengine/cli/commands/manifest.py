"""``pyengine manifest inspect``."""

from __future__ import annotations

import json

from pyengine.cli import credentials, reference
from pyengine.cli.client import ApiError, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@command(
    "[OPTIONS] MANIFEST",
    "Display an image manifest, or manifest list",
    [
        Flag("insecure", "", "bool", "Allow communication with an insecure registry"),
        Flag("verbose", "v", "bool", "Output additional info including layers and platform"),
    ],
    at_least=1,
    at_most=1,
)
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    if options["insecure"]:
        raise CommandError(
            "--insecure is not for the client to say: the engine asks the registry. Name it in "
            '"insecure-registries" of the engine\'s daemon.json (those on loopback always may be)'
        )
    try:
        reference.check(name)
    except ValueError as error:
        raise CommandError(str(error))
    path = f"/pyengine/manifests/{quote(name)}"
    headers = credentials.header(session, name)
    try:
        found = session.client.call("GET", path, {"verbose": options["verbose"]}, headers=headers)
    except ApiError as error:
        if error.status == 404:
            raise CommandError(f"no such manifest: {found_name(name)}")
        raise
    if options["verbose"]:
        members = found.get("Manifests")
        shown = _detail(found) if members is None else [_detail(one) for one in members]
        print(json.dumps(shown, indent="\t", ensure_ascii=False))
    else:
        document = _document(found)
        indent = "\t" if "manifests" not in document else "   "
        print(json.dumps(document, indent=indent, ensure_ascii=False))


def found_name(image: str) -> str:
    """The full name, with registry and tag."""
    name, tag = reference.split(image)
    return f"{reference.normalize(name)}{'@' if '@' in image else ':'}{tag or 'latest'}"


def _document(manifest: dict[str, Any]) -> dict[str, Any]:
    import base64

    document: dict[str, Any] = json.loads(base64.b64decode(manifest["Raw"]))
    return document


def _detail(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as Docker's client shows it: where it is, and its content twice."""
    docker = manifest["Descriptor"]["mediaType"].startswith("application/vnd.docker.")
    key = "SchemaV2Manifest" if docker else "OCIManifest"
    shown = {name: manifest[name] for name in ("Ref", "Descriptor", "Raw")}
    return {**shown, key: _document(manifest)}
