"""``pyengine manifest``: what registries have, and lists to put there."""

from __future__ import annotations

import base64
import json

from pyengine.cli import credentials, manifestlists
from pyengine.cli.client import ApiError, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.manifestlists import ManifestLists, NoSuchManifest, full_name
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INSECURE = Flag("insecure", "", "bool", "Allow communication with an insecure registry")


def _check_insecure(options: Options) -> None:
    if options["insecure"]:
        raise CommandError(
            "--insecure is not for the client to say: the engine asks the registry. Name it in "
            '"insecure-registries" of the engine\'s daemon.json (those on loopback always may be)'
        )


def _lists(session: Session) -> ManifestLists:
    return ManifestLists(session.config_dir())


def _remote(session: Session, name: str, verbose: bool) -> Any:
    """What the engine says of the manifest of this name."""
    path, headers = f"/pyengine/manifests/{quote(name)}", credentials.header(session, name)
    try:
        return session.client.call("GET", path, {"verbose": verbose}, headers=headers)
    except ApiError as error:
        if error.status == 404:
            raise CommandError(f"no such manifest: {full_name(name)}")
        raise


def _document(manifest: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(manifest["Raw"]))
    return document


def _detail(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as Docker's client shows it: where it is, and its content twice."""
    docker = manifest["Descriptor"]["mediaType"].startswith("application/vnd.docker.")
    key = "SchemaV2Manifest" if docker else "OCIManifest"
    shown = {name: manifest[name] for name in ("Ref", "Descriptor", "Raw")}
    return {**shown, key: _document(manifest)}


def _print(value: Any, indent: str = "\t") -> None:
    print(json.dumps(value, indent=indent, ensure_ascii=False))


@command(
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Display an image manifest, or manifest list",
    [
        _INSECURE,
        Flag("verbose", "v", "bool", "Output additional info including layers and platform"),
    ],
    at_least=1,
    at_most=2,
)
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    _check_insecure(options)
    *lists, image = arguments
    name, verbose = full_name(image), options["verbose"]
    if lists:
        item = _lists(session).get(full_name(lists[0]), name)
        _print(item if verbose else _document(item))
        return
    try:
        items = _lists(session).members(name)
    except NoSuchManifest:
        _inspect_remote(session, image, verbose)
        return
    if verbose:
        _print(items)
        return
    try:
        print(manifestlists.index(name, items)[1].decode())
    except CommandError as error:
        raise CommandError(f"failed to assemble ManifestDescriptor: {error}")


def _inspect_remote(session: Session, image: str, verbose: bool) -> None:
    found = _remote(session, image, verbose)
    if verbose:
        members = found.get("Manifests")
        _print(_detail(found) if members is None else [_detail(one) for one in members])
    else:
        document = _document(found)
        _print(document, "\t" if "manifests" not in document else "   ")


@command(
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Create a local manifest list for annotating and pushing to a registry",
    [Flag("amend", "a", "bool", "Amend an existing manifest list"), _INSECURE],
    at_least=2,
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    _check_insecure(options)
    lists = _lists(session)
    try:
        target = full_name(arguments[0])
    except CommandError as error:
        raise CommandError(f"error parsing name for manifest list {arguments[0]}: {error}")
    try:
        lists.members(target)
    except NoSuchManifest:
        pass
    else:
        if not options["amend"]:
            raise CommandError("refusing to amend an existing manifest list with no --amend flag")
    for image in arguments[1:]:
        name = full_name(image)
        lists.save(target, name, _member(session, lists, target, name))
    print("Created manifest list", target)


def _member(session: Session, lists: ManifestLists, target: str, name: str) -> dict[str, Any]:
    """An image for a list: as it is in it already, with its annotations, or as the registry has
    it."""
    try:
        known = lists.get(target, name)
        if known.get("Raw"):
            return known
    except NoSuchManifest:
        pass
    found = _remote(session, name, verbose=True)
    if "Manifests" in found:
        raise CommandError(f"{name} is a manifest list")
    descriptor = found["Descriptor"]
    if descriptor.get("platform"):
        platform = manifestlists.ordered_platform(descriptor["platform"])
        descriptor = {**descriptor, "platform": platform}
    return _detail({**found, "Ref": name, "Descriptor": descriptor})


@command(
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Add additional information to a local image manifest",
    [
        Flag("arch", "", "string", "Set architecture"),
        Flag("os", "", "string", "Set operating system"),
        Flag("os-features", "", "strings", "Set operating system feature"),
        Flag("os-version", "", "string", "Set operating system version"),
        Flag("variant", "", "string", "Set architecture variant"),
    ],
    at_least=2,
    at_most=2,
)
def annotate(session: Session, options: Options, arguments: list[str]) -> None:
    names = []
    for what, given in zip(("manifest list", "manifest"), arguments, strict=True):
        try:
            names.append(full_name(given))
        except CommandError as error:
            raise CommandError(f"annotate: error parsing name for {what} {given}: {error}")
    lists, (target, name) = _lists(session), names
    try:
        item = lists.get(target, name)
    except NoSuchManifest:
        raise CommandError(f"manifest for image {arguments[1]} does not exist in {arguments[0]}")
    platform = dict(item["Descriptor"].get("platform") or {})
    for flag, key in (
        *(("os", "os"), ("arch", "architecture"), ("variant", "variant")),
        ("os-version", "os.version"),
    ):
        if options[flag]:
            platform[key] = options[flag]
    features = [*(platform.get("os.features") or []), *options["os-features"]]
    platform["os.features"] = list(dict.fromkeys(features))
    if not manifestlists.supported(platform.get("os", ""), platform.get("architecture", "")):
        raise CommandError(
            "manifest entry for image has unsupported os/arch combination: "
            f"{options['os']}/{options['arch']}"
        )
    item["Descriptor"]["platform"] = manifestlists.ordered_platform(platform)
    lists.save(target, name, item)


@command(
    "[OPTIONS] MANIFEST_LIST",
    "Push a manifest list to a repository",
    [
        Flag("insecure", "", "bool", "Allow push to an insecure registry"),
        Flag("purge", "p", "bool", "Remove the local manifest list after push"),
    ],
    at_least=1,
    at_most=1,
)
def push(session: Session, options: Options, arguments: list[str]) -> None:
    _check_insecure(options)
    lists, target = _lists(session), full_name(arguments[0])
    items = lists.members(target)
    if not items:
        raise CommandError(f"{target} not found")
    for item in items:
        platform = item["Descriptor"].get("platform") or {}
        if not (platform.get("os") and platform.get("architecture")):
            raise CommandError(
                f"manifest {item['Ref']} must have an OS and Architecture to be pushed to a "
                "registry"
            )
    media_type, data = manifestlists.index(target, items)
    body = {
        "MediaType": media_type,
        "Raw": base64.b64encode(data).decode(),
        "Members": [
            {
                "Name": manifestlists.repository(item["Ref"]),
                "Digest": item["Descriptor"]["digest"],
            }
            for item in items
        ],
    }
    path, headers = f"/pyengine/manifests/{quote(target)}", credentials.header(session, target)
    done = session.client.call("PUT", path, body=body, headers=headers)
    for name in done["Pushed"]:
        print(f"Pushed ref {name} with digest: {name.partition('@')[2]}")
    print(done["Digest"])
    if options["purge"]:
        lists.remove(target)


@command(
    "MANIFEST_LIST [MANIFEST_LIST...]",
    "Delete one or more manifest lists from local storage",
    at_least=1,
)
def rm(session: Session, _: Options, names: list[str]) -> None:
    lists, errors = _lists(session), []
    for given in names:
        try:
            name = full_name(given)
            lists.members(name)
            lists.remove(name)
        except CommandError as error:
            errors.append(str(error))
    if errors:
        raise CommandError("\n".join(errors))
