"""What ``-v``, ``--mount``, ``--tmpfs`` and ``--volumes-from`` mean: one list of mount points.

The result is decided when a container is created and kept in its record. Rules and wording are
Docker's (``docker run`` reference, "Volumes"; API ``Mount``).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence

import msgspec

from pyengine.engine.model import (
    BindOptions,
    Container,
    ContainerConfig,
    DriverConfig,
    HostConfig,
    Mount,
    MountPoint,
    TmpfsOptions,
    VolumeOptions,
)
from pyengine.errors import EngineError, InvalidParameter, NotFound

PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
#: Words of a ``-v`` mode by what they decide; each may be said once.
_MODES = {
    **dict.fromkeys(("ro", "rw"), "access"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(PROPAGATION, "propagation"),
    "nocopy": "copy",
    **dict.fromkeys(("cached", "delegated", "consistent"), "consistency"),
}
_TMPFS_OPTIONS = frozenset({"exec", "noexec"})


def resolve(
    config: ContainerConfig,
    host: HostConfig,
    find: Callable[[str], Container],
    *,
    data_root: str = "",
    recursive_read_only: bool = True,
) -> list[MountPoint]:
    """All mounts of a container to be, by destination: ``--volumes-from``, then ``Binds``, then
    ``Mounts``, then what the image declares and nothing covers. ``Tmpfs`` is not among them.

    A volume without a name gets one from the caller. ``data_root``: the engine's own, whose mounts
    must go away in containers as well. ``recursive_read_only``: whether read-only binds that do not
    say so have what is mounted below them read-only too (not for clients before API 1.44).
    ``InvalidParameter`` in Docker's words.
    """
    points: dict[str, MountPoint] = {}
    for item in host.volumes_from or []:
        for point in _from_container(item, find):
            points[point.destination] = point
    tmpfs = {_clean(destination) for destination in host.tmpfs or {}}
    explicit: set[str] = set()
    for text in host.binds or []:
        point = parse_bind(text, host.volume_driver)
        if point.destination in explicit or point.destination in tmpfs:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        explicit.add(point.destination)
        points[point.destination] = point
    for mount in host.mounts or []:
        point = from_mount(mount)
        if point.destination in explicit:
            raise InvalidParameter(f"Duplicate mount point: {mount.target}")
        explicit.add(point.destination)
        points[point.destination] = point
    for destination in explicit:
        if points[destination].type == "bind":
            _spare_data_root(points[destination], data_root)
            _limit_recursion(points[destination], recursive_read_only)
    for destination in config.volumes or {}:
        where = _clean(destination)
        if where not in points and where not in tmpfs:
            points[where] = MountPoint(
                type="volume", destination=where, driver=host.volume_driver, mode=""
            )
    return list(points.values())


def parse_bind(text: str, volume_driver: str = "") -> MountPoint:
    """``[source:]destination[:mode]`` of ``-v``."""
    parts = text.split(":")
    invalid = InvalidParameter(f"invalid volume specification: '{text}'")
    if len(parts) > 3 or not parts[0] or (len(parts) == 2 and _is_mode(parts[1])):
        raise invalid
    source = parts[0] if len(parts) > 1 else ""
    destination = parts[min(len(parts) - 1, 1)]
    mode = parts[2] if len(parts) == 3 else ""
    if not _is_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    words = mode.split(",")
    mount = Mount(source=source, target=destination, read_only="ro" in words)
    propagation = next((word for word in words if word in PROPAGATION), "")
    if source.startswith("/"):
        mount.type = "bind"
        mount.bind_options = BindOptions(propagation=propagation, create_mountpoint=True)
        if "nocopy" in words:
            mount.volume_options = VolumeOptions(no_copy=True)
    else:
        mount.type = "volume"
        mount.volume_options = VolumeOptions(no_copy="nocopy" in words)
        if volume_driver:
            mount.volume_options.driver_config = DriverConfig(name=volume_driver)
        if propagation:
            mount.bind_options = BindOptions(propagation=propagation)
    try:
        point = from_mount(mount)
    except InvalidParameter as error:
        raise InvalidParameter(f"{invalid.brief}: {error.brief}") from None
    point.mode = mode or point.mode
    return point


def from_mount(mount: Mount) -> MountPoint:
    """An entry of ``HostConfig.Mounts``, checked."""

    def bad(why: str) -> InvalidParameter:
        return InvalidParameter(f'invalid mount config for type "{mount.type}": {why}')

    for kind, name, given in (
        ("bind", "BindOptions", mount.bind_options),
        ("volume", "VolumeOptions", mount.volume_options),
        ("image", "ImageOptions", mount.image_options),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
        ("cluster", "ClusterOptions", mount.cluster_options),
    ):
        if given is not None and mount.type != kind:
            raise bad(f"field {name} must not be specified")
    if not mount.target:
        raise bad("field Target must not be empty")
    if _clean(mount.target) == "/":
        raise bad("invalid specification: destination can't be '/'")
    if not mount.target.startswith("/"):
        raise bad(f"invalid mount path: '{mount.target}' mount path must be absolute")
    match mount.type:
        case "bind":
            return _bind_mount(mount, bad)
        case "volume":
            return _volume_mount(mount, bad)
        case "image":
            if not mount.source:
                raise bad("field Source must not be empty")
            if mount.image_options is not None and not _is_local(mount.image_options.subpath):
                raise bad("subpath must be a relative path within the volume")
            return MountPoint(
                type="image",
                name=mount.source,
                destination=_clean(mount.target),
                rw=False,
                propagation="rprivate",
                spec=mount,
            )
        case "tmpfs":
            if mount.source:
                raise bad("field Source must not be specified")
            for option in (mount.tmpfs_options or TmpfsOptions()).options or ():
                if not 1 <= len(option) <= 2:
                    raise bad("invalid option array length")
                if option[0] not in _TMPFS_OPTIONS:
                    raise bad(f"invalid option: {option[0]}")
            return MountPoint(
                type="tmpfs", destination=_clean(mount.target), rw=not mount.read_only, spec=mount
            )
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
        if point.type != "bind" or os.path.exists(point.source):
            continue
        options = point.spec.bind_options if point.spec else None
        if options is None or not options.create_mountpoint:
            raise InvalidParameter(
                'invalid mount config for type "bind": '
                f"bind source path does not exist: {point.source}"
            )
        try:
            os.makedirs(point.source, mode=0o755, exist_ok=True)
        except OSError as error:
            raise EngineError(
                f"error while creating mount source path '{point.source}': "
                f"mkdir {error.filename}: {(error.strerror or '').lower()}"
            ) from None


def _bind_mount(mount: Mount, bad: Callable[[str], InvalidParameter]) -> MountPoint:
    options = mount.bind_options or BindOptions()
    if not mount.source:
        raise bad("field Source must not be empty")
    if options.propagation and options.propagation not in PROPAGATION:
        raise bad(f"invalid propagation mode: {options.propagation}")
    if not mount.source.startswith("/"):
        raise bad(f"invalid mount path: '{mount.source}' mount path must be absolute")
    never, always = options.read_only_non_recursive, options.read_only_force_recursive
    for conflict, what in (
        (not mount.read_only and never, "!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
        (not mount.read_only and always, "!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
        (never and always, "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"),
    ):
        if conflict:
            raise InvalidParameter(f"mount options conflict: {what}")
    return MountPoint(
        type="bind",
        source=_clean(mount.source),
        destination=_clean(mount.target),
        rw=not mount.read_only,
        propagation=options.propagation or "rprivate",
        spec=mount,
    )


def _volume_mount(mount: Mount, bad: Callable[[str], InvalidParameter]) -> MountPoint:
    options = mount.volume_options or VolumeOptions()
    if options.subpath and not mount.source:
        raise bad("must not set Subpath when using anonymous volumes")
    if not _is_local(options.subpath):
        raise bad("subpath must be a relative path within the volume")
    return MountPoint(
        type="volume",
        name=mount.source,
        destination=_clean(mount.target),
        driver=options.driver_config.name if options.driver_config else "",
        mode="z",
        rw=not mount.read_only,
        no_copy=options.no_copy,
        spec=mount,
    )


def _spare_data_root(point: MountPoint, data_root: str) -> None:
    """A bind that has the engine's mounts in it must not keep them busy when they are to go."""
    if not data_root:
        return
    source = point.source.rstrip("/") + "/"
    root = data_root.rstrip("/") + "/"
    if not source.startswith(root) and not root.startswith(source):
        return
    asked = point.spec.bind_options.propagation if point.spec and point.spec.bind_options else ""
    if asked not in ("", "rslave", "rshared"):
        raise InvalidParameter(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when '
            f'mount source is within the daemon root, daemon root: "{data_root}", bind mount '
            f'source: "{point.source}", propagation: "{asked}"'
        )
    point.propagation = asked or "rslave"


def _limit_recursion(point: MountPoint, recursive_read_only: bool) -> None:
    if not point.rw and not recursive_read_only and point.spec is not None:
        options = point.spec.bind_options = point.spec.bind_options or BindOptions()
        options.read_only_non_recursive = True


def _from_container(item: str, find: Callable[[str], Container]) -> list[MountPoint]:
    if not item:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    ref, _, mode = item.partition(":")
    words = mode.split(",")
    if not _is_mode(mode) or any(_MODES.get(w) in ("propagation", "copy") for w in words):
        raise InvalidParameter(f"invalid mode: {mode}")
    try:
        other = find(ref)
    except NotFound as error:
        # "Not found" would tell the client to pull the image.
        raise InvalidParameter(str(error)) from None
    # What is in them was filled by the container that they come from.
    return [
        msgspec.structs.replace(
            point, mode="", no_copy=True, rw=point.rw and "ro" not in words, layer="", base=""
        )
        for point in other.mounts
    ]


def _is_mode(text: str) -> bool:
    kinds = [_MODES.get(word) for word in text.split(",")] if text else []
    return None not in kinds and len(set(kinds)) == len(kinds)


def _is_local(subpath: str) -> bool:
    return not subpath.startswith("/") and not posixpath.normpath(subpath).startswith("..")


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))
