"""What ``-v``, ``--mount``, ``--tmpfs`` and ``--volumes-from`` mean: one list of mount points.

The result is decided when a container is created and kept in its record. Rules and wording are
Docker's (``docker run`` reference, "Volumes"; API ``Mount``).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence

from pyengine.engine.model import (
    BindOptions,
    Container,
    ContainerConfig,
    HostConfig,
    Mount,
    MountPoint,
    TmpfsOptions,
    VolumeOptions,
)
from pyengine.errors import InvalidParameter, NotFound

PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_MODES = frozenset({"ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent"})


def resolve(
    config: ContainerConfig, host: HostConfig, find: Callable[[str], Container]
) -> list[MountPoint]:
    """All mounts of a container to be, by destination: ``--volumes-from``, then ``Binds``, then
    ``Mounts``, then tmpfs, then what the image declares and nothing covers.

    A volume without a name gets one from the caller. ``InvalidParameter`` in Docker's words.
    """
    points: dict[str, MountPoint] = {}
    for item in host.volumes_from or []:
        for point in _from_container(item, find):
            points[point.destination] = point
    explicit: set[str] = set()
    for text in host.binds or []:
        point = parse_bind(text, host.volume_driver)
        if point.destination in explicit:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        explicit.add(point.destination)
        points[point.destination] = point
    for mount in host.mounts or []:
        point = from_mount(mount)
        if point.destination in explicit:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        explicit.add(point.destination)
        points[point.destination] = point
    for destination in host.tmpfs or {}:
        _absolute(destination)
        points.pop(_clean(destination), None)
    covered = {_clean(destination) for destination in host.tmpfs or {}}
    for destination in config.volumes or {}:
        where = _clean(destination)
        if where not in points and where not in covered:
            _absolute(destination)
            points[where] = MountPoint(
                type="volume", destination=where, driver=host.volume_driver, mode=""
            )
    return list(points.values())


def parse_bind(text: str, volume_driver: str = "") -> MountPoint:
    """``[source:]destination[:mode]`` of ``-v``."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    mode = parts[2] if len(parts) == 3 else ""
    source, destination = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    kind = "bind" if source.startswith("/") else "volume"
    if source and not destination.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
            f"invalid mount path: '{destination}' mount path must be absolute"
        )
    _absolute(destination, text)
    where = _clean(destination)
    if where == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type "
            f'"{kind}": '
            "invalid specification: destination can't be '/'"
        )
    propagation, read_only, no_copy = "", False, False
    if len({"ro", "rw"} & set(mode.split(","))) > 1:
        raise InvalidParameter(f"invalid mode: {mode}")
    for word in mode.split(",") if mode else []:
        if word in PROPAGATION:
            propagation = word
        elif word in _MODES:
            read_only = read_only or word == "ro"
            no_copy = no_copy or word == "nocopy"
        else:
            raise InvalidParameter(f"invalid mode: {mode}")
    if source.startswith("/"):
        return MountPoint(
            type="bind",
            source=posixpath.normpath(source),
            destination=where,
            mode=mode,
            rw=not read_only,
            propagation=propagation or "rprivate",
            spec=Mount(type="bind", bind_options=BindOptions(create_mountpoint=True)),
        )
    if source.startswith("."):
        raise InvalidParameter(
            f'create {source}: "{source}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host '
            "directory, use absolute path"
        )
    return MountPoint(
        type="volume",
        name=source,
        destination=where,
        driver=volume_driver,
        mode=mode or ("z" if source else ""),
        rw=not read_only,
        no_copy=no_copy,
    )


def from_mount(mount: Mount) -> MountPoint:
    """An entry of ``HostConfig.Mounts``, checked."""

    def bad(why: str) -> InvalidParameter:
        return InvalidParameter(f'invalid mount config for type "{mount.type}": {why}')

    if not mount.target:
        raise bad("field Target must not be empty")
    if not mount.target.startswith("/"):
        raise bad(f"invalid mount path: '{mount.target}' mount path must be absolute")
    where = _clean(mount.target)
    if where == "/":
        raise bad("invalid specification: destination can't be '/'")
    if mount.type == "bind":
        return _bind_mount(mount, where, bad)
    if mount.bind_options is not None and mount.bind_options != BindOptions():
        raise bad("field BindOptions must not be specified")
    if mount.type == "volume":
        options = mount.volume_options or VolumeOptions()
        if options.subpath and (options.subpath.startswith("/") or ".." in options.subpath):
            raise bad("subpath must be a relative path within the volume")
        driver = options.driver_config.name if options.driver_config else ""
        return MountPoint(
            type="volume",
            name=mount.source,
            destination=where,
            driver=driver,
            mode="z",
            rw=not mount.read_only,
            no_copy=options.no_copy,
            spec=mount,
        )
    if mount.volume_options is not None and mount.volume_options != VolumeOptions():
        raise bad("field VolumeOptions must not be specified")
    if mount.type == "tmpfs":
        if mount.source:
            raise bad("field Source must not be specified")
        return MountPoint(type="tmpfs", destination=where, rw=not mount.read_only, spec=mount)
    raise bad("mount type unknown")


def tmpfs_options(options: TmpfsOptions | None) -> list[str]:
    """Mount options of a ``--mount type=tmpfs``."""
    words: list[str] = []
    if options is not None:
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        if options.mode:
            words.append(f"mode={options.mode:o}")
        words += ["=".join(pair) for pair in options.options or []]
    return words


def check_sources(points: Sequence[MountPoint]) -> None:
    """Make missing bind sources of ``-v`` (as Docker does); ``--mount`` refuses them."""
    for point in points:
        if point.type != "bind" or os.path.lexists(point.source):
            continue
        options = point.spec.bind_options if point.spec else None
        if options is not None and options.create_mountpoint:
            os.makedirs(point.source, mode=0o755, exist_ok=True)
        else:
            raise InvalidParameter(
                'invalid mount config for type "bind": '
                f"bind source path does not exist: {point.source}"
            )


def _bind_mount(mount: Mount, where: str, bad: Callable[[str], InvalidParameter]) -> MountPoint:
    options = mount.bind_options or BindOptions()
    if not mount.source:
        raise bad("field Source must not be empty")
    if mount.volume_options is not None and mount.volume_options != VolumeOptions():
        raise bad("field VolumeOptions must not be specified")
    if not mount.source.startswith("/"):
        raise bad(f"invalid mount path: '{mount.source}' mount path must be absolute")
    if options.propagation and options.propagation not in PROPAGATION:
        raise bad(f"invalid propagation mode: {options.propagation}")
    return MountPoint(
        type="bind",
        source=posixpath.normpath(mount.source),
        destination=where,
        rw=not mount.read_only,
        propagation=options.propagation or "rprivate",
        spec=mount,
    )


def _from_container(item: str, find: Callable[[str], Container]) -> list[MountPoint]:
    ref, _, mode = item.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidParameter(f"invalid mode: {mode}")
    inherited = []
    try:
        other = find(ref)
    except NotFound as error:
        # "Not found" would tell the client to pull the image.
        raise InvalidParameter(str(error)) from None
    for point in other.mounts:
        copy = MountPoint(**{name: getattr(point, name) for name in point.__struct_fields__})
        copy.rw = point.rw and mode != "ro"
        copy.no_copy = True  # it was filled by the container it comes from
        inherited.append(copy)
    return inherited


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _absolute(destination: str, text: str = "") -> None:
    if not destination.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text or destination}': "
            f"invalid mount path: '{destination}' mount path must be absolute"
        )
