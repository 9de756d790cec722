"""The engine's configuration: daemon.json, flags, and how the two become one.

Keys and flags have dockerd's names (https://docs.docker.com/reference/cli/dockerd/). A key is a
field of :class:`Config`; its flag is the key itself unless :data:`FLAGS` says otherwise. Everything
wrong is reported at once. A flag beats the file, and a line says so.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.base import Kind
from pyengine.drivers import Choice
from pyengine.errors import ConfigError
from pyengine.registry import names

DEFAULT_DATA_ROOT = Path("/var/lib/pyengine")
DEFAULT_EXEC_ROOT = Path("/run/pyengine")
DEFAULT_SOCKET = "unix:///run/pyengine.sock"
DEFAULT_FILE = Path("/etc/pyengine/daemon.json")


class DriverChoice(msgspec.Struct, kw_only=True):
    """An entry of ``drivers`` in long form."""

    name: str = ""
    options: dict[str, str] = {}
    default: str = ""
    allow: list[str] | None = None


class AddressPool(msgspec.Struct):
    """An entry of ``default-address-pools``."""

    base: str
    size: int


class UlimitDefault(msgspec.Struct, rename={"name": "Name", "hard": "Hard", "soft": "Soft"}):
    """An entry of ``default-ulimits``."""

    name: str = ""
    hard: int = 0
    soft: int = 0


class Proxies(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """``proxies``; what is empty comes from the environment (``HTTPS_PROXY`` and so on)."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class RegistryEntry(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """An entry of ``registries``: how one registry is reached.

    ``mirrors`` are asked first, in this order; ``insecure`` None is as ``insecure-registries`` has
    it; ``ca``, ``client-cert`` and ``client-key`` are paths of PEM files.
    """

    mirrors: list[str] = []
    insecure: bool | None = None
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""


class Config(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """Every key that is honoured. Sizes in bytes or Docker's units, times in seconds."""

    data_root: str = str(DEFAULT_DATA_ROOT)
    exec_root: str = str(DEFAULT_EXEC_ROOT)
    pidfile: str = ""
    hosts: list[str] = []
    group: str = "docker"
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"
    labels: list[str] = []
    storage_driver: str = ""
    storage_opts: list[str] = []
    log_driver: str = ""
    log_opts: dict[str, str] = {}
    default_runtime: str = ""
    drivers: dict[str, str | list[str] | DriverChoice] = {}
    live_restore: bool = False
    shutdown_timeout: int = 15
    bridge: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    default_address_pools: list[AddressPool] = []
    ip: str = "0.0.0.0"
    ip_forward: bool = True
    ip_masq: bool = True
    iptables: bool = True
    icc: bool = True
    mtu: int = 0
    dns: list[str] = []
    dns_opts: list[str] = []
    dns_search: list[str] = []
    default_ulimits: dict[str, UlimitDefault] = {}
    default_shm_size: str | int = 67108864
    default_cgroupns_mode: str = ""
    default_ipc_mode: str = "private"
    cgroup_parent: str = ""
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    registry_mirrors: list[str] = []
    insecure_registries: list[str] = []
    registries: dict[str, RegistryEntry] = {}
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    proxies: Proxies = msgspec.field(default_factory=Proxies)
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    features: dict[str, bool] = {}

    def choices(self) -> dict[Kind, Choice]:
        """Which driver of each kind was asked for, from our ``drivers`` and Docker's keys."""
        chosen: dict[Kind, Choice] = {}
        for key, value in self.drivers.items():
            if key == Kind.SECURITY.value or isinstance(value, list):
                continue
            if isinstance(value, str):
                chosen[Kind(key)] = Choice(value)
            else:
                chosen[Kind(key)] = Choice(value.name or value.default, value.options)
        for kind, name in ((Kind.STORAGE, self.storage_driver), (Kind.LOGGING, self.log_driver)):
            if name and kind not in chosen:
                chosen[kind] = Choice(name)
        if self.default_runtime and Kind.RUNTIME not in chosen:
            chosen[Kind.RUNTIME] = Choice(self.default_runtime)
        if self.storage_opts:
            options = dict(_option(item) for item in self.storage_opts)
            now = chosen.get(Kind.STORAGE, Choice())
            chosen[Kind.STORAGE] = Choice(now.name, {**options, **now.options})
        if self.log_opts:
            now = chosen.get(Kind.LOGGING, Choice())
            chosen[Kind.LOGGING] = Choice(now.name, {**self.log_opts, **now.options})
        if self.default_address_pools:
            pools = msgspec.json.encode(self.default_address_pools).decode()
            now = chosen.get(Kind.IPAM, Choice())
            chosen[Kind.IPAM] = Choice(now.name, {"default-address-pools": pools, **now.options})
        return chosen

    def options(self) -> dict[tuple[Kind, str], dict[str, str]]:
        """What keys of Docker's that belong to one driver say to it, by kind and name."""
        if not self.seccomp_profile:
            return {}
        return {(Kind.SECURITY, "seccomp"): {"profile": self.seccomp_profile}}

    def security(self) -> list[str] | None:
        """The security plugins that were named, or None: all that are available."""
        value = self.drivers.get(Kind.SECURITY.value)
        if value is None:
            return None
        return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []

    def allowed(self, kind: Kind) -> list[str] | None:
        """Drivers that containers and networks may ask for, or None: any that is installed."""
        value = self.drivers.get(kind.value)
        return value.allow if isinstance(value, DriverChoice) else None


#: Keys whose flag is not the key itself: lists have the singular, as dockerd has them.
FLAGS = {
    "hosts": ("-H", "--host"),
    "debug": ("-D", "--debug"),
    "group": ("-G", "--group"),
    "log-level": ("-l", "--log-level"),
    "pidfile": ("-p", "--pidfile"),
    "storage-driver": ("-s", "--storage-driver"),
    "bridge": ("-b", "--bridge"),
    "labels": ("--label",),
    "storage-opts": ("--storage-opt",),
    "log-opts": ("--log-opt",),
    "dns-opts": ("--dns-opt",),
    "default-address-pools": ("--default-address-pool",),
    "default-ulimits": ("--default-ulimit",),
    "registry-mirrors": ("--registry-mirror",),
    "insecure-registries": ("--insecure-registry",),
}

#: Not settable by a flag.
FILE_ONLY = {"drivers", "features", "registries", "proxies"}

#: Keys of Docker's that this version does not honour; naming them is better than ignoring them.
NOT_YET = {
    "allow-nondistributable-artifacts", "api-cors-header", "authorization-plugins", "bridge-ip6",
    "builder", "cdi-spec-dirs", "containerd", "containerd-namespace", "containerd-plugin-namespace",
    "cpu-rt-period", "cpu-rt-runtime", "default-gateway", "default-gateway-v6",
    "default-network-opts", "dns-search-domain", "exec-opts", "experimental", "firewall-backend",
    "fixed-cidr-v6", "host-gateway-ip", "ip6tables", "ipv6", "metrics-addr",
    "node-generic-resources", "oom-score-adjust", "raw-logs", "runtimes", "selinux-enabled",
    "swarm-default-advertise-addr", "tls", "tlscacert", "tlscert", "tlskey", "tlsverify",
    "userland-proxy", "userland-proxy-path", "userns-remap",
}  # fmt: skip

#: Docker's keys that choose a driver, and the kinds they choose for.
DRIVER_KEYS = {"storage-driver": "storage", "log-driver": "logging", "default-runtime": "runtime"}

#: Keys that SIGHUP changes in a running daemon; the others wait for its next start.
RELOADABLE = {
    "debug", "log-level", "labels", "shutdown-timeout", "live-restore",
    "registry-mirrors", "insecure-registries", "registries", "max-concurrent-downloads",
    "max-concurrent-uploads", "max-download-attempts", "proxies", "http-proxy", "https-proxy",
    "no-proxy",
}  # fmt: skip

_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Config)}


class Loaded(msgspec.Struct):
    """A configuration and what has to be said about it (flags that beat the file)."""

    config: Config
    notes: list[str] = []
    file: Path = DEFAULT_FILE
    check_only: bool = False
    replace: bool = False


def load(argv: Sequence[str]) -> Loaded:
    """Read flags and file. ``ConfigError`` with every mistake, a line each; its ``detail`` is the
    lines."""
    parser = _parser()
    flags, extra = parser.parse_known_args(list(argv))
    problems = [f"unknown flag {word!r}{_nearest_flag(parser, word)}" for word in extra]
    path = Path(flags.config_file) if flags.config_file else DEFAULT_FILE
    values: dict[str, Any] = {}
    if path.exists():
        values = _read(path, problems)
    elif flags.config_file:
        problems.append(f"{path}: no such file")
    notes: list[str] = []
    for key in _FIELDS:
        given = getattr(flags, _dest(key), None)
        if given is None:
            continue
        value = _from_flag(key, given, problems)
        problems += [
            f"{FLAGS.get(key, (f'--{key}',))[-1]}: {text}" for _, text in _wrong(key, value)
        ]
        if key in values and values[key] != value:
            notes.append(f"{key}: the flag's {value!r} is used, not {values[key]!r} from {path}")
        values[key] = value
        _drop_choice(values, DRIVER_KEYS.get(key, ""), value, notes)
    _apply_driver_flags(flags.driver or [], values, problems, notes)
    config = _convert(values, problems)
    if problems:
        raise ConfigError(
            "the configuration has errors", "\n  " + "\n  ".join(problems), "nothing was started"
        )
    return Loaded(config, notes, path, flags.validate, flags.replace)


def changes(old: Config, new: Config) -> list[str]:
    """Keys whose values differ."""
    return [
        key
        for key, field in _FIELDS.items()
        if getattr(old, field.name) != getattr(new, field.name)
    ]


def adopt(running: Config, new: Config) -> None:
    """Let ``running`` have the values of ``new`` where a running daemon can change."""
    for key in RELOADABLE:
        name = _FIELDS[key].name
        setattr(running, name, getattr(new, name))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyengine daemon",
        description="Run the engine. Flags and daemon.json have dockerd's names.",
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", help=f"daemon.json (default {DEFAULT_FILE})")
    parser.add_argument(
        "--driver",
        action="append",
        metavar="KIND=NAME[,OPTION=VALUE...]",
        help="choose a driver; repeatable",
    )
    parser.add_argument("--validate", action="store_true", help="check the configuration and stop")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="take over from the daemon that runs on this data root; containers go on",
    )
    for key, field in _FIELDS.items():
        if key in FILE_ONLY:
            continue
        names = FLAGS.get(key, (f"--{key}",))
        if field.type is bool:
            parser.add_argument(*names, dest=_dest(key), nargs="?", const="true", metavar="BOOL")
        elif _is_many(key):
            parser.add_argument(*names, dest=_dest(key), action="append", metavar="VALUE")
        else:
            parser.add_argument(*names, dest=_dest(key), metavar="VALUE")
    return parser


def _dest(key: str) -> str:
    return "key_" + key.replace("-", "_")


def _is_many(key: str) -> bool:
    return not isinstance(_FIELDS[key].default, str | int | bool)


def _nearest_flag(parser: argparse.ArgumentParser, word: str) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    return _nearest(word.partition("=")[0], known)


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _from_flag(key: str, given: Any, problems: list[str]) -> Any:
    field = _FIELDS[key]
    flag = FLAGS.get(key, (f"--{key}",))[-1]
    try:
        if field.type is bool:
            return {"true": True, "1": True, "false": False, "0": False}[given.lower()]
        if field.type is int:
            return int(given)
        if key == "log-opts":
            return dict(_option(item) for item in given)
        if key == "default-address-pools":
            return [_address_pool(item) for item in given]
        if key == "default-ulimits":
            return dict(_ulimit(item) for item in given)
    except (KeyError, ValueError) as error:
        problems.append(f"{flag}: {given!r} is no valid value ({error})")
        return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return given


def _option(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise ValueError(f"{item!r} has no '='")
    return key, value


def _address_pool(item: str) -> dict[str, Any]:
    parts = dict(_option(part) for part in item.split(","))
    return {"base": parts["base"], "size": int(parts["size"])}


def _ulimit(item: str) -> tuple[str, dict[str, Any]]:
    name, value = _option(item)
    soft, _, hard = value.partition(":")
    return name, {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _drop_choice(values: dict[str, Any], kind: str, name: Any, notes: list[str]) -> None:
    """A flag with Docker's name has chosen: what the file's ``drivers`` says of that kind goes."""
    drivers = dict(values.get("drivers") or {})
    ours = drivers.get(kind)
    if ours is not None and (ours.get("name", "") if isinstance(ours, dict) else ours) != name:
        notes.append(f"drivers.{kind}: the flag's {name!r} is used, not {ours!r}")
        del drivers[kind]
        values["drivers"] = drivers


def _apply_driver_flags(
    flags: Sequence[str], values: dict[str, Any], problems: list[str], notes: list[str]
) -> None:
    drivers = dict(values.get("drivers") or {})
    security: list[str] = []
    for flag in flags:
        choice, *options = flag.split(",")
        kind, equals, name = choice.partition("=")
        if not equals or kind not in {k.value for k in Kind}:
            known = ", ".join(k.value for k in Kind)
            problems.append(f"--driver {flag!r}: wants KIND=NAME; kinds are {known}")
            continue
        if kind == Kind.SECURITY.value:
            security.append(name)
            continue
        try:
            parsed = dict(_option(option) for option in options)
        except ValueError as error:
            problems.append(f"--driver {flag!r}: {error}")
            continue
        if kind in drivers:
            notes.append(f"drivers.{kind}: the flag's {name!r} is used, not {drivers[kind]!r}")
        drivers[kind] = {"name": name, "options": parsed}
        for key, chosen_kind in DRIVER_KEYS.items():
            if chosen_kind == kind and values.get(key, name) != name:
                notes.append(f"{key}: the flag's {name!r} is used, not {values.pop(key)!r}")
    if security:
        drivers[Kind.SECURITY.value] = security
    if drivers:
        values["drivers"] = drivers


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = json.loads(text) if text.strip() else {}
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{path}:1: a JSON object is wanted, found {type(values).__name__}")
        return {}
    good: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}:{_line(text, key)}"
        if key in NOT_YET:
            problems.append(f"{where}: {key!r} is not supported by this version of pyengine")
        elif key not in _FIELDS:
            nearest = _nearest(key, [*_FIELDS, *NOT_YET])
            problems.append(f"{where}: unknown key {key!r}{nearest}")
        else:
            try:
                msgspec.convert(value, _FIELDS[key].type)
                good[key] = value
            except msgspec.ValidationError as error:
                problems.append(f"{where}: {key!r}: {error}; found {json.dumps(value)}")
                continue
            problems += [
                f"{path}:{_line(text, key, item)}: {key!r}: {problem}"
                for item, problem in _wrong(key, value)
            ]
    return good


def _line(text: str, key: str, item: str = "") -> int:
    """Where ``key`` is, or the string ``item`` in its value."""
    match = re.search(rf'"{re.escape(key)}"\s*:', text)
    start = match.start() if match else 0
    if item:
        start = max(start, text.find(json.dumps(item), start))
    return text.count("\n", 0, start) + 1


def _wrong(key: str, value: Any) -> list[tuple[str, str]]:
    """What is wrong with a value of the right type: (the string at fault or ``""``, what)."""
    if key in _COUNTS:
        what = key.replace("-", " ")
        return [("", f"invalid {what}: {value}")] if value < 0 else []
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


_COUNTS = {"max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts"}
_CHECKS: dict[str, Callable[[str], str]] = {
    "registry-mirrors": names.check_mirror,
    "insecure-registries": names.check_insecure,
    "http-proxy": names.check_proxy,
    "https-proxy": names.check_proxy,
}


def _convert(values: Mapping[str, Any], problems: list[str]) -> Config:
    drivers = values.get("drivers") or {}
    for kind in drivers:
        if kind not in {k.value for k in Kind}:
            nearest = _nearest(kind, [k.value for k in Kind])
            problems.append(f"drivers: unknown kind {kind!r}{nearest}")
    for key, kind in DRIVER_KEYS.items():
        ours = drivers.get(kind)
        name = ours.get("name") if isinstance(ours, dict) else ours
        if values.get(key) and name and values[key] != name:
            problems.append(
                f"{key} is {values[key]!r} but drivers.{kind} is {name!r}: keep one of them"
            )
    try:
        for item in values.get("storage-opts") or []:
            _option(item)
        return msgspec.convert(dict(values), Config)
    except (msgspec.ValidationError, ValueError) as error:
        problems.append(str(error))
        return Config()
