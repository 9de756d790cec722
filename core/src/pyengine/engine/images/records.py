"""What the database keeps of images and their layers."""

from __future__ import annotations

import msgspec

from pyengine.engine.model import ContainerConfig
from pyengine.oci import reference
from pyengine.oci.image import History, Platform


class Layer(msgspec.Struct, kw_only=True):
    """A layer of images. ``parent``: chain id of the one beneath, or empty; ``size`` in bytes."""

    chain_id: str
    diff_id: str
    parent: str
    storage_id: str
    size: int


class Image(msgspec.Struct, kw_only=True):
    """An image. ``references``: whole names with tag or digest, sorted; ``chain``: chain ids of its
    layers, lowest first; ``parent``: id of the image that it was built upon here, or empty;
    ``size``: bytes of its layers; times in RFC 3339.

    ``manifest``: digest of its manifest; ``blobs``: digests of the manifest and of all that it
    names. ``artifact``: what it is instead of an image (a media type); its id is its manifest's."""

    id: str
    config: ContainerConfig
    created: str
    size: int
    diff_ids: list[str]
    chain: list[str]
    history: list[History] = []
    references: list[str] = []
    parent: str = ""
    author: str = ""
    comment: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = ""
    docker_version: str = ""
    last_tagged: str = ""
    manifest: str = ""
    blobs: list[str] = []
    artifact: str = ""

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)

    @property
    def shown(self) -> str:
        """A name for messages."""
        return reference.parse(self.references[0]).familiar if self.references else self.id[7:19]

    @property
    def repo_tags(self) -> list[str]:
        """``alpine:latest``: as clients show them."""
        return [name.familiar for name in map(reference.parse, self.references) if name.tag]

    @property
    def repo_digests(self) -> list[str]:
        """``alpine@sha256:...``."""
        return [name.familiar for name in map(reference.parse, self.references) if name.digest]
