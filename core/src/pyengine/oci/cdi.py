"""Devices that vendors describe in files: the Container Device Interface.

A file in one of the directories describes devices of one kind (``vendor.com/class``) by what each
needs in a runtime spec; ``--device vendor.com/class=name`` asks for one. Source: the CDI
specification up to version 1.1.0 (cncf-tags/container-device-interface, SPEC.md). Messages are in
the words of its Go library, which Docker uses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from pyengine.errors import EngineError
from pyengine.oci import devices
from pyengine.oci.mounts import sort_by_depth

DEFAULT_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")

_VERSIONS = frozenset(
    ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
)
_HOOKS = frozenset(
    ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
)
_KIND_PART = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)


class _Strict(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    pass


class DeviceNode(_Strict):
    """``host_path`` empty: as ``path``. What is not given is the host's node's."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class NetDevice(_Strict):
    host_interface_name: str
    name: str


class Hook(_Strict):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Mount(_Strict):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class ContainerEdits(_Strict):
    """What changes in a runtime spec. ``intel_rdt``: as the runtime specification has it."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    net_devices: list[NetDevice] = []
    hooks: list[Hook] = []
    mounts: list[Mount] = []
    intel_rdt: dict[str, Any] | None = None
    additional_gids: list[int] = []


class Device(_Strict, kw_only=True):
    name: str
    annotations: dict[str, str] = {}
    container_edits: ContainerEdits


class Kind(_Strict, kw_only=True):
    """The contents of a file. ``container_edits`` belong to all of its devices."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: list[Device]
    container_edits: ContainerEdits = msgspec.field(default_factory=ContainerEdits)


class Found(msgspec.Struct):
    """``devices``: by qualified name, with the kind each belongs to. ``problems``: of files, by
    path; such a file, or the devices that two files describe, cannot be had."""

    devices: dict[str, tuple[Kind, Device]] = {}
    problems: dict[str, list[str]] = {}


class Devices:
    """What the files in ``directories`` describe; of two directories the later one counts.

    Files are looked at when a container asks, and read again only when they changed.
    """

    def __init__(self, directories: Sequence[str] = DEFAULT_DIRECTORIES) -> None:
        self.directories = list(directories)
        self._read: dict[str, tuple[tuple[int, int, int], Kind | str]] = {}

    def scan(self) -> Found:
        """Everything that is described now."""
        found = Found()
        origin: dict[str, tuple[int, str]] = {}
        conflicts: set[str] = set()
        for priority, path in self._files():
            kind = self._load(path)
            if isinstance(kind, str):
                found.problems.setdefault(path, []).append(f"failed to load CDI Spec {kind}")
                continue
            for device in kind.devices:
                name = f"{kind.kind}={device.name}"
                before = origin.get(name)
                if before is not None and before[0] == priority:
                    conflicts.add(name)
                    problem = f'conflicting device "{name}" (specs "{path}", "{before[1]}")'
                    for one in (path, before[1]):
                        found.problems.setdefault(one, []).append(problem)
                    continue
                conflicts.discard(name)
                origin[name] = (priority, path)
                found.devices[name] = (kind, device)
        for name in conflicts:
            del found.devices[name]
        return found

    def inject(self, spec: dict[str, Any], names: Sequence[str]) -> None:
        """Give a container the devices ``names`` (qualified). Raises ``EngineError`` for one that
        no file describes, and for a node that the host does not have; ``spec`` may be half changed
        then."""
        found = self.scan()
        missing = [name for name in names if name not in found.devices]
        if missing:
            problems = [problem for some in found.problems.values() for problem in some]
            raise EngineError(
                f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}",
                help="; ".join(problems),
            )
        kinds: list[int] = []
        for name in names:
            kind, device = found.devices[name]
            if id(kind) not in kinds:
                kinds.append(id(kind))
                _apply(spec, kind.container_edits)
            _apply(spec, device.container_edits)

    def _files(self) -> list[tuple[int, str]]:
        files = []
        for priority, directory in enumerate(self.directories):
            try:
                names = sorted(os.listdir(directory))
            except OSError:
                continue  # it need not be there
            files += [
                (priority, os.path.join(directory, name))
                for name in names
                if name.endswith((".json", ".yaml"))
            ]
        return files

    def _load(self, path: str) -> Kind | str:
        """The file's contents, or what is wrong with it."""
        try:
            status = os.stat(path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            return f'failed to read CDI Spec "{path}": {(error.strerror or "").lower()}'
        result: Kind | str
        try:
            result = parse(data, yaml=path.endswith(".yaml"))
        except ValueError as error:
            result = f'failed to parse CDI Spec "{path}": {error}'
        self._read[path] = (stamp, result)
        return result


def parse(data: bytes, *, yaml: bool = False) -> Kind:
    """``ValueError`` for what is not a valid file."""
    if yaml:
        import yaml as library  # a tenth of a second that only those pay who have such files

        try:
            kind = msgspec.convert(library.safe_load(data), Kind)
        except library.YAMLError as error:
            raise ValueError(str(error)) from None
    else:
        kind = msgspec.json.decode(data, type=Kind)
    if kind.cdi_version.removeprefix("v") not in _VERSIONS:
        raise ValueError(f'invalid CDI Spec: invalid version "{kind.cdi_version}"')
    vendor, slash, type = kind.kind.partition("/")
    if not slash or not _KIND_PART.fullmatch(vendor):
        raise ValueError(f'invalid CDI Spec: invalid vendor. "{vendor}"')
    if not _KIND_PART.fullmatch(type):
        raise ValueError(f'invalid CDI Spec: invalid class. "{type}"')
    _check(kind.container_edits)
    names = [device.name for device in kind.devices]
    if not names:
        raise ValueError("invalid CDI Spec: invalid spec, no devices")
    for device in kind.devices:
        if not _DEVICE_NAME.fullmatch(device.name):
            raise ValueError(f'invalid CDI Spec: invalid device name "{device.name}"')
        if names.count(device.name) > 1:
            raise ValueError(f'invalid CDI Spec: invalid spec, multiple device "{device.name}"')
        if device.container_edits == ContainerEdits():
            raise ValueError("invalid CDI Spec: invalid device, empty device edits")
        _check(device.container_edits)
    return kind


def _check(edits: ContainerEdits) -> None:
    for entry in [*edits.env, *(entry for hook in edits.hooks for entry in hook.env)]:
        if entry.find("=") <= 0:
            raise ValueError(f'invalid container edits: invalid environment variable "{entry}"')
    for node in edits.device_nodes:
        if not node.path:
            raise ValueError("invalid (empty) device path")
        if node.type not in ("", "b", "c", "u", "p"):
            raise ValueError(f'device "{node.path}": invalid type "{node.type}"')
        if node.permissions.strip("rwm"):
            raise ValueError(f'device "{node.path}": invalid permissions "{node.permissions}"')
    for hook in edits.hooks:
        if hook.hook_name not in _HOOKS:
            raise ValueError(f'invalid hook name "{hook.hook_name}"')
        if not hook.path:
            raise ValueError(f'invalid hook "{hook.hook_name}" with empty path')
    for mount in edits.mounts:
        if not mount.host_path:
            raise ValueError("invalid mount, empty host path")
        if not mount.container_path:
            raise ValueError("invalid mount, empty container path")


def _apply(spec: dict[str, Any], edits: ContainerEdits) -> None:
    process, linux = spec["process"], spec["linux"]
    for entry in edits.env:
        name = entry.partition("=")[0] + "="
        process["env"] = [e for e in process["env"] if not e.startswith(name)] + [entry]
    for node in edits.device_nodes:
        device = _device(node, process["user"])
        linux["devices"] = [d for d in linux["devices"] if d["path"] != node.path] + [device]
        if device["type"] in ("b", "c"):
            linux["resources"]["devices"].append(devices.allowing(device, node.permissions))
    for interface in edits.net_devices:
        named = linux.setdefault("netDevices", {})
        named[interface.host_interface_name] = {"name": interface.name}
    for mount in edits.mounts:
        others = [m for m in spec["mounts"] if m["destination"] != mount.container_path]
        made = {
            "destination": mount.container_path,
            "type": mount.type or "bind",
            "source": mount.host_path,
            "options": list(mount.options),
        }
        spec["mounts"] = sort_by_depth([*others, made])
    for hook in edits.hooks:
        made_hook: dict[str, Any] = {"path": hook.path, "args": hook.args, "env": hook.env}
        if hook.timeout is not None:
            made_hook["timeout"] = hook.timeout
        spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(made_hook)
    if edits.intel_rdt is not None:
        linux["intelRdt"] = edits.intel_rdt
    groups = process["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edits.additional_gids if gid and gid not in groups]


def _device(node: DeviceNode, user: dict[str, Any]) -> dict[str, Any]:
    where = node.host_path or node.path
    described = node.type != "" and (node.major != 0 or node.type == "p")
    try:
        host = devices.at(where)
    except OSError as error:
        if not described:
            raise EngineError(
                "CDI device injection failed: failed to inject devices: failed to stat CDI host "
                f'device "{where}"',
                (error.strerror or str(error)).lower(),
            ) from None
        host = {}
    if not described and node.type not in ("", host["type"]):
        raise EngineError(
            f'CDI device injection failed: failed to inject devices: CDI device ("{node.path}", '
            f'"{where}"), host type mismatch ({node.type}, {host["type"]})'
        )
    made = {
        "path": node.path,
        "type": node.type or host["type"],
        "major": node.major if described else host["major"],
        "minor": node.minor if described else host["minor"],
    }
    mode = host.get("fileMode") if node.file_mode is None else node.file_mode
    if mode is not None:
        made["fileMode"] = mode
    for name, given, own in (("uid", node.uid, user["uid"]), ("gid", node.gid, user["gid"])):
        if given is not None or own > 0:
            made[name] = own if given is None else given
    return made
