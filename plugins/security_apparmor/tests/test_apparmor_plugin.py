"""AppArmor: the profile's text, the choice of profile, and loading, on a stand-in for the kernel.

What the kernel makes of the profile is tried where there is an AppArmor kernel (tests/vm).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import EngineError, InvalidParameter
from pyengine.hooks.manager import Hooks
from pyengine_security_apparmor.plugin import AppArmorPlugin
from pyengine_security_apparmor.profile import NAME, generate


class Kernel:
    """A policy directory as securityfs has it, and a parser that loads into it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.policy = folder / "apparmor"
        (self.policy / "policy/profiles").mkdir(parents=True)
        self.switch = folder / "enabled"
        self.switch.write_text("Y\n")
        self.list = self.policy / "profiles"
        self.list.write_text("/usr/bin/man (enforce)\nmy profile (complain)\n")
        self.loads = folder / "loads"
        programs = folder / "bin"
        programs.mkdir()
        self.parser = programs / "apparmor_parser"
        self.parser.write_text(
            "#!/bin/sh\n"
            f'echo "$@" >> {self.loads}\n'
            f"cat > {folder}/loaded\n"
            f"mkdir -p {self.policy}/policy/profiles/{NAME}.7\n"
        )
        self.parser.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setattr(AppArmorPlugin, "policy", self.policy)
        monkeypatch.setattr(AppArmorPlugin, "switch", self.switch)

    def count(self) -> int:
        return len(self.loads.read_text().splitlines()) if self.loads.exists() else 0


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.fixture
def plugin(tmp_path: Path) -> AppArmorPlugin:
    return AppArmorPlugin(DriverContext("e", "p", tmp_path, tmp_path))


def confine(plugin: AppArmorPlugin, *options: str, privileged: bool = False) -> str | None:
    host = HostConfig(security_opt=list(options), privileged=privileged)
    container = Container(
        id="a", name="a", created="", path="", args=[], config=ContainerConfig(), host_config=host
    )
    hooks = Hooks()
    hooks.register(plugin, "apparmor")
    assert all(hooks.security_parse_option(option) for option in options)
    assert not hooks.security_parse_option("seccomp=unconfined")
    hooks.security_validate(host)
    spec: dict[str, Any] = {"process": {}}
    hooks.security_contribute(container, spec)
    process: dict[str, Any] = {}
    hooks.security_exec(container, process, privileged=True)
    assert process == spec["process"]
    profile: str | None = process.get("apparmorProfile")
    return profile


@pytest.mark.parametrize(
    ("options", "privileged", "expected"),
    [
        ((), False, NAME),
        ((), True, "unconfined"),
        (("apparmor=unconfined",), False, "unconfined"),
        (("apparmor:unconfined",), False, "unconfined"),
        (("apparmor=unconfined", "apparmor=my profile"), False, "my profile"),
        ((f"apparmor={NAME}",), True, NAME),
    ],
)
def test_which_profile(
    kernel: Kernel,
    plugin: AppArmorPlugin,
    options: tuple[str, ...],
    privileged: bool,
    expected: str,
) -> None:
    assert confine(plugin, *options, privileged=privileged) == expected


def test_loaded_once_and_again_when_it_is_gone(
    kernel: Kernel, plugin: AppArmorPlugin, tmp_path: Path
) -> None:
    confine(plugin)
    confine(plugin)
    assert kernel.count() == 1
    assert f"profile {NAME} " in (tmp_path / "loaded").read_text()
    assert kernel.loads.read_text() == "--skip-cache --replace\n"
    confine(AppArmorPlugin(DriverContext("e", "p", tmp_path, tmp_path)))
    assert kernel.count() == 1, "another daemon finds it loaded"
    (kernel.policy / "policy/profiles" / f"{NAME}.7").rmdir()
    confine(plugin)
    assert kernel.count() == 2


def test_a_profile_that_is_not_loaded_is_refused(kernel: Kernel, plugin: AppArmorPlugin) -> None:
    with pytest.raises(InvalidParameter, match="apparmor profile 'strict' is not loaded"):
        confine(plugin, "apparmor=strict")


def test_a_parser_that_fails(kernel: Kernel, plugin: AppArmorPlugin) -> None:
    kernel.parser.write_text("#!/bin/sh\necho 'syntax error, line 3' >&2\nexit 5\n")
    with pytest.raises(EngineError, match="ended with 5: syntax error, line 3"):
        confine(plugin)


def test_probe_tells_why_not(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = DriverContext("e", "p", tmp_path, tmp_path)
    assert AppArmorPlugin.probe(context).available
    monkeypatch.setenv("PATH", str(tmp_path))
    probe = AppArmorPlugin.probe(context)
    assert (probe.available, probe.reason) == (
        *(False, "the program apparmor_parser is not installed"),
    )
    kernel.list.write_text(f"{NAME} (enforce)\n")
    assert AppArmorPlugin.probe(context).available
    kernel.switch.write_text("N\n")
    assert AppArmorPlugin.probe(context).reason == "AppArmor is disabled in this kernel"
    kernel.switch.unlink()
    probe = AppArmorPlugin.probe(context)
    assert probe.reason == "the kernel has no AppArmor"
    assert "apparmor=1" in probe.help


def test_without_apparmor_nothing_is_confined_and_names_are_refused(
    kernel: Kernel, plugin: AppArmorPlugin
) -> None:
    assert plugin.security_options() == ["name=apparmor"]
    kernel.switch.unlink()
    assert plugin.security_options() == []
    assert confine(plugin) is None
    assert confine(plugin, "apparmor=unconfined") is None
    with pytest.raises(InvalidParameter, match="the kernel has no AppArmor"):
        confine(plugin, "apparmor=strict")


def test_this_host(tmp_path: Path) -> None:
    """The probe and the kernel's own list of security modules agree."""
    modules = Path("/sys/kernel/security/lsm")
    active = modules.exists() and "apparmor" in modules.read_text().split(",")
    probe = AppArmorPlugin.probe(DriverContext("e", "p", tmp_path, tmp_path))
    assert probe.available <= active
    assert probe.available or probe.reason


# -- the text ------------------------------------------------------------------------------------


def rules() -> list[tuple[re.Pattern[str], str]]:
    """The deny rules for files, with apparmor.d(5)'s globs as regular expressions."""
    found = []
    for line in generate(folder="/nonexistent").splitlines():
        words = line.strip().rstrip(",").split()
        if words[:1] == ["deny"] and len(words) == 3 and "/" in words[1]:
            found.append((expression(words[1].replace("@{PROC}", "/proc")), words[2]))
    return found


def expression(glob: str) -> re.Pattern[str]:
    parts = re.findall(r"\*\*|\[[^]]*\]|.", glob)
    depth, made = 0, ""
    for part in parts:
        depth += (part == "{") - (part == "}")
        special = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
        if part == "," and depth:
            made += "|"
        else:
            made += special.get(part, part if part[0] == "[" else re.escape(part))
    return re.compile(made + r"\Z")


def denied(path: str, access: str = "w") -> bool:
    return any(pattern.match(path) and access in accesses for pattern, accesses in rules())


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"),
        *("/proc/sys/kernel/sysrq", "/proc/sys/kernel/sched_rt_runtime_us", "/proc/irq/1/x"),
        *("/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/drop_caches", "/proc/scsi/scsi"),
        *("/proc/sys/fs/binfmt_misc/register", "/proc/sysvipc/shm", "/proc/bus/pci/00/00.0"),
        *("/proc/sys/kernel/keys/maxkeys", "/proc/acpi/wakeup", "/proc/kcore", "/proc/mtrr"),
        *("/sys/kernel/uevent_helper", "/sys/fs/bpf/x", "/sys/fs/ext4/x", "/sys/devices/x"),
        *("/sys/firmware/efi/x", "/sys/module/x/parameters/y", "/sys/power/state"),
    ],
)
def test_writes_that_are_denied(path: str) -> None:
    assert denied(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/1/oom_score_adj", "/proc/4321/task/1/comm", "/proc/sys/kernel/shmmax"),
        *("/proc/sys/kernel/shm_rmid_forced", "/sys/fs/cgroup/x/cgroup.procs", "/etc/passwd"),
        *("/process/x", "/system/y", "/srv/proc/kcore"),
    ],
)
def test_writes_that_are_open(path: str) -> None:
    assert not denied(path)


def test_what_must_not_even_be_read() -> None:
    assert denied("/proc/kcore", "r")
    assert denied("/sys/firmware/acpi/x", "r")
    assert denied("/sys/kernel/security/apparmor/profiles", "r")
    assert not denied("/proc/cpuinfo", "r")


def test_common_parts_are_used_where_the_host_has_them(tmp_path: Path) -> None:
    assert "@{PROC}=/proc/" in generate(folder=str(tmp_path))
    for name in ("abi/3.0", "tunables/global", "abstractions/base"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    text = generate("some daemon", str(tmp_path))
    assert text.startswith("abi <abi/3.0>,\ninclude <tunables/global>\n")
    assert "  include <abstractions/base>\n" in text
    assert '  signal (receive) peer="some daemon",\n' in text
    assert "attach_disconnected" in text
    assert "mediate_deleted" in text


@pytest.mark.skipif(
    not shutil.which("apparmor_parser"), reason="needs apparmor_parser, which the VM tier has"
)
@pytest.mark.parametrize("daemon", ["unconfined", "some daemon"])
def test_the_parser_accepts_it(daemon: str) -> None:
    done = subprocess.run(
        ["apparmor_parser", "--skip-kernel-load", "--skip-cache"],
        input=generate(daemon),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
