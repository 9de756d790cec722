"""Values of the right type that are wrong all the same."""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyengine.config import addresses
from pyengine.config.keys import API_VERSION, MIN_API_VERSION
from pyengine.engine.units import parse_size
from pyengine.errors import InvalidParameter
from pyengine.linux import systemd
from pyengine.oci.defaults import RLIMITS
from pyengine.registry import names

#: (the string at fault or ``""``, what is wrong with it).
Problems = list[tuple[str, str]]


def wrong(key: str, value: Any) -> Problems:
    """What is wrong with a value of the right type, as :data:`Problems`."""
    if key in _WHOLE:
        return _WHOLE[key](value)
    if key in _COUNTS:
        what = key.replace("-", " ")
        return [("", f"invalid {what}: {value}")] if value < 0 else []
    check = _CHECKS.get(key)
    if check is None:
        return []
    items = [value] if isinstance(value, str) else value or []
    return [(item, problem) for item in items if (problem := check(item))]


# -- of a value as a whole -------------------------------------------------------------------------


def _proxies(value: Mapping[str, str]) -> Problems:
    return [
        (value[name], problem)
        for name in ("http-proxy", "https-proxy")
        if (problem := names.check_proxy(value.get(name, "")))
    ]


def _registries(value: Mapping[str, Any]) -> Problems:
    return [found for host, entry in value.items() for found in _registry(host, entry)]


def _registry(host: str, entry: Mapping[str, Any]) -> Problems:
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


def _oom_score(value: int) -> Problems:
    return [] if -1000 <= value <= 1000 else [("", f"invalid value {value}: -1000 to 1000")]


def _mtu(value: int) -> Problems:
    # 68 is the least that IPv4 allows (RFC 791), 65535 the most that the kernel does.
    good = value == 0 or 68 <= value <= 65535
    return [] if good else [("", f"invalid mtu: {value}: 68 to 65535, or 0 for the kernel's")]


def _labels(value: list[str]) -> Problems:
    found: Problems = []
    first: dict[str, str] = {}
    for label in value:
        name, equals, _ = label.partition("=")
        if not equals or not name:
            found.append((label, f"bad attribute format: {label!r}: name=value is wanted"))
        elif label.lower().startswith(("com.docker.", "io.docker.", "org.dockerproject.")):
            found.append((label, f"{label!r} is in a name space that Docker keeps to itself"))
        elif first.setdefault(name, label) != label:
            found.append((label, f"conflict labels for {label} and {first[name]}: keep one"))
    return found


def _ulimits(value: Mapping[str, Mapping[str, Any]]) -> Problems:
    found: Problems = []
    for name, limit in value.items():
        soft, hard = limit.get("Soft", 0), limit.get("Hard", 0)
        if name not in RLIMITS:
            found.append(
                (name, f"invalid ulimit type: {name}: one of {', '.join(sorted(RLIMITS))}")
            )
        if limit.get("Name", name) != name:
            found.append((name, f"{name} has the Name {limit['Name']!r}: give both the same"))
        # -1 is without limit.
        if hard >= 0 and not -1 < soft <= hard:
            found.append((name, f"{name}: the soft limit {soft} is above the hard limit {hard}"))
    return found


def _shm_size(value: str | int) -> Problems:
    try:
        good = parse_size(value) > 0
    except InvalidParameter:
        good = False
    return [] if good else [(str(value), f"invalid size {value!r}: bytes, or as in 64m")]


def _runtimes(value: Mapping[str, Mapping[str, Any]]) -> Problems:
    found: Problems = []
    for name, entry in value.items():
        if bool(entry.get("path")) == bool(entry.get("runtimeType")):
            found.append((name, f"{name}: either path (a program) or runtimeType (a driver)"))
        if entry.get("runtimeArgs") and entry.get("runtimeType"):
            found.append((name, f"{name}: runtimeArgs are for programs, not for a runtimeType"))
    return found


def _host_gateways(value: list[str]) -> Problems:
    found = [(one, problem) for one in value if (problem := addresses.address(one))]
    if not found and len({":" in one for one in value}) < len(value):
        found.append((value[-1], f"{', '.join(value)}: one of each family at the most"))
    return found


_WHOLE: dict[str, Callable[[Any], Problems]] = {
    "default-shm-size": _shm_size,
    "host-gateway-ips": _host_gateways,
    "default-ulimits": _ulimits,
    "labels": _labels,
    "mtu": _mtu,
    "oom-score-adjust": _oom_score,
    "proxies": _proxies,
    "registries": _registries,
    "runtimes": _runtimes,
}

_COUNTS = {
    "cpu-rt-period",
    "cpu-rt-runtime",
    "default-stop-timeout",
    "shutdown-timeout",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
}


# -- of a string, or of each string of a list ------------------------------------------------------


def _exec_option(text: str) -> str:
    name, _, value = text.partition("=")
    if name != "native.cgroupdriver":
        return f"unknown option {name!r}: native.cgroupdriver is known"
    if value not in ("cgroupfs", "systemd"):
        return f"native.cgroupdriver {value!r} is none of cgroupfs, systemd"
    problem = systemd.missing() if value == "systemd" else ""
    return f"native.cgroupdriver systemd cannot be: {problem}" if problem else ""


def _option(text: str) -> str:
    name, equals, _ = text.partition("=")
    return "" if name and equals else f"{text!r} has no '=': name=value is wanted"


def _absolute(text: str) -> str:
    return "" if not text or text.startswith("/") else f"{text!r} is no absolute path"


def _file(text: str) -> str:
    return "" if not text or Path(text).is_file() else f"{text}: no such file"


def _program(text: str) -> str:
    """A name is looked up when it is needed; a path is what it is."""
    if "/" not in text or os.access(text, os.X_OK):
        return ""
    return f"{text}: no such program"


def _group(text: str) -> str:
    """Docker's own default need not exist."""
    if text in ("", "docker") or text.isdecimal():
        return ""
    try:
        grp.getgrnam(text)
    except KeyError:
        return f"there is no group {text!r}"
    return ""


def _domain(text: str) -> str:
    good = text == "." or (_DOMAIN.fullmatch(text) and re.search("[A-Za-z]", text))
    return "" if good else f"{text!r} is not a valid domain"


_DOMAIN = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def _api_version(text: str) -> str:
    """Between the oldest and the newest that is served."""
    major, _, minor = text.partition(".")
    oldest, newest = (_version(one) for one in (MIN_API_VERSION, API_VERSION))
    if major.isdecimal() and minor.isdecimal() and oldest <= _version(text) <= newest:
        return ""
    return f"{text!r} is no API version between {MIN_API_VERSION} and {API_VERSION}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        return "" if text in words else f"{text!r} is none of {', '.join(filter(None, words))}"

    return check


_CHECKS: dict[str, Callable[[str], str]] = {
    "bip": addresses.bridge_address,
    "bip6": addresses.bridge_address_v6,
    "cdi-spec-dirs": _absolute,
    "data-root": _absolute,
    "default-gateway": addresses.address_v4,
    "default-gateway-v6": addresses.address_v6,
    "default-cgroupns-mode": _one_of("", "private", "host"),
    "default-ipc-mode": _one_of("private", "shareable"),
    "dns": addresses.address,
    "dns-search": _domain,
    "exec-opts": _exec_option,
    "exec-root": _absolute,
    "fixed-cidr": addresses.subnet,
    "fixed-cidr-v6": addresses.subnet_v6,
    "group": _group,
    "host-gateway-ip": addresses.address,
    "hosts": addresses.host,
    "http-proxy": names.check_proxy,
    "https-proxy": names.check_proxy,
    "init-path": _program,
    "insecure-registries": names.check_insecure,
    "ip": addresses.address_v4,
    "log-format": _one_of("text", "json"),
    "log-level": _one_of("trace", "debug", "info", "warn", "error", "fatal", "panic"),
    "metrics-addr": addresses.endpoint,
    "min-api-version": _api_version,
    "pidfile": _absolute,
    "registry-mirrors": names.check_mirror,
    "storage-opts": _option,
    "tlscacert": _file,
    "tlscert": _file,
    "tlskey": _file,
}
