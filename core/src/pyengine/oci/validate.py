"""``HostConfig`` at create and update: defaults filled in, then checked with Docker's wording.

Three steps, in this order: :func:`adapt` fills in what Docker fills in, :func:`check_settings`
refuses what is wrong by itself, :func:`check_resources` what this host cannot do. All change the
``HostConfig`` they are given. Sources: moby ``daemon/daemon_unix.go``, ``daemon/container.go`` and
``runconfig``.
"""

from __future__ import annotations

import posixpath

from pyengine.engine.model import ContainerConfig, HealthConfig, HostConfig, RestartPolicy
from pyengine.errors import InvalidParameter
from pyengine.oci import capabilities, devices, security
from pyengine.oci.defaults import MASKED_PATHS, READONLY_PATHS, RLIMITS
from pyengine.oci.facts import HostFacts
from pyengine.oci.mounts import tmpfs_options
from pyengine.oci.spec import RESERVED_ANNOTATIONS, EngineOptions

#: Below this the runtime itself could not start the container.
MINIMUM_MEMORY = 6 << 20
_HOSTNAME_LIMIT = 64
_MILLISECOND = 1_000_000
#: More processors than any kernel is built for.
_CPUSET_LIMIT = 8192


def adapt(
    host: HostConfig,
    facts: HostFacts,
    engine: EngineOptions,
    *,
    ipc_mode: str = "private",
    cgroupns_mode: str = "",
) -> None:
    """Fill in what the user left open. ``ipc_mode`` and ``cgroupns_mode``: the engine's defaults,
    "" for the latter means private on cgroup v2 and host on v1."""
    if host.memory > 0 and host.memory_swap == 0:
        host.memory_swap = host.memory * 2
    host.shm_size = host.shm_size or engine.shm_size
    host.ipc_mode = host.ipc_mode or ipc_mode
    if not host.cgroupns_mode:
        default = cgroupns_mode or ("private" if facts.cgroup_v2 else "host")
        host.cgroupns_mode = "host" if host.privileged and not facts.cgroup_v2 else default
    if host.oom_kill_disable is None:
        host.oom_kill_disable = False
    host.console_size = [*host.console_size, 0, 0][:2]
    unconfined = any(option == "systempaths=unconfined" for option in host.security_opt or ())
    if not host.privileged:
        if host.masked_paths is None:
            host.masked_paths = [] if unconfined else list(MASKED_PATHS)
        if host.readonly_paths is None:
            host.readonly_paths = [] if unconfined else list(READONLY_PATHS)


def check_settings(config: ContainerConfig, host: HostConfig) -> None:
    """Raise ``InvalidParameter`` for the first thing that is wrong on any host."""
    if len(config.hostname) > _HOSTNAME_LIMIT:
        raise InvalidParameter(
            f'hostname "{config.hostname}" is too long (maximum {_HOSTNAME_LIMIT} bytes)'
        )
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute "
            "path"
        )
    if config.working_dir:
        config.working_dir = posixpath.normpath("/" + config.working_dir.lstrip("/"))
    for entry in config.env or ():
        if entry == "" or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
    _healthcheck(config.healthcheck)
    check_restart_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    for field, names in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        try:
            capabilities.normalise(names or ())
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid {field}", error.brief) from None
    _modes(config, host)
    if host.isolation not in ("", "default"):
        raise InvalidParameter(
            f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'"
        )
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    for limit in host.ulimits or ():
        if limit.name.lower() not in RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.soft > limit.hard >= 0:
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > "
                f"{limit.hard}"
            )
    for rule in host.device_cgroup_rules or ():
        devices.parse_rule(rule)
    for destination, options in (host.tmpfs or {}).items():
        if not destination.startswith("/"):
            raise InvalidParameter(
                f"invalid mount path: '{destination}' mount path must be absolute"
            )
        if not destination.strip("/"):
            raise InvalidParameter("invalid specification: destination can't be '/'")
        tmpfs_options(options.split(","))
    security.parse(host.security_opt)
    for name in host.annotations or ():
        if name == "":
            raise InvalidParameter(
                "invalid Annotations: the empty string is not permitted as an annotation key"
            )
        if name.startswith(RESERVED_ANNOTATIONS):
            raise InvalidParameter(
                f"invalid Annotations: {name!r}",
                f"names that begin with {RESERVED_ANNOTATIONS} are the engine's own",
            )


def check_resources(host: HostConfig, facts: HostFacts, update: bool = False) -> list[str]:
    """Warnings, in Docker's order, for limits that this host cannot set: they are taken away.

    Raises ``InvalidParameter`` for values that no host could set. ``update``: only what changes is
    given, so a swap limit may stand alone.
    """
    warnings: list[str] = []
    _memory(host, facts, update, warnings)
    if host.pids_limit is not None and not facts.pids_limit:
        if host.pids_limit > 0:
            warnings.append(_lacks("PIDs limit capabilities", "PIDs limit discarded."))
        host.pids_limit = None
    _cpu(host, facts, warnings)
    _cpuset(host, facts, warnings)
    _blkio(host, facts, warnings)
    if host.cgroupns_mode == "private" and not facts.cgroup_namespaces:
        warnings.append(
            "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded."
        )
        host.cgroupns_mode = "host"
    return warnings


def _healthcheck(health: HealthConfig | None) -> None:
    if health is None:
        return
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value != 0 and value < _MILLISECOND:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def check_restart_policy(policy: RestartPolicy) -> None:
    """``InvalidParameter`` for a policy that is none, or a count where none belongs."""
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if policy.name != "on-failure" and policy.maximum_retry_count != 0:
        negative = " and cannot be negative" if policy.maximum_retry_count < 0 else ""
        raise InvalidParameter(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            + negative
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")


def _modes(config: ContainerConfig, host: HostConfig) -> None:
    ipc, pid = host.ipc_mode, host.pid_mode
    if not (ipc in ("", "none", "host", "private", "shareable") or _joins(ipc)):
        raise InvalidParameter(f"invalid IPC mode: {ipc}")
    if not (pid in ("", "host", "private") or _joins(pid)):
        raise InvalidParameter(f"invalid PID mode: {pid}")
    if host.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.cgroup:
        raise InvalidParameter(
            f"invalid cgroup: {host.cgroup}",
            help="a container is put below a cgroup with CgroupParent",
        )
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    network = host.network_mode
    if network == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. This would result "
            "in undefined behavior"
        )
    if network != "container" and not network.startswith("container:"):
        return
    if not network.partition(":")[2]:
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    for conflict, what in (
        (config.hostname, "hostname and the network mode"),
        (
            host.links,
            "container type network can't be used with links. This would result in undefined "
            "behavior",
        ),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            host.port_bindings or host.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if conflict:
            raise InvalidParameter(f"conflicting options: {what}")


def _joins(mode: str) -> bool:
    return mode.startswith("container:") and len(mode) > len("container:")


def _memory(host: HostConfig, facts: HostFacts, update: bool, warnings: list[str]) -> None:
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.memory != 0 and host.memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and not facts.memory_limit:
        warnings.append(_lacks("memory limit capabilities", "Limitation discarded."))
        host.memory, host.memory_swap = 0, -1
    if host.memory > 0 and host.memory_swap != -1 and not facts.swap_limit:
        warnings.append(_lacks("swap limit capabilities", "Memory limited without swap."))
        host.memory_swap = -1
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if host.memory == 0 and host.memory_swap > 0 and not update:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if host.memory_swappiness is not None:
        if not facts.memory_swappiness:
            warnings.append(
                _lacks("memory swappiness capabilities", "Memory swappiness discarded.")
            )
            host.memory_swappiness = None
        elif not 0 <= host.memory_swappiness <= 100:
            raise InvalidParameter(
                f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100"
            )
    if host.memory_reservation > 0 and not facts.memory_reservation:
        warnings.append(_lacks("memory soft limit capabilities", "Limitation discarded."))
        host.memory_reservation = 0
    if 0 < host.memory_reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if host.kernel_memory > 0:
        # Gone from Linux 5.16 and from the API 1.42.
        warnings.append(_lacks("kernel memory limit capabilities", "Limitation discarded."))
        host.kernel_memory = 0
    if host.kernel_memory_tcp > 0 and not facts.kernel_memory_tcp:
        warnings.append(_lacks("kernel memory TCP limit capabilities", "Limitation discarded."))
        host.kernel_memory_tcp = 0
    if host.oom_kill_disable is not None and not facts.oom_kill_disable:
        if host.oom_kill_disable:
            warnings.append(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded."
            )
        host.oom_kill_disable = None
    if host.oom_kill_disable and host.memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result "
            "in the system running out of resources."
        )


def _cpu(host: HostConfig, facts: HostFacts, warnings: list[str]) -> None:
    if host.nano_cpus > 0 and host.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus > 0 and host.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if host.nano_cpus > 0 and not facts.cpu_cfs:
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the "
            "cgroup is not mounted"
        )
    if host.nano_cpus < 0 or host.nano_cpus > facts.cpu_count * 1_000_000_000:
        raise InvalidParameter(
            f"Range of CPUs is from 0.01 to {facts.cpu_count}.00, as there are only "
            f"{facts.cpu_count} CPUs available"
        )
    if host.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer"
        )
    if host.cpu_shares > 0 and not facts.cpu_shares:
        warnings.append(_lacks("CPU shares", "Shares discarded."))
        host.cpu_shares = 0
    if (host.cpu_period or host.cpu_quota) and not facts.cpu_cfs:
        warnings.append(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
        )
        host.cpu_period = host.cpu_quota = 0
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.cpu_realtime_period or host.cpu_realtime_runtime) and not facts.cpu_realtime:
        raise InvalidParameter("kernel does not support CPU real-time scheduler")
    if 0 < host.cpu_realtime_period < host.cpu_realtime_runtime:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
    if host.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        host.cpu_percent = 0
    if host.cpu_count > 0:
        warnings.append("linux does not support CPU count. Count discarded.")
        host.cpu_count = 0


def _cpuset(host: HostConfig, facts: HostFacts, warnings: list[str]) -> None:
    if (host.cpuset_cpus or host.cpuset_mems) and not facts.cpuset:
        warnings.append(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
        )
        host.cpuset_cpus = host.cpuset_mems = ""
    for kind, what, wanted, present in (
        ("cpus", "CPUs", host.cpuset_cpus, facts.cpus),
        ("mems", "memory nodes", host.cpuset_mems, facts.mems),
    ):
        if not wanted:
            continue
        try:
            asked = _number_list(wanted)
        except ValueError:
            raise InvalidParameter(
                f"Invalid value {wanted} for cpuset {kind}", f"invalid format: {wanted}"
            ) from None
        except OverflowError:
            raise InvalidParameter(
                f"Invalid value {wanted} for cpuset {kind}",
                f"value of out range, maximum is {_CPUSET_LIMIT}",
            ) from None
        if not asked <= _number_list(present):
            raise InvalidParameter(
                f"Requested {what} are not available - requested {wanted}, available: {present}"
            )


def _blkio(host: HostConfig, facts: HostFacts, warnings: list[str]) -> None:
    if host.blkio_weight > 0 and not facts.blkio_weight:
        warnings.append(_lacks("Block I/O weight", "Weight discarded."))
        host.blkio_weight = 0
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.io_maximum_bandwidth or host.io_maximum_iops:
        most = "bandwidth" if host.io_maximum_bandwidth else "IOPs"
        raise InvalidParameter(
            f"Invalid QoS settings: linux does not support configuration of maximum {most}"
        )
    if host.blkio_weight_device and not facts.blkio_weight_device:
        warnings.append(_lacks("Block I/O weight_device", "Weight-device discarded."))
        host.blkio_weight_device = []
    if not facts.blkio_throttle:
        for field, what, limit in (
            ("blkio_device_read_bps", "BPS Block I/O read limit", "Block I/O BPS read limit"),
            ("blkio_device_write_bps", "BPS Block I/O write limit", "Block I/O BPS write limit"),
            ("blkio_device_read_iops", "IOPS Block read limit", "Block I/O IOPS read limit"),
            ("blkio_device_write_iops", "IOPS Block write limit", "Block I/O IOPS write limit"),
        ):
            if getattr(host, field):
                warnings.append(_lacks(what, f"{limit} discarded."))
                setattr(host, field, [])


def _lacks(what: str, consequence: str) -> str:
    return f"Your kernel does not support {what} or the cgroup is not mounted. {consequence}"


def _number_list(text: str) -> set[int]:
    """``0-2,5`` -> {0, 1, 2, 5}; ``ValueError`` if it is no such list, ``OverflowError`` if it goes
    too far."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = int(first)
        high = int(last) if dash else low
        if not 0 <= low <= high:
            raise ValueError(text)
        if high >= _CPUSET_LIMIT:
            raise OverflowError(text)
        found.update(range(low, high + 1))
    return found
