"""Choice of the profile, what the spec gets, and messages for profiles that are wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import ConfigError, InvalidParameter
from pyengine.hooks.manager import Hooks
from pyengine.oci import capabilities
from pyengine_security_seccomp.compile import ANNOTATION
from pyengine_security_seccomp.default import expand
from pyengine_security_seccomp.plugin import SeccompPlugin
from pyengine_security_seccomp.profile import line_of, parse

CUSTOM = json.dumps(
    {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "chroot", "action": "SCMP_ACT_KILL"}]}
)


def plugin(root: Path, **options: str) -> SeccompPlugin:
    return SeccompPlugin(DriverContext("e", "p", root, root, options))


def contribute(
    made: SeccompPlugin, *security_opt: str, privileged: bool = False, add: tuple[str, ...] = ()
) -> dict[str, Any]:
    host = HostConfig(security_opt=list(security_opt), privileged=privileged)
    container = Container(
        id="a" * 64,
        name="a",
        created="",
        path="sh",
        args=[],
        config=ContainerConfig(),
        host_config=host,
    )
    names = capabilities.effective(add, None, privileged)
    spec: dict[str, Any] = {
        "process": {"capabilities": capabilities.as_oci(names)},
        "linux": {},
    }
    hooks = Hooks()
    hooks.register(made, "seccomp")
    for option in security_opt:
        assert hooks.security_parse_option(option)
    hooks.security_validate(host)
    hooks.security_contribute(container, spec)
    return spec


def test_the_default_profile_is_in_spec_and_annotation(tmp_path: Path) -> None:
    spec = contribute(plugin(tmp_path))
    path = Path(spec["annotations"][ANNOTATION])
    assert path.parent == tmp_path
    assert path.stat().st_size % 8 == 0
    assert spec["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert plugin(tmp_path).security_options() == ["name=seccomp,profile=builtin"]


def test_compiled_once_and_found_again_after_a_restart(tmp_path: Path) -> None:
    first = contribute(plugin(tmp_path))["annotations"][ANNOTATION]
    written = Path(first).stat().st_mtime_ns
    again = contribute(plugin(tmp_path))["annotations"][ANNOTATION]
    assert again == first
    assert Path(first).stat().st_mtime_ns == written
    other = contribute(plugin(tmp_path), add=("SYS_TIME",))["annotations"][ANNOTATION]
    assert other != first
    # A capability that no rule asks for makes no other filter.
    same = contribute(plugin(tmp_path), add=("NET_ADMIN",))["annotations"][ANNOTATION]
    assert same == first
    assert len(list(tmp_path.glob("*.bpf"))) == 2


def test_the_hot_path_is_a_look_up(tmp_path: Path) -> None:
    made = plugin(tmp_path)
    contribute(made)
    host = HostConfig()
    container = Container(
        id="a", name="a", created="", path="", args=[], config=ContainerConfig(), host_config=host
    )
    spec = {"process": {"capabilities": capabilities.as_oci(capabilities.DEFAULT)}, "linux": {}}
    began = time.process_time()
    for _ in range(1000):
        made.security_contribute(container, spec)
    assert (time.process_time() - began) / 1000 < 100e-6


@pytest.mark.parametrize(
    ("options", "privileged", "expected"),
    [
        ((), False, "SCMP_ACT_ERRNO"),
        (("seccomp=unconfined",), False, None),
        (("seccomp:unconfined",), False, None),
        (("seccomp=builtin",), False, "SCMP_ACT_ERRNO"),
        ((f"seccomp={CUSTOM}",), False, "SCMP_ACT_ALLOW"),
        (("seccomp=unconfined", f"seccomp={CUSTOM}"), False, "SCMP_ACT_ALLOW"),
        (("seccomp={}",), False, None),
        ((), True, None),
        ((f"seccomp={CUSTOM}",), True, "SCMP_ACT_ALLOW"),
    ],
)
def test_which_profile(
    tmp_path: Path, options: tuple[str, ...], privileged: bool, expected: str | None
) -> None:
    spec = contribute(plugin(tmp_path), *options, privileged=privileged)
    assert spec["linux"].get("seccomp", {}).get("defaultAction") == expected
    assert (ANNOTATION in spec.get("annotations", {})) == (expected is not None)


def test_the_operators_profile(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(CUSTOM)
    made = plugin(tmp_path / "root", profile=str(file))
    assert contribute(made)["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    assert made.security_options() == [f"name=seccomp,profile={file}"]
    assert contribute(made, "seccomp=builtin")["linux"]["seccomp"]["defaultErrnoRet"] == 1
    assert "seccomp" not in contribute(plugin(tmp_path, profile="unconfined"))["linux"]
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"profile\.json is invalid: .*line 1"):
        contribute(plugin(tmp_path, profile=str(file)))
    with pytest.raises(ConfigError, match="cannot read"):
        contribute(plugin(tmp_path, profile=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{\n"defaultAction": SCMP\n}', 2, "expecting value"),
        ('{\n"defaultAction":\n"SCMP_ACT_NONE"}', 3, "SCMP_ACT_NONE"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW",\n"syscalls": [{"names": [],\n"action": 3}]}',
            3,
            "int",
        ),
        ('{"defaultAction": "SCMP_ACT_ALLOW",\n"syscalls": [\n{"names": ["read"]}]}', 3, "action"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW",\n"syscalls":\n[\n{"action": "SCMP_ACT_LOG"}]}',
            4,
            "nam",
        ),
        ('{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]}', 1, "defaultAction"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [\n'
            '{"names": ["a"], "name": "b", "action": "SCMP_ACT_LOG"}]}',
            2,
            "both 'name' and 'names'",
        ),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],\n'
            '"archMap": [{"architecture": "SCMP_ARCH_X86"}]}',
            2,
            "both 'architectures' and 'archMap'",
        ),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [\n{"names": ["a"], "action": '
            '"SCMP_ACT_LOG",\n"includes": {"minKernel": "x"}}]}',
            2,
            "invalid kernel version",
        ),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', 1, "listener"),
        ("[]", 1, "object"),
    ],
)
def test_a_wrong_profile_is_refused_with_line_and_reason(
    text: str, line: int, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidParameter) as error:
        contribute(plugin(tmp_path), "seccomp=" + text)
    message = error.value.message()
    assert message.startswith(f"Decoding seccomp profile failed: line {line}")
    assert reason in message


def test_line_of() -> None:
    text = '{\n "a": [1,\n  {"b": "x}]",\n   "c": {}\n  }\n ]\n}'
    assert [line_of(text, path) for path in ("$", "$.a", "$.a[0]", "$.a[1].b", "$.a[1].c")] == [
        *(1, 2, 2, 3, 4)
    ]


def test_unknown_options_of_the_plugin(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="unknown option 'file'"):
        plugin(tmp_path, file="x")


def test_probe(tmp_path: Path) -> None:
    probe = SeccompPlugin.probe(DriverContext("e", "p", tmp_path, tmp_path))
    assert probe.available, probe.reason
    assert probe.details["libseccomp"].startswith("2.")


def test_tables() -> None:
    assert list(expand("a{,32} {x,y}_b semT timed{T}")) == [
        *("a", "a32", "x_b", "y_b", "semT", "timed_time64")
    ]
    assert parse("{}") is None
