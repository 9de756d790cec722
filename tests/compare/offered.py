"""What both engines find in a registry beside them, in their own network namespace."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import busybox_tar
from tests.registries.images import Artifact, Image, Index, Layer, tar_of
from tests.registries.lab import Lab

ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


@contextmanager
def registry(namespace: str) -> Iterator[dict[str, str]]:
    """A registry in the namespace of that name (of ``ip netns``); words that stand for it in steps.

    ``two:1`` and ``two:2`` share their first layer, ``many:1`` is there for two processors,
    ``far:1`` for another one only, ``thing:1`` is no image.
    """
    with tempfile.TemporaryDirectory(prefix="compare-registry-") as directory:
        lab = Lab(namespace, Path(directory, "lab"))
        try:
            found = lab.plain()
            base = Layer(_base(Path(directory, "busybox.tar")))
            first = _image(base, "one")
            digest = lab.put(found, "two", "1", first)
            lab.put(found, "two", "2", _image(base, "two"))
            far = Image(first.layers, first.config, ARM)
            lab.put(found, "many", "1", Index([first, far]))
            lab.put(found, "far", "1", Index([far]))
            lab.put(found, "thing", "1", Artifact())
            yield {"registry": found.host, "digest": digest}
        finally:
            lab.close()


def _base(path: Path) -> bytes:
    """busybox, but not the layer that the image `compare` has: what is known of one must not show
    where the other is pushed."""
    with tarfile.open(busybox_tar(path), "a") as tar:
        tar.addfile(tarfile.TarInfo("offered"))
    return path.read_bytes()


def _image(base: Layer, text: str) -> Image:
    settings = {"Env": ["COLOUR=red"], "Labels": {"text": text}}
    return Image([base, Layer(tar_of({"greeting": text}))], settings, docker=True)
