"""The flags that ``run`` and ``create`` share. Names, kinds and defaults are Docker's."""

from __future__ import annotations

import ipaddress
import re

from pyengine.cli import mounts
from pyengine.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _attach(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _on_unhealthy(text: str) -> str:
    if text not in ("none", "restart", "stop"):
        raise ValueError('must be one of "none", "restart" or "stop"')
    return text


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}")


def _extra_host(text: str) -> str:
    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if not separator or not name or ":" in name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address != "host-gateway":
        if address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def environment(text: str) -> str:
    """``NAME=value``, or ``NAME`` with the value it has here; ValueError without a name."""
    import os

    name, separator, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if not separator and name in os.environ:
        return f"{name}={os.environ[name]}"
    return text


def _label(text: str) -> str:
    name, _, _ = text.partition("=")
    if not name.strip():
        raise ValueError(f"invalid label '{text}': empty name")
    if any(char.isspace() for char in name):
        raise ValueError(f"label '{text}' contains whitespaces")
    return text


def _link(text: str) -> str:
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def _dns_search(text: str) -> str:
    text = text.strip()
    if text == ".":
        return text
    label = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
    if not re.fullmatch(rf"{label}(\.{label})*\.?", text) or len(text) > 254:
        raise ValueError(f"{text} is not a valid domain")
    return text.rstrip(".")


def _key_equals_value(text: str) -> str:
    if "=" not in text:
        raise ValueError(f"invalid value '{text}': expected key=value")
    return text


def _cgroup_rule(text: str) -> str:
    if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", text):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def _weight_device(text: str) -> dict[str, Any]:
    path, separator, weight = text.partition(":")
    if not separator:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    if not weight.isdecimal() or (int(weight) and not 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def _throttle(bytes_: bool) -> Any:
    from pyengine.cli.units import parse_bytes

    def parse(text: str) -> dict[str, Any]:
        path, separator, rate = text.partition(":")
        if not separator:
            raise ValueError(f"bad format: {text}")
        if not path.startswith("/dev/"):
            raise ValueError(f"bad format for device path: {text}")
        try:
            value = parse_bytes(rate) if bytes_ else int(rate)
        except ValueError:
            value = -1
        if value < 0:
            shape = "<device-path>:<number>[<unit>]" if bytes_ else "<device-path>:<number>"
            raise ValueError(
                f"invalid rate for device: {text}. The correct format is {shape}. "
                "Number must be a positive integer"
                + (". Unit is optional and can be kb, mb, or gb" if bytes_ else "")
            )
        return {"Path": path, "Rate": value}

    return parse


_ULIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"}
    | {"rss", "rtprio", "rttime", "sigpending", "stack"}
)


def ulimit(text: str) -> dict[str, Any]:
    """``nofile=1024:2048`` for the API; ValueError."""
    name, separator, limits = text.partition("=")
    if not separator:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    values = limits.split(":")
    if len(values) > 2 or not all(re.fullmatch(r"-?\d+", value) for value in values):
        raise ValueError(f"invalid ulimit argument: {text}")
    soft, hard = int(values[0]), int(values[-1])
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )
    return {"Name": name, "Hard": hard, "Soft": soft}


def _gpus(text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None}
    seen: set[str] = set()
    for field in mounts.fields(text):
        key, separator, value = field.partition("=")
        if key in seen:
            raise ValueError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not separator or key == "count":
            seen.add("count")
            request["Count"] = _gpu_count(value if separator else key)
        elif key == "driver":
            request["Driver"] = value
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            pairs = (option.partition("=") for option in mounts.fields(value))
            request["Options"] = {name: setting for name, _, setting in pairs}
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if "count" not in seen and request["DeviceIDs"] is None:
        request["Count"] = 1
    request.setdefault("Capabilities", [["gpu"]])
    request.setdefault("Options", {})
    return request


def _gpu_count(text: str) -> int:
    if text == "all":
        return -1
    if not text.lstrip("-").isdecimal():
        raise ValueError(
            f'invalid count ({text}): value must be either "all" or an integer: invalid syntax'
        )
    return int(text)


def _driver(text: str) -> str:
    kind, _, name = text.partition("=")
    if kind not in ("storage", "logging", "runtime") or not name:
        raise ValueError("expected storage=NAME, logging=NAME or runtime=NAME")
    return text


def _trace(text: str) -> str:
    if text not in ("table", "json"):
        raise ValueError('must be "table" or "json"')
    return text


CREATE_FLAGS = [
    Flag("add-host", "", "list", "Add a custom host-to-IP mapping (host:ip)", check=_extra_host),
    Flag(
        "annotation",
        "",
        "map",
        "Add an annotation to the container (passed through to the OCI runtime)",
        check=_key_equals_value,
    ),
    Flag("attach", "a", "list", "Attach to STDIN, STDOUT or STDERR", check=_attach),
    Flag(
        "blkio-weight",
        "",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
    Flag(
        "blkio-weight-device",
        "",
        "list",
        "Block IO weight (relative device weight)",
        check=_weight_device,
    ),
    Flag("cap-add", "", "list", "Add Linux capabilities"),
    Flag("cap-drop", "", "list", "Drop Linux capabilities"),
    Flag("cgroup-parent", "", "string", "Optional parent cgroup for the container"),
    Flag("cgroupns", "", "string", "Cgroup namespace to use (host|private)"),
    Flag("cidfile", "", "string", "Write the container ID to the file"),
    Flag("cpu-count", "", "int", "CPU count (Windows only)", hidden=True),
    Flag("cpu-percent", "", "int", "CPU percent (Windows only)", hidden=True),
    Flag("cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag("cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag("cpu-rt-period", "", "int", "Limit CPU real-time period in microseconds"),
    Flag("cpu-rt-runtime", "", "int", "Limit CPU real-time runtime in microseconds"),
    Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
    Flag("cpus", "", "decimal", "Number of CPUs"),
    Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("device", "", "list", "Add a host device to the container"),
    Flag(
        "device-cgroup-rule",
        "",
        "list",
        "Add a rule to the cgroup allowed devices list",
        check=_cgroup_rule,
    ),
    Flag(
        "device-read-bps",
        "",
        "list",
        "Limit read rate (bytes per second) from a device",
        check=_throttle(True),
    ),
    Flag(
        "device-read-iops",
        "",
        "list",
        "Limit read rate (IO per second) from a device",
        check=_throttle(False),
    ),
    Flag(
        "device-write-bps",
        "",
        "list",
        "Limit write rate (bytes per second) to a device",
        check=_throttle(True),
    ),
    Flag(
        "device-write-iops",
        "",
        "list",
        "Limit write rate (IO per second) to a device",
        check=_throttle(False),
    ),
    Flag("disable-content-trust", "", "bool", "Skip image verification", default=True),
    Flag("dns", "", "list", "Set custom DNS servers", check=_ip),
    Flag("dns-opt", "", "list", "Set DNS options", hidden=True),
    Flag("dns-option", "", "list", "Set DNS options"),
    Flag("dns-search", "", "list", "Set custom DNS search domains", check=_dns_search),
    Flag("domainname", "", "string", "Container NIS domain name"),
    Flag(
        "driver",
        "",
        "KIND=NAME",
        "Driver for this container (storage=vfs, logging=local, runtime=runc)",
        check=_driver,
    ),
    Flag("entrypoint", "", "string", "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", "list", "Set environment variables", check=environment),
    Flag("env-file", "", "list", "Read in a file of environment variables"),
    Flag("expose", "", "list", "Expose a port or a range of ports"),
    Flag(
        "gpus",
        "",
        "gpu-request",
        "GPU devices to add to the container ('all' to pass all GPUs)",
        check=_gpus,
    ),
    Flag("group-add", "", "list", "Add additional groups to join"),
    Flag("health-cmd", "", "string", "Command to run to check health"),
    Flag(
        "health-interval", "", "duration", "Time between running the check (ms|s|m|h) (default 0s)"
    ),
    Flag("health-retries", "", "int", "Consecutive failures needed to report unhealthy"),
    Flag(
        "health-start-interval",
        "",
        "duration",
        "Time between running the check during the start period (ms|s|m|h) (default 0s)",
    ),
    Flag(
        "health-start-period",
        "",
        "duration",
        "Start period for the container to initialize before starting health-retries countdown "
        "(ms|s|m|h) (default 0s)",
    ),
    Flag(
        "health-timeout",
        "",
        "duration",
        "Maximum time to allow one check to run (ms|s|m|h) (default 0s)",
    ),
    Flag("hostname", "h", "string", "Container host name"),
    Flag(
        "init",
        "",
        "bool",
        "Run an init inside the container that forwards signals and reaps processes",
    ),
    Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
    Flag("io-maxbandwidth", "", "bytes", "Maximum IO bandwidth limit (Windows only)", hidden=True),
    Flag("io-maxiops", "", "uint", "Maximum IOps limit (Windows only)", hidden=True),
    Flag("ip", "", "string", "IPv4 address (e.g., 172.30.100.104)", check=_ip),
    Flag("ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)", check=_ip),
    Flag("ipc", "", "string", "IPC mode to use"),
    Flag("isolation", "", "string", "Container isolation technology"),
    Flag("kernel-memory", "", "bytes", "Kernel memory limit"),
    Flag("label", "l", "list", "Set meta data on a container", check=_label),
    Flag("label-file", "", "list", "Read in a line delimited file of labels"),
    Flag("link", "", "list", "Add link to another container", check=_link),
    Flag("link-local-ip", "", "list", "Container IPv4/IPv6 link-local addresses", check=_ip),
    Flag("log-driver", "", "string", "Logging driver for the container"),
    Flag("log-opt", "", "list", "Log driver options"),
    Flag("mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    Flag("memory", "m", "bytes", "Memory limit"),
    Flag("memory-reservation", "", "bytes", "Memory soft limit"),
    Flag(
        "memory-swap",
        "",
        "swap",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
    Flag("memory-swappiness", "", "int", "Tune container memory swappiness (0 to 100)", default=-1),
    Flag("mount", "", "mount", "Attach a filesystem mount to the container", check=mounts.parse),
    Flag("name", "", "string", "Assign a name to the container"),
    Flag(
        "net", "", "network", "Connect a container to a network", check=mounts.network, hidden=True
    ),
    Flag("net-alias", "", "list", "Add network-scoped alias for the container", hidden=True),
    Flag("network", "", "network", "Connect a container to a network", check=mounts.network),
    Flag("network-alias", "", "list", "Add network-scoped alias for the container"),
    Flag("no-healthcheck", "", "bool", "Disable any container-specified HEALTHCHECK"),
    Flag(
        "on-unhealthy",
        "",
        "string",
        'What becomes of the container when it is unhealthy ("none", "restart", "stop")',
        check=_on_unhealthy,
    ),
    Flag("oom-kill-disable", "", "bool", "Disable OOM Killer"),
    Flag("oom-score-adj", "", "int", "Tune host's OOM preferences (-1000 to 1000)"),
    Flag("pid", "", "string", "PID namespace to use"),
    Flag("pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)"),
    Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
    Flag("privileged", "", "bool", "Give extended privileges to this container"),
    Flag("publish", "p", "list", "Publish a container's port(s) to the host"),
    Flag("publish-all", "P", "bool", "Publish all exposed ports to random ports"),
    Flag(
        "pull",
        "",
        "string",
        'Pull image before running ("always", "missing", "never")',
        default="missing",
    ),
    Flag("quiet", "q", "bool", "Suppress the pull output"),
    Flag("read-only", "", "bool", "Mount the container's root filesystem as read only"),
    Flag("restart", "", "string", "Restart policy to apply when a container exits", default="no"),
    Flag(
        "rm",
        "",
        "bool",
        "Automatically remove the container and its associated anonymous volumes when it exits",
    ),
    Flag("runtime", "", "string", "Runtime to use for this container"),
    Flag("security-opt", "", "list", "Security Options"),
    Flag("shm-size", "", "bytes", "Size of /dev/shm"),
    Flag("stop-signal", "", "string", "Signal to stop the container"),
    Flag("stop-timeout", "", "int", "Timeout (in seconds) to stop a container"),
    Flag("storage-opt", "", "list", "Storage driver options for the container"),
    Flag("sysctl", "", "map", "Sysctl options", check=_key_equals_value),
    Flag("tmpfs", "", "list", "Mount a tmpfs directory"),
    Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
    Flag("ulimit", "", "ulimit", "Ulimit options", check=ulimit),
    Flag("use-api-socket", "", "bool", "Bind mount the engine's socket and bring credentials"),
    Flag("user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("userns", "", "string", "User namespace to use"),
    Flag("uts", "", "string", "UTS namespace to use"),
    Flag("volume", "v", "list", "Bind mount a volume"),
    Flag("volume-driver", "", "string", "Optional volume driver for the container"),
    Flag("volumes-from", "", "list", "Mount volumes from the specified container(s)"),
    Flag("workdir", "w", "string", "Working directory inside the container"),
]

RUN_FLAGS = [
    *CREATE_FLAGS,
    Flag("detach", "d", "bool", "Run container in background and print container ID"),
    Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    Flag("sig-proxy", "", "bool", "Proxy received signals to the process", default=True),
    Flag(
        "trace",
        "",
        "string",
        'Show what starting the container took, step by step ("table", "json")',
        check=_trace,
        implied="table",
    ),
]
