"""Lists of manifests on their way to a registry, where Docker's client keeps them too.

Under ``manifests`` in the folder of config.json every list is a folder, and every image in it a
file: an object with ``Ref`` (its full name), ``Descriptor`` with the platform that the list says,
``Raw`` (the manifest, base64) and the manifest again under ``OCIManifest`` or
``SchemaV2Manifest``.
"""

from __future__ import annotations

import json
import os

from pyengine.cli import reference
from pyengine.cli.client import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")
#: What Go runs on (go.dev/doc/install/source), which is what a list may name.
_SYSTEMS = {
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 ppc64le mips64 mips64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "windows": "386 amd64",
}


class NoSuchManifest(CommandError):
    """It is not kept here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such manifest: {name}")


def full_name(image: str) -> str:
    """The full name, with registry and tag; CommandError for what is no name."""
    try:
        reference.check(image)
    except ValueError as error:
        raise CommandError(str(error))
    name, tag = reference.split(image)
    return f"{reference.normalize(name)}{'@' if '@' in image else ':'}{tag or 'latest'}"


def repository(name: str) -> str:
    """A full name without tag and digest."""
    name = name.partition("@")[0]
    return reference.split(name)[0]


def supported(system: str, architecture: str) -> bool:
    return architecture in _SYSTEMS.get(system, "").split()


class ManifestLists:
    """The lists under ``folder``. Names are full ones."""

    def __init__(self, folder: str) -> None:
        self._root = os.path.join(folder, "manifests")

    def _folder(self, name: str) -> str:
        return os.path.join(self._root, _file_name(name))

    def _path(self, name: str, image: str) -> str:
        return os.path.join(self._folder(name), _file_name(image))

    def get(self, name: str, image: str) -> Item:
        """One image of a list. NoSuchManifest."""
        return _read(self._path(name, image), image)

    def members(self, name: str) -> list[Item]:
        """All of them, in the order of their names. NoSuchManifest without the list."""
        folder = self._folder(name)
        try:
            files = sorted(os.listdir(folder))
        except FileNotFoundError:
            raise NoSuchManifest(name)
        return [_read(os.path.join(folder, file), name) for file in files]

    def save(self, name: str, image: str, item: Item) -> None:
        path = self._path(name, image)
        partial = f"{path}.{os.getpid()}"
        try:
            os.makedirs(self._folder(name), 0o755, exist_ok=True)
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(item, file, separators=(",", ":"), ensure_ascii=False)
            os.replace(partial, path)
        except OSError as error:
            raise CommandError(f"open {path}: {str(error.strerror).lower()}")

    def remove(self, name: str) -> None:
        import shutil

        try:
            shutil.rmtree(self._folder(name))
        except OSError as error:
            raise CommandError(f"remove {error.filename}: {str(error.strerror).lower()}")


def _file_name(name: str) -> str:
    return name.replace(":", "-").replace("/", "_")


def _read(path: str, name: str) -> Item:
    try:
        with open(path, "rb") as file:
            item = json.load(file)
    except FileNotFoundError:
        raise NoSuchManifest(name)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}")
    if not isinstance(item, dict) or not isinstance(item.get("Descriptor"), dict):
        raise CommandError(f"{path} is no manifest of a list")
    return item


def ordered_platform(platform: dict[str, Any]) -> dict[str, Any]:
    """Its fields as Docker's client writes them."""
    return {key: platform[key] for key in _PLATFORM if platform.get(key)}


def index(name: str, items: list[Item]) -> tuple[str, bytes]:
    """Media type and content of the list, byte for byte as Docker's client makes it.

    CommandError if an image is on another registry: a registry knows only its own.
    """
    entries = []
    domain = name.partition("/")[0]
    for item in items:
        found = item["Ref"].partition("/")[0]
        if found != domain:
            raise CommandError(
                "cannot use source images from a different registry than the target image: "
                f"{found} != {domain}"
            )
        descriptor = item["Descriptor"]
        platform = {"architecture": "", "os": "", **(descriptor.get("platform") or {})}
        shown = {"architecture": platform["architecture"], "os": platform["os"]}
        entry = {key: descriptor[key] for key in ("mediaType", "size", "digest")}
        entries.append({**entry, "platform": {**shown, **ordered_platform(platform)}})
    oci = bool(entries) and entries[0]["mediaType"] == _OCI_MANIFEST
    media_type = _OCI_INDEX if oci else _DOCKER_LIST
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return media_type, json.dumps(document, indent=3, ensure_ascii=False).encode()
