"""A registry that serves what it is given, true or not, and answers ``docker search``."""

from __future__ import annotations

import hashlib
import json
import re

from aiohttp import web

from .loops import NamespaceLoop

_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<ref>[^/]+)")
_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<ref>[^/]+)")


class HostileRegistry:
    """``manifests``: by ``name:tag`` or ``name@digest``, (media type, bytes); ``blobs``: by digest.

    Nothing is verified: a blob may lie under any digest. ``search``: results by term.
    """

    def __init__(self, loop: NamespaceLoop) -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.found: dict[str, list[dict[str, object]]] = {}
        self.requests: list[str] = []
        self.host = f"127.0.0.1:{loop.serve(self._answer)}"

    def name(self, repository: str) -> str:
        return f"{self.host}/{repository}"

    def put(self, name: str, tag: str, media_type: str, data: bytes) -> str:
        """Serve a manifest by tag and by digest, which is returned."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.manifests[f"{name}:{tag}"] = self.manifests[f"{name}@{digest}"] = (media_type, data)
        return digest

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.requests.append(f"{request.method} {request.path_qs}")
        if path == "/v2/":
            return web.Response(headers={"Docker-Distribution-API-Version": "registry/2.0"})
        if path == "/v1/_ping":
            return web.Response(headers={"X-Docker-Registry-Standalone": "true"})
        if path == "/v1/search":
            results = self.found.get(request.query["q"], [])
            limit = int(request.query.get("n", 25))
            return web.json_response(
                {
                    "query": request.query["q"],
                    "num_results": len(results),
                    "results": results[:limit],
                }
            )
        if found := _MANIFEST.fullmatch(path):
            sign = "@" if ":" in found["ref"] else ":"
            manifest = self.manifests.get(f"{found['name']}{sign}{found['ref']}")
            if manifest is None:
                return _error("MANIFEST_UNKNOWN", "manifest unknown")
            media_type, data = manifest
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            return web.Response(
                body=data,
                headers={"Content-Type": media_type, "Docker-Content-Digest": digest},
            )
        if found := _BLOB.fullmatch(path):
            blob = self.blobs.get(found["ref"])
            if blob is None:
                return _error("BLOB_UNKNOWN", "blob unknown to registry")
            return web.Response(body=blob, content_type="application/octet-stream")
        return _error("NAME_UNKNOWN", "repository name not known to registry")


def _error(code: str, message: str) -> web.Response:
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    return web.Response(status=404, text=body, content_type="application/json")
