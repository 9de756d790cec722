"""Ours: what the layers of an image hold, for tools that look into images."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from aiohttp import web

from pyengine.archive import decompress, list_layer
from pyengine.engine.images.records import Image
from pyengine.errors import EngineError, InvalidParameter, NotFound
from pyengine.oci.image import History
from pyengine_api_docker.http import Call
from pyengine_api_docker.pipes import download

JSON_LINES = "application/x-ndjson"


class _Layer(NamedTuple):
    """A layer's blob, and what is told about it."""

    blob: Path
    facts: dict[str, Any]


async def layers(call: Call) -> web.StreamResponse:
    """``GET /pyengine/images/NAME/layers``: lines of JSON.

    ``{"image": {"id", "names"}}``; then for each layer, the lowest first,
    ``{"layer": {"digest", "diff_id", "size", "created", "created_by"}}`` (digest and size of the
    blob as it is kept, compressed), followed by a line for each of its entries: the fields of
    :class:`pyengine.archive.Listed` but those that are 0 or empty; at last ``{"end": true}``, or
    ``{"error": "..."}`` where a blob is damaged. Names that are no UTF-8 have surrogate escapes
    (``\\udc80``).
    """
    image = call.engine.images.get(call.name)
    if image.artifact:
        raise InvalidParameter(f"{image.shown} has no layers: it is no image", image.artifact)
    head = {"image": {"id": image.id, "names": image.repo_tags or image.repo_digests}}
    found = _layers(call, image)

    async def produce(out: BinaryIO) -> None:
        with call.engine.images.using(image.id):
            await asyncio.to_thread(_write, out, head, found)

    return await download(call, JSON_LINES, produce)


def _layers(call: Call, image: Image) -> list[_Layer]:
    content = call.engine.content
    manifest = call.engine.images.manifest(image)
    steps = [step for step in image.history if not step.empty_layer]
    if len(steps) != len(manifest.layers):
        # A history is a courtesy: nothing says which layer is whose.
        steps = [History()] * len(manifest.layers)
    for blob in manifest.layers:
        if not content.path(blob.digest).exists():
            raise NotFound(
                f"layer {blob.digest} of image {image.shown} is missing",
                help="pull or load the image again",
            )
    return [
        _Layer(
            content.path(blob.digest),
            {
                "digest": blob.digest,
                "diff_id": diff_id,
                "size": blob.size,
                "created": step.created or "",
                "created_by": step.created_by,
            },
        )
        for blob, diff_id, step in zip(manifest.layers, image.diff_ids, steps, strict=True)
    ]


def _write(out: BinaryIO, head: dict[str, Any], found: list[_Layer]) -> None:
    try:
        for line in _lines(head, found):
            _put(out, line)
    except EngineError as error:
        _put(out, {"error": error.message()})


def _put(out: BinaryIO, line: dict[str, Any]) -> None:
    # The standard library's encoder, because it can write lone surrogates.
    out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _lines(head: dict[str, Any], found: list[_Layer]) -> Iterator[dict[str, Any]]:
    yield head
    for layer in found:
        yield {"layer": layer.facts}
        with open(layer.blob, "rb") as blob:
            for entry in list_layer(decompress(blob)):
                fields = entry._asdict()
                yield {
                    name: value
                    for name, value in fields.items()
                    if value or name in ("path", "kind")
                }
    yield {"end": True}
