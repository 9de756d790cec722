"""Values of the right type that are wrong all the same."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyengine.registry import names


def wrong(key: str, value: Any) -> list[tuple[str, str]]:
    """What is wrong with a value of the right type: (the string at fault or ``""``, what)."""
    if key in _COUNTS:
        what = key.replace("-", " ")
        return [("", f"invalid {what}: {value}")] if value < 0 else []
    if key == "oom-score-adjust":
        return [] if -1000 <= value <= 1000 else [("", f"invalid value {value}: -1000 to 1000")]
    if key == "proxies":
        return [
            (value[name], problem)
            for name in ("http-proxy", "https-proxy")
            if (problem := names.check_proxy(value.get(name, "")))
        ]
    if key == "registries":
        return [found for host, entry in value.items() for found in _wrong_entry(host, entry)]
    check = _CHECKS.get(key)
    if check is None:
        return []
    items = [value] if isinstance(value, str) else value
    return [(item, problem) for item in items if (problem := check(item))]


def _check_address(text: str) -> str:
    """``HOST:PORT``; empty for none."""
    _, colon, port = text.rpartition(":")
    if not text or (colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        return ""
    return f"invalid address {text!r}: host:port is wanted"


def _wrong_entry(host: str, entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(host, f"{host}: {problem}")] if (problem := names.check_host(host)) else []
    if names.normalize(host) == names.DEFAULT_REGISTRY and entry.get("insecure"):
        found.append((host, f"{host}: the default registry cannot be insecure"))
    for mirror in entry.get("mirrors", []):
        if problem := names.check_mirror(mirror):
            found.append((mirror, f"{host}: {problem}"))
    for name in ("ca", "client-cert", "client-key"):
        path = entry.get(name, "")
        if path and not Path(path).is_file():
            found.append((path, f"{host}: {name}: {path}: no such file"))
    if bool(entry.get("client-cert")) != bool(entry.get("client-key")):
        found.append((host, f"{host}: client-cert and client-key belong together"))
    return found


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return f"{text!r} is no IP address"
    return ""


def _network_v6(text: str) -> str:
    try:
        ipaddress.IPv6Network(text)
    except ValueError as error:
        return f"{text!r} is no IPv6 subnet: {error}"
    return ""


def _exec_option(text: str) -> str:
    name, _, value = text.partition("=")
    if name != "native.cgroupdriver":
        return f"unknown option {name!r}: native.cgroupdriver is known"
    if value != "cgroupfs":
        return f"native.cgroupdriver {value!r} is not in this version: cgroupfs is"
    return ""


_COUNTS = {
    "mtu",
    "shutdown-timeout",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
}


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        return "" if text in words else f"{text!r} is none of {', '.join(words)}"

    return check


_CHECKS: dict[str, Callable[[str], str]] = {
    "metrics-addr": _check_address,
    "registry-mirrors": names.check_mirror,
    "insecure-registries": names.check_insecure,
    "http-proxy": names.check_proxy,
    "log-level": _one_of("trace", "debug", "info", "warn", "error", "fatal", "panic"),
    "log-format": _one_of("text", "json"),
    "default-ipc-mode": _one_of("private", "shareable"),
    "default-cgroupns-mode": _one_of("", "private", "host"),
    "dns": _address,
    "ip": _address,
    "host-gateway-ip": _address,
    "fixed-cidr-v6": _network_v6,
    "exec-opts": _exec_option,
    "https-proxy": names.check_proxy,
}
