"""An engine's worth of the parts that images need, and archives to feed it with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyengine.engine.background import Background
from pyengine.engine.calls import DriverCalls
from pyengine.engine.images.content import Content, Problem
from pyengine.engine.images.imports import import_image
from pyengine.engine.images.layers import Layers
from pyengine.engine.images.load import load_images
from pyengine.engine.images.service import Images
from pyengine.engine.images.unpackers import Unpackers
from pyengine.hooks.manager import Hooks
from pyengine.oci import reference
from pyengine.oci.image import Platform
from pyengine.state.content import ContentStore
from pyengine.state.database import Database
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import context_for, directory, file, tar


class World:
    """An engine's worth of parts below one directory; ``again`` is the next daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = PlainStorage(context_for(root))
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.containers: dict[str, list[tuple[str, bool]]] = {}
        self.unpackers: list[Unpackers] = []
        self.open()

    def open(self) -> None:
        self.database = Database(self.root / "db")
        self.content = Content(self.database, ContentStore(self.root / "content"))
        self.hooks = Hooks()
        self.layers_of: dict[str, Layers] = {}
        self.images = Images(
            self.database,
            self.content,
            self.make_layers(self.storage),
            self.layers_of.__getitem__,
            self.emit,
            self.hooks,
            lambda id: self.containers.get(id, []),
        )

    def make_layers(self, driver: PlainStorage) -> Layers:
        calls = DriverCalls(driver)
        self.unpackers.append(Unpackers(driver, calls))
        layers = Layers(
            self.database,
            driver,
            calls,
            self.unpackers[-1],
            self.content,
            self.hooks,
            Background(),
            lambda: [*self.images.chains()],
        )
        self.layers_of[driver.name] = layers
        return layers

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str]) -> None:
        assert type == "image"
        self.events.append((action, id, dict(attributes)))

    async def again(self) -> None:
        await self.close()
        self.open()
        await self.content.start()
        await self.images.layers.start()
        await self.content.collect()

    async def close(self) -> None:
        for unpackers in self.unpackers:
            await unpackers.close()
        self.unpackers.clear()
        self.database.close()

    def layers(self) -> set[str]:
        """Names of the layers on disk."""
        return set(self.storage._layers.names())

    async def left(self) -> list[Problem]:
        """What is wrong or left over; there must be nothing, at any time."""
        return await self.content.fsck()

    async def imported(self, name: str, *names: str) -> str:
        """An image with one file, unlike any other."""
        image = await import_image(
            self.images, io.BytesIO(tar(file(name, name.encode()))), reference.parse(name)
        )
        for other in names:
            await self.images.tag(image.id, reference.parse(other))
        return image.id

    async def load(self, stream: bytes, platform: Platform | None = None) -> list[str]:
        return [*await load_images(self.images, io.BytesIO(stream), platform)]

    async def top(self, id: str, driver: str = "plain") -> str:
        """The driver's name of the image's uppermost layer."""
        with self.images.using(id):
            layer = await self.images.layer(id, driver)
        assert layer is not None
        return layer


# -- archives -------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config(layers: list[bytes], **fields: Any) -> bytes:
    body = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-05-06T07:08:09.123456789Z",
        "config": {"Cmd": ["/bin/sh"], "Labels": {"made": "here"}, "Unknown": 1},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [
            {"created": "2024-05-06T07:08:09Z", "created_by": f"step {number}"}
            for number in range(len(layers))
        ],
    }
    return json.dumps(body | fields).encode()


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    return out.getvalue()


def saved(*images: tuple[bytes, list[bytes], list[str]]) -> bytes:
    """As old engines wrote it: names by id, manifest last."""
    files: dict[str, bytes] = {}
    manifest = []
    for raw, layers, tags in images:
        name = hashlib.sha256(raw).hexdigest() + ".json"
        files[name] = raw
        paths = []
        for layer in layers:
            path = hashlib.sha256(layer).hexdigest() + "/layer.tar"
            files[path] = layer
            paths.append(path)
        manifest.append({"Config": name, "RepoTags": tags or None, "Layers": paths})
    return archive(files | {"manifest.json": json.dumps(manifest).encode()})


def layout(
    raw: bytes, blobs: list[bytes], name: str = "", platform: dict[str, str] | None = None
) -> dict[str, bytes]:
    """An OCI layout as a dict of files."""
    files: dict[str, bytes] = {}

    def put(data: bytes, media: str) -> dict[str, Any]:
        files["blobs/sha256/" + digest(data)[7:]] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": put(raw, "application/vnd.oci.image.config.v1+json"),
            "layers": [put(b, "application/vnd.oci.image.layer.v1.tar+gzip") for b in blobs],
        }
    ).encode()
    entry = put(manifest, "application/vnd.oci.image.manifest.v1+json")
    if platform:
        entry["platform"] = platform
    if name:
        entry["annotations"] = {"io.containerd.image.name": name}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return files


BASE = tar(directory("etc"), file("etc/os", b"base"))
UPPER = tar(file("etc/.wh.os"), file("app", b"x" * 1000))
