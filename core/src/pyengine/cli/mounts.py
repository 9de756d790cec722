"""The comma-separated notations: ``--mount``, ``--network``, and ``-v``."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fields(text: str) -> list[str]:
    """One line of CSV (RFC 4180) as fields."""
    if '"' not in text:
        return text.split(",")
    import csv

    return next(iter(csv.reader([text])))


def _bool(key: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f"invalid value for {key}: {text}")


_RECURSIVE = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}


def parse(text: str) -> dict[str, Any]:
    """One ``--mount`` as the API's Mount; ValueError in Docker's words."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in fields(text.strip()):
        key, separator, value = field.partition("=")
        key = key.lower()
        if not separator:
            if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        _set(mount, key, value, field)
    _check(mount)
    return mount


def _set(mount: dict[str, Any], key: str, value: str, field: str) -> None:
    group, dash, rest = key.partition("-")
    if key == "type":
        mount["Type"] = value.lower()
    elif key in ("source", "src"):
        mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif key in ("target", "dst", "destination"):
        mount["Target"] = value
    elif key in ("readonly", "ro"):
        mount["ReadOnly"] = _bool(key, value)
    elif key == "consistency":
        mount["Consistency"] = value.lower()
    elif group == "bind" and dash:
        _set_bind(mount.setdefault("BindOptions", {}), rest, key, value, field)
    elif group == "volume" and dash:
        _set_volume(mount.setdefault("VolumeOptions", {}), rest, key, value, field)
    elif key == "image-subpath":
        mount.setdefault("ImageOptions", {})["Subpath"] = value
    elif group == "tmpfs" and dash:
        _set_tmpfs(mount.setdefault("TmpfsOptions", {}), rest, key, value, field)
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _set_bind(options: dict[str, Any], rest: str, key: str, value: str, field: str) -> None:
    if rest == "propagation":
        options["Propagation"] = value.lower()
    elif rest == "nonrecursive":
        options["NonRecursive"] = _bool(key, value)
    elif rest == "recursive":
        if value not in _RECURSIVE:
            allowed = '"enabled", "disabled", "writable", or "readonly"'
            raise ValueError(f"invalid value for {key}: {value} (must be {allowed})")
        options.update(_RECURSIVE[value])
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _set_volume(options: dict[str, Any], rest: str, key: str, value: str, field: str) -> None:
    name, _, setting = value.partition("=")
    if rest == "subpath":
        options["Subpath"] = value
    elif rest == "nocopy":
        options["NoCopy"] = _bool(key, value)
    elif rest == "label":
        options.setdefault("Labels", {})[name] = setting
    elif rest == "driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif rest == "opt":
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = setting
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _set_tmpfs(options: dict[str, Any], rest: str, key: str, value: str, field: str) -> None:
    from pyengine.cli.units import parse_bytes

    try:
        if rest == "size":
            options["SizeBytes"] = parse_bytes(value)
        elif rest == "mode":
            options["Mode"] = int(value, 8)
        else:
            raise KeyError(rest)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}")
    except KeyError:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _check(mount: dict[str, Any]) -> None:
    if not mount["Type"]:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for kind in ("volume", "image", "bind", "tmpfs"):
        if f"{kind.capitalize()}Options" in mount and mount["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{mount['Type']}'")
    bind = mount.get("BindOptions", {})
    if not mount.get("ReadOnly"):
        for name, option in (
            ("writable", "ReadOnlyNonRecursive"),
            ("readonly", "ReadOnlyForceRecursive"),
        ):
            if bind.get(option):
                raise ValueError(
                    f"option 'bind-recursive={name}' requires 'readonly' to be specified "
                    "in conjunction"
                )
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be "
            "specified in conjunction"
        )


def network(text: str) -> dict[str, Any]:
    """One ``--network``: a name, or ``name=net,alias=x,ip=...``; ValueError."""
    if not re.search(r"\w+=\w+(,\w+=\w+)*", text):
        return {"Target": text}
    out: dict[str, Any] = {"Target": ""}
    lists = {"alias": "Aliases", "link-local-ip": "LinkLocalIPs"}
    names = {"name": "Target", "ip": "IPv4", "ip6": "IPv6", "mac-address": "MacAddress"}
    for field in fields(text):
        key, separator, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not separator or not key:
            raise ValueError(f"invalid field {field}")
        if key in names:
            out[names[key]] = value
        elif key in lists:
            out.setdefault(lists[key], []).append(value)
        elif key == "driver-opt":
            option, equals, setting = value.partition("=")
            if not equals:
                raise ValueError("invalid key value pair format in driver options")
            out.setdefault("DriverOpts", {})[option.strip()] = setting.strip()
        elif key == "gw-priority":
            if not value.lstrip("-").isdecimal():
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
            out["GwPriority"] = int(value)
        else:
            raise ValueError(f"invalid field key {key}")
    if not out["Target"]:
        raise ValueError("network name/id is not specified")
    return out


def bind(spec: str) -> str:
    """One ``-v`` with a relative source made absolute; empty if it is an anonymous volume.

    The engine judges the rest: it knows which modes there are.
    """
    source, colon, rest = spec.partition(":")
    if not colon or not source or len(spec) <= 2:
        return ""
    return f"{os.path.abspath(source) if source.startswith('.') else source}:{rest}"
