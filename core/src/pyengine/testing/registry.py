"""A small registry in the test's own event loop: for tests of what talks to one.

It serves and takes images as the distribution specification says, remembers every request, and lets
a test step in before each. Tests of everything together use a real registry.
https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import gzip
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import web

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

#: Looks at a request first, and answers it or lets it pass (None).
Interceptor = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class MadeImage(NamedTuple):
    """An image for the registry: blobs by digest, and its manifest."""

    config: bytes
    layers: Sequence[bytes]
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def id(self) -> str:
        return digest_of(self.config)


def make_image(
    tars: Sequence[bytes],
    *,
    platform: str = "linux/amd64",
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    descriptors: Callable[[list[dict[str, Any]]], None] | None = None,
) -> MadeImage:
    """An OCI image of gzip'ed layers. ``config`` and ``manifest`` are merged in; ``descriptors``
    may change those of the layers."""
    os, architecture, variant = f"{platform}//".split("/")[:3]
    layers = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    body = {
        "os": os,
        "architecture": architecture,
        **({"variant": variant} if variant else {}),
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        **(config or {}),
    }
    raw = json.dumps(body).encode()
    described = [
        {"mediaType": OCI_LAYER, "digest": digest_of(layer), "size": len(layer)} for layer in layers
    ]
    if descriptors is not None:
        descriptors(described)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(raw), "size": len(raw)},
        "layers": described,
        **(manifest or {}),
    }
    return MadeImage(raw, layers, json.dumps(document).encode())


class SmallRegistry:
    """``host`` is its name in references. ``blobs`` and ``manifests`` are by repository, then by
    digest; ``tags`` by repository, then by tag."""

    def __init__(self) -> None:
        self.host = ""
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        #: Method and path of every request, without ``/v2/`` alone.
        self.requests: list[tuple[str, str]] = []
        #: ``Range`` of every GET of a blob, or an empty string.
        self.ranges: list[str] = []
        self.intercept: Interceptor | None = None
        #: The same for ``/v2/`` alone.
        self.intercept_ping: Interceptor | None = None
        self._uploads: dict[str, bytearray] = {}
        self._runner: web.ServerRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of loopback."""
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        address = self._runner.addresses[0]
        self.host = f"127.0.0.1:{address[1]}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, repository: str, tag: str, image: MadeImage) -> str:
        """Have ``image`` as ``repository:tag`` (empty: without a tag); the manifest's digest."""
        blobs = self.blobs.setdefault(repository, {})
        for blob in (image.config, *image.layers):
            blobs[digest_of(blob)] = blob
        return self.add_manifest(repository, tag, image.manifest, OCI_MANIFEST)

    def add_index(
        self,
        repository: str,
        tag: str,
        images: Mapping[str, MadeImage],
    ) -> str:
        """Have an index of ``images`` by platform."""
        entries = []
        for platform, image in images.items():
            self.add(repository, "", image)
            os, architecture, variant = f"{platform}//".split("/")[:3]
            entries.append(
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": image.digest,
                    "size": len(image.manifest),
                    "platform": {"os": os, "architecture": architecture, "variant": variant},
                }
            )
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self.add_manifest(repository, tag, json.dumps(document).encode(), OCI_INDEX)

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> str:
        digest = digest_of(data)
        self.manifests.setdefault(repository, {})[digest] = media_type, data
        tags = self.tags.setdefault(repository, {})
        if tag:
            tags[tag] = digest
        return digest

    def asked(self, method: str, part: str) -> list[str]:
        """Paths of the requests of ``method`` that contain ``part``."""
        return [path for one, path in self.requests if one == method and part in path]

    # -- requests --------------------------------------------------------------------------------

    async def _handle(self, base: web.BaseRequest) -> web.StreamResponse:
        request: Any = base
        path = request.path.removeprefix("/v2/")
        if not path:
            answer = await self.intercept_ping(request) if self.intercept_ping else None
            return answer or web.json_response({})
        self.requests.append((request.method, request.path))
        if self.intercept is not None:
            answer = await self.intercept(request)
            if answer is not None:
                return answer
        for kind in ("/blobs/uploads/", "/blobs/", "/manifests/", "/tags/"):
            repository, found, name = path.partition(kind)
            if found:
                handler = {
                    "/blobs/uploads/": self._upload,
                    "/blobs/": self._blob,
                    "/manifests/": self._manifest,
                    "/tags/": self._tags,
                }[kind]
                return await handler(request, repository, name)
        return _error(404, "UNSUPPORTED", "not served here")

    async def _blob(self, request: Any, repository: str, digest: str) -> web.StreamResponse:
        data = self.blobs.get(repository, {}).get(digest)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        wanted = request.headers.get("Range", "")
        self.ranges.append(wanted)
        if not wanted:
            return web.Response(body=data, headers=headers)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if start >= len(data):
            return web.Response(status=416)
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return web.Response(status=206, body=data[start:], headers=headers)

    async def _manifest(self, request: Any, repository: str, name: str) -> web.StreamResponse:
        if request.method == "PUT":
            data = await request.read()
            tag = "" if ":" in name else name
            digest = self.add_manifest(repository, tag, data, request.headers["Content-Type"])
            return web.Response(status=201, headers={"Docker-Content-Digest": digest})
        digest = self.tags.get(repository, {}).get(name, name)
        found = self.manifests.get(repository, {}).get(digest)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        return web.Response(body=data, headers=headers)

    async def _tags(self, request: Any, repository: str, name: str) -> web.StreamResponse:
        return web.json_response({"name": repository, "tags": sorted(self.tags[repository])})

    async def _upload(self, request: Any, repository: str, session: str) -> web.StreamResponse:
        blobs = self.blobs.setdefault(repository, {})
        if request.method == "POST":
            digest, lender = request.query.get("mount", ""), request.query.get("from", "")
            if digest and digest in self.blobs.get(lender, {}):
                blobs[digest] = self.blobs[lender][digest]
                return web.Response(status=201, headers={"Docker-Content-Digest": digest})
            session = f"session-{len(self._uploads)}"
            self._uploads[session] = bytearray()
            return self._accepted(repository, session)
        if session not in self._uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method == "GET":
            return self._accepted(repository, session, status=204)
        self._uploads[session] += await request.content.read()
        if request.method == "PATCH":
            return self._accepted(repository, session)
        data, digest = bytes(self._uploads.pop(session)), request.query["digest"]
        if digest_of(data) != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        blobs[digest] = data
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    def _accepted(self, repository: str, session: str, status: int = 202) -> web.Response:
        size = len(self._uploads[session])
        headers = {
            "Location": f"/v2/{repository}/blobs/uploads/{session}",
            "Range": f"0-{max(size - 1, 0)}",
        }
        return web.Response(status=status, headers=headers)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)
