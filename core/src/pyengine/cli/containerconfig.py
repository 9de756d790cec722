"""From the flags of ``run`` and ``create`` to the body of ``POST /containers/create``."""

from __future__ import annotations

import json
import os
import re

from pyengine.cli import mounts, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyengine.cli.flags import Options

_BUILT_IN_NETWORKS = ("default", "bridge", "host", "none", "nat", "")


def build(options: Options, image: str, command: list[str]) -> dict[str, Any]:
    """The request's body. ValueError in Docker's words for what cannot be meant."""
    config = _config(options, image, command)
    config["HostConfig"] = _host_config(options)
    binds = []
    for spec in options["volume"]:
        bind = mounts.bind(spec)
        if bind:
            binds.append(bind)
        else:
            config["Volumes"][spec] = {}
    config["HostConfig"]["Binds"] = binds or None
    exposed, bindings = _ports(options)
    config["ExposedPorts"] = exposed or None
    config["HostConfig"]["PortBindings"] = bindings
    config["NetworkingConfig"] = {"EndpointsConfig": _endpoints(options)}
    return config


def _config(options: Options, image: str, command: list[str]) -> dict[str, Any]:
    attached = options["attach"]
    mac = options["mac-address"]
    if mac and not re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", mac.strip()):
        raise ValueError(f"{mac} is not a valid mac address")
    stdin = "stdin" in attached or options["interactive"]
    entrypoint = None
    if "entrypoint" in options.changed:
        entrypoint = [options["entrypoint"]]
    config: dict[str, Any] = {
        "Hostname": options["hostname"],
        "Domainname": options["domainname"],
        "User": options["user"],
        "AttachStdin": stdin,
        "AttachStdout": not attached or "stdout" in attached,
        "AttachStderr": not attached or "stderr" in attached,
        "Tty": options["tty"],
        "OpenStdin": options["interactive"],
        "StdinOnce": bool(options["interactive"] and stdin),
        "Env": read_files(options["env-file"], from_environment=True) + options["env"],
        "Cmd": command or None,
        "Image": image,
        "Volumes": {},
        "WorkingDir": options["workdir"],
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": _labels(options),
    }
    if options["stop-signal"]:
        config["StopSignal"] = options["stop-signal"]
    if "stop-timeout" in options.changed:
        config["StopTimeout"] = options["stop-timeout"]
    health = _health(options)
    if health is not None:
        config["Healthcheck"] = health
    if mac:
        config["MacAddress"] = mac
    return config


def _labels(options: Options) -> dict[str, str]:
    lines = read_files(options["label-file"]) + options["label"]
    return pairs(lines)


def pairs(lines: list[str]) -> dict[str, str]:
    """``key=value`` lines as a dict; a missing value is empty."""
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def read_files(paths: list[str], from_environment: bool = False) -> list[str]:
    """Lines ``NAME=value``; a bare name takes its value from our environment if asked to.

    ValueError for a file that cannot be read or a line without a name.
    """
    out: list[str] = []
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = file.read().splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"invalid utf8 bytes in {path}")
        except OSError as error:
            words = (error.strerror or "").lower()
            raise ValueError(f"open {path}: {words}")
        for line in lines:
            line = line.lstrip()
            if not line or line.startswith("#"):
                continue
            name, equals, _ = line.partition("=")
            if not name:
                raise ValueError(f"no variable name on line '{line}'")
            if any(char.isspace() for char in name):
                raise ValueError(f"variable '{name}' contains whitespaces")
            if equals or not from_environment:
                out.append(line)
            elif name in os.environ:
                out.append(f"{name}={os.environ[name]}")
    return out


def _health(options: Options) -> dict[str, Any] | None:
    names = ("cmd", "interval", "timeout", "start-period", "retries", "start-interval")
    given = {name: options[f"health-{name}"] for name in names}
    if options["no-healthcheck"]:
        if any(given.values()):
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not any(given.values()):
        return None
    for name in names[1:]:
        if given[name] < 0:
            raise ValueError(f"--health-{name} cannot be negative")
    health: dict[str, Any] = {}
    if given["cmd"]:
        health["Test"] = ["CMD-SHELL", given["cmd"]]
    keys = ("Interval", "Timeout", "StartPeriod", "Retries", "StartInterval")
    for key, name in zip(keys, names[1:], strict=True):
        if given[name]:
            health[key] = given[name]
    return health


def _host_config(options: Options) -> dict[str, Any]:
    swappiness = options["memory-swappiness"]
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    _check_modes(options)
    restart = restart_policy(options["restart"])
    if options["rm"] and restart["Name"] not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    drivers = pairs(options["driver"])
    log_driver = drivers.get("logging") or options["log-driver"]
    if log_driver == "none" and options["log-opt"]:
        raise ValueError(f"invalid logging opts for driver {log_driver}")
    security, system_paths = _security(options["security-opt"])
    host: dict[str, Any] = {
        "ContainerIDFile": options["cidfile"],
        "LogConfig": {"Type": log_driver, "Config": pairs(options["log-opt"])},
        "NetworkMode": _networks(options)[0]["Target"] if _networks(options) else "default",
        "RestartPolicy": restart,
        "AutoRemove": options["rm"],
        "VolumeDriver": options["volume-driver"],
        "VolumesFrom": options["volumes-from"] or None,
        "CapAdd": options["cap-add"] or None,
        "CapDrop": options["cap-drop"] or None,
        "CgroupnsMode": options["cgroupns"],
        "Dns": options["dns"],
        "DnsOptions": options["dns-opt"] + options["dns-option"],
        "DnsSearch": options["dns-search"],
        "ExtraHosts": options["add-host"] or None,
        "GroupAdd": options["group-add"] or None,
        "IpcMode": options["ipc"],
        "Links": options["link"] or None,
        "OomScoreAdj": options["oom-score-adj"],
        "PidMode": options["pid"],
        "Privileged": options["privileged"],
        "PublishAllPorts": options["publish-all"],
        "ReadonlyRootfs": options["read-only"],
        "SecurityOpt": security or None,
        "UTSMode": options["uts"],
        "UsernsMode": options["userns"],
        "ShmSize": options["shm-size"],
        "Sysctls": pairs(options["sysctl"]),
        "Runtime": drivers.get("runtime") or options["runtime"],
        "Isolation": options["isolation"],
        **_resources(options),
    }
    host.update(system_paths)
    storage = _storage_options(options["storage-opt"])
    if "storage" in drivers:
        storage["driver"] = drivers["storage"]
    optional = {
        "Tmpfs": {
            path: rest for path, _, rest in (spec.partition(":") for spec in options["tmpfs"])
        },
        "StorageOpt": storage,
        "Mounts": options["mount"],
        "Annotations": pairs(options["annotation"]),
    }
    host.update({key: value for key, value in optional.items() if value})
    if "init" in options.changed:
        host["Init"] = options["init"]
    return host


def _resources(options: Options) -> dict[str, Any]:
    mappings, requests = _devices(options["device"])
    requests = options["gpus"] + requests
    ulimits = {limit["Name"]: limit for limit in options["ulimit"]}
    return {
        "CpuShares": options["cpu-shares"],
        "Memory": options["memory"],
        "NanoCpus": options["cpus"],
        "CgroupParent": options["cgroup-parent"],
        "BlkioWeight": options["blkio-weight"],
        "BlkioWeightDevice": options["blkio-weight-device"],
        "BlkioDeviceReadBps": options["device-read-bps"],
        "BlkioDeviceWriteBps": options["device-write-bps"],
        "BlkioDeviceReadIOps": options["device-read-iops"],
        "BlkioDeviceWriteIOps": options["device-write-iops"],
        "CpuPeriod": options["cpu-period"],
        "CpuQuota": options["cpu-quota"],
        "CpuRealtimePeriod": options["cpu-rt-period"],
        "CpuRealtimeRuntime": options["cpu-rt-runtime"],
        "CpusetCpus": options["cpuset-cpus"],
        "CpusetMems": options["cpuset-mems"],
        "Devices": mappings,
        "DeviceCgroupRules": options["device-cgroup-rule"] or None,
        "DeviceRequests": requests or None,
        "MemoryReservation": options["memory-reservation"],
        "MemorySwap": options["memory-swap"],
        "MemorySwappiness": options["memory-swappiness"],
        "OomKillDisable": options["oom-kill-disable"],
        "PidsLimit": options["pids-limit"],
        "Ulimits": [ulimits[name] for name in sorted(ulimits)],
        "CpuCount": options["cpu-count"],
        "CpuPercent": options["cpu-percent"],
        "IOMaximumIOps": options["io-maxiops"],
        "IOMaximumBandwidth": options["io-maxbandwidth"],
    }


def _check_modes(options: Options) -> None:
    shared = re.compile(r"(host|container:.+)?$")
    host_only = re.compile(r"(host)?$")
    for flag, pattern, name in (
        ("pid", shared, "PID"),
        ("uts", host_only, "UTS"),
        ("userns", host_only, "USER"),
        ("cgroupns", re.compile(r"(host|private)?$"), "CGROUP"),
    ):
        if not pattern.match(options[flag]):
            raise ValueError(f"--{flag}: invalid {name} mode")


def restart_policy(text: str) -> dict[str, Any]:
    """``on-failure:3`` for the API; ValueError."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and not count.lstrip("-").isdecimal():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _security(given: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Security options with files read, and the paths that ``systempaths=unconfined`` frees."""
    out: list[str] = []
    paths: dict[str, Any] = {"MaskedPaths": None, "ReadonlyPaths": None}
    for option in given:
        if option == "systempaths=unconfined":
            paths = {"MaskedPaths": [], "ReadonlyPaths": []}
            continue
        key, separator, value = option.partition("=")
        if not separator and key != "no-new-privileges":
            key, separator, value = option.partition(":")
        if not value and key != "no-new-privileges":
            raise ValueError(f'Invalid --security-opt: "{option}"')
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            option = "seccomp=" + _seccomp_profile(value)
        out.append(option)
    return out, paths


def _seccomp_profile(path: str) -> str:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        words = (error.strerror or "").lower()
        raise ValueError(f"opening seccomp profile ({path}) failed: open {path}: {words}")
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}")


def _storage_options(given: list[str]) -> dict[str, str]:
    if any("=" not in option for option in given):
        raise ValueError("invalid storage option")
    return pairs(given)


def _is_device_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def _devices(given: list[str]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    mappings: list[dict[str, str]] = []
    cdi: list[str] = []
    for device in given:
        if re.fullmatch(r"[\w.-]+/[\w.-]+=[\w.:-]+", device):
            cdi.append(device)
            continue
        parts = device.split(":")
        if len(parts) > 3 or not parts[0]:
            raise ValueError(f"bad format for path: {device}")
        source, target, mode = parts[0], "", "rwm"
        if len(parts) == 3:
            if not _is_device_mode(parts[2]):
                raise ValueError(f"bad mode specified: {parts[2]}")
            mode = parts[2]
        if len(parts) >= 2:
            if len(parts) == 2 and _is_device_mode(parts[1]):
                mode = parts[1]
            else:
                target = parts[1]
        target = target or source
        if not os.path.isabs(target):
            raise ValueError(f"{target} is not an absolute path")
        mappings.append(
            {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}
        )
    return mappings, [{"Driver": "cdi", "DeviceIDs": cdi}] if cdi else []


def _ports(options: Options) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in options["publish"]:
        for port, binding in ports.parse_publish(text):
            bindings.setdefault(port, []).append(binding)
    exposed: dict[str, Any] = {port: {} for port in bindings}
    for text in options["expose"]:
        exposed.update((port, {}) for port in ports.parse_expose(text))
    return exposed, bindings


def _networks(options: Options) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = options["net"] + options["network"]
    return out


def _user_defined(name: str) -> bool:
    return name not in _BUILT_IN_NETWORKS and not name.startswith("container:")


def _endpoints(options: Options) -> dict[str, Any]:
    """Endpoint settings per network; the single-network flags belong to the first one."""
    networks = _networks(options)
    out: dict[str, Any] = {}
    if {_user_defined(network["Target"]) for network in networks} == {True, False}:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined "
            "network-modes"
        )
    for number, network in enumerate(networks or [{"Target": "default"}]):
        if not number:
            network = _with_flags(network, options)
        name = network["Target"]
        if not name.strip():
            raise ValueError("no name set for network")
        if name in out:
            raise ValueError(f'network "{name}" is specified multiple times')
        endpoint = _endpoint(name, network)
        if endpoint or len(networks) > 1:
            out[name] = endpoint
    return out


def _with_flags(network: dict[str, Any], options: Options) -> dict[str, Any]:
    network = dict(network)
    aliases = options["net-alias"] + options["network-alias"]
    single = (
        ("Aliases", aliases, "--network-alias and per-network alias"),
        ("IPv4", options["ip"], "--ip and per-network IPv4 address"),
        ("IPv6", options["ip6"], "--ip6 and per-network IPv6 address"),
        ("MacAddress", options["mac-address"], "--mac-address and per-network MAC address"),
        (
            "LinkLocalIPs",
            options["link-local-ip"],
            "--link-local-ip and per-network link-local IP addresses",
        ),
    )
    for key, value, words in single:
        if value and network.get(key):
            raise ValueError(f"conflicting options: cannot specify both {words}")
        if value:
            network[key] = value
    if _user_defined(network["Target"]) and options["link"]:
        network["Links"] = options["link"]
    return network


def _endpoint(name: str, network: dict[str, Any]) -> dict[str, Any]:
    if not _user_defined(name) and network.get("Aliases"):
        raise ValueError("network-scoped aliases are only supported for user-defined networks")
    keep: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("Aliases", list),
        ("DriverOpts", dict),
        ("Links", list),
        ("MacAddress", str),
        ("GwPriority", int),
    )
    endpoint = {key: kind(network[key]) for key, kind in keep if network.get(key)}
    ipam = {
        "IPv4Address": network.get("IPv4"),
        "IPv6Address": network.get("IPv6"),
        "LinkLocalIPs": network.get("LinkLocalIPs"),
    }
    if any(ipam.values()):
        endpoint["IPAMConfig"] = {key: value for key, value in ipam.items() if value}
    return endpoint
