"""Manifests and indexes: what is one, and what only pretends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyengine.errors import InvalidParameter
from pyengine.oci.image import Index, Manifest, chain_id, chain_ids, parse_manifest

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def manifest(**fields: Any) -> bytes:
    body = {
        "schemaVersion": 2,
        "config": {"mediaType": OCI + "config.v1+json", "digest": A, "size": 1},
        "layers": [{"mediaType": OCI + "layer.v1.tar+zstd", "digest": B, "size": 2}],
    } | fields
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def index(**fields: Any) -> bytes:
    entry = {"mediaType": OCI + "manifest.v1+json", "digest": A, "size": 1}
    return json.dumps({"schemaVersion": 2, "manifests": [entry]} | fields).encode()


def test_a_manifest() -> None:
    found = parse_manifest(manifest(), OCI + "manifest.v1+json; charset=utf-8")
    assert isinstance(found, Manifest)
    assert (found.config.digest, found.layers[0].digest) == (A, B)
    assert found.media_type == OCI + "manifest.v1+json"
    assert found.artifact == ""
    docker = manifest(mediaType=DOCKER + "distribution.manifest.v2+json")
    for announced in ("", "text/plain", "application/json"):
        assert parse_manifest(docker, announced).media_type == (
            DOCKER + "distribution.manifest.v2+json"
        )


def test_an_index() -> None:
    found = parse_manifest(index(), "")
    assert isinstance(found, Index)
    assert [descriptor.digest for descriptor in found.manifests or []] == [A]
    listed = parse_manifest(index(), DOCKER + "distribution.manifest.list.v2+json")
    assert listed.media_type == DOCKER + "distribution.manifest.list.v2+json"


def test_an_artifact_may_have_layers_of_any_type() -> None:
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": A, "size": 1}
    layer = {"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": B}
    found = parse_manifest(manifest(config=chart, layers=[layer]))
    assert isinstance(found, Manifest)
    assert found.artifact == "application/vnd.cncf.helm.config.v1+json"
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": A, "size": 2}
    typed = parse_manifest(manifest(config=empty, layers=[layer], artifactType="text/x"))
    assert isinstance(typed, Manifest)
    assert typed.artifact == "text/x"


@pytest.mark.parametrize(
    ("data", "media_type", "message"),
    [
        (b"[]", "", "invalid manifest"),
        (b"{", "", "invalid manifest"),
        (b"\xff", "", "invalid manifest"),
        (b"null", "", "invalid manifest"),
        (b"{}", "", "schemaVersion is 0"),
        (manifest(schemaVersion=3), "", "schemaVersion is 3"),
        (manifest(schemaVersion=1), "", "schema 1 are not supported"),
        (
            manifest(),
            DOCKER + "distribution.manifest.v1+prettyjws",
            "schema 1 are not supported",
        ),
        (manifest(manifests=[]), "", "both manifests and layers"),
        (index(config={}), "", "both manifests and layers"),
        (manifest(manifests=None), OCI + "index.v1+json", "promises"),
        (index(), OCI + "manifest.v1+json", "promises"),
        (
            manifest(mediaType=DOCKER + "distribution.manifest.v2+json"),
            OCI + "manifest.v1+json",
            "announced was",
        ),
        (manifest(mediaType="text/x-what"), "", "media type: text/x-what"),
        (manifest(layers=None), "", "missing required field `layers`"),
        (manifest(config=None), "", "missing required field `config`"),
        (manifest(layers=[{"mediaType": "text/x", "digest": B}]), "", "layer media type: text/x"),
        (manifest(layers=[{"digest": "sha512:00"}]), "", "unsupported digest 'sha512:00'"),
        (manifest(layers=[{"digest": B, "size": -1}]), "", "negative size"),
        (index(manifests=[{"digest": "../x"}]), "", "unsupported digest"),
    ],
)
def test_refused(data: bytes, media_type: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse_manifest(data, media_type)


def test_chain_ids() -> None:
    assert chain_ids([]) == []
    assert chain_ids([A]) == [A]
    assert chain_ids([A, B]) == [A, chain_id(A, B)]
    assert chain_id("", B) == B
