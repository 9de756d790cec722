"""What is done in the tree of a new container: what an image has where volumes are mounted goes
into them, and its working directory is made, so that it can be copied into before the start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from pyengine.contracts.base import Kind
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.copyup import has_directory
from pyengine.engine.model import Container, MountPoint
from pyengine.engine.threads import on_thread
from pyengine.engine.volumes import Volumes
from pyengine.errors import InvalidParameter, NotFound
from pyengine.linux.mounts import make_target


async def populate(
    container: Container, bundles: Bundles, volumes: Volumes, workdir: str = ""
) -> None:
    """Fill the empty ones among the volumes of ``container``, which nobody else knows yet, and make
    ``workdir`` unless that is in a volume or mount; "": the image has it.

    ``InvalidParameter`` where the image has a file in the place of a volume that it declares. A
    volume is mounted only if there is something to go into it: its server may not answer.
    """
    points = [p for p in container.mounts if p.type == "volume" and not p.no_copy]
    points = [p for p in points if _is_part(p) or not volumes.is_full(p.name)]
    if any(f"{workdir}/".startswith(f"{p.destination.rstrip('/')}/") for p in container.mounts):
        workdir = ""
    if not points and not workdir:
        return
    storage = bundles.storage(container)
    calls = bundles.calls(Kind.STORAGE, storage.name)
    rootfs = await calls(storage.mount, container.layer, label=container.mount_label)
    try:
        if workdir:
            await on_thread("workdir", _make, rootfs, workdir)
        await _fill(container, points, rootfs, bundles, volumes)
    finally:
        await calls(storage.unmount, container.layer)


async def _fill(
    container: Container,
    points: Sequence[MountPoint],
    rootfs: Path,
    bundles: Bundles,
    volumes: Volumes,
) -> None:
    user = f"{container.id}.create"
    for point in points:
        try:
            if not await on_thread("copy-up", has_directory, rootfs, point.destination):
                continue
        except NotADirectoryError:
            if point.spec is None:
                raise InvalidParameter(
                    "cannot mount volume over existing file, file exists "
                    f"{rootfs}{point.destination}"
                ) from None
            continue
        try:
            source = (await bundles.resolve_mount(container, point, user)).source
            await volumes.fill(point.name, Path(source), rootfs, point.destination)
        except NotFound:
            continue  # a subpath that may yet be there when the container starts
        finally:
            bundles.launched(user)
            await volumes.unmount(point.name, container.id, user)


def _make(rootfs: Path, directory: str) -> None:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What cannot be made is an error of the start, which makes it too.
        with contextlib.suppress(OSError):
            os.close(make_target(root, directory, directory=True))
    finally:
        os.close(root)


def _is_part(point: MountPoint) -> bool:
    """Whether a directory of the volume is meant, which may be empty beside full ones."""
    options = point.spec and point.spec.volume_options
    return bool(options and options.subpath)
