"""The plugin: which profile a container gets, and keeping the default one loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.security import SecurityPlugin
from pyengine.errors import EngineError, InvalidParameter
from pyengine.faults import failpoint
from pyengine.hooks import hookimpl
from pyengine_security_apparmor.profile import NAME, generate

if TYPE_CHECKING:
    from pyengine.engine.model import Container, HostConfig

UNCONFINED = "unconfined"
_DEADLINE = 30.0


class AppArmorPlugin(SecurityPlugin):
    """On a host without AppArmor it claims its options all the same, and confines nothing."""

    name: ClassVar[str] = "apparmor"
    priority: ClassVar[int] = 90
    #: Where the kernel shows its policy (securityfs).
    policy: ClassVar[Path] = Path("/sys/kernel/security/apparmor")
    switch: ClassVar[Path] = Path("/sys/module/apparmor/parameters/enabled")

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())
        self._loaded_at: Path | None = None

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        reason = cls._missing()
        if reason:
            return Probe(
                available=False,
                reason=reason,
                help="boot a kernel with AppArmor and apparmor=1 security=apparmor",
            )
        if not shutil.which("apparmor_parser") and not cls._is_loaded(NAME):
            return Probe(
                available=False,
                reason="the program apparmor_parser is not installed",
                help="install the package apparmor",
            )
        return Probe(available=True, details={"profile": NAME})

    def security_options(self) -> list[str]:
        return [] if self._missing() else ["name=apparmor"]

    @hookimpl
    def security_parse_option(self, option: str) -> bool | None:
        return True if option.startswith(("apparmor=", "apparmor:")) else None

    @hookimpl
    def security_validate(self, host_config: HostConfig) -> None:
        wanted = _wanted(host_config)
        if wanted in ("", UNCONFINED, NAME):
            return
        reason = self._missing()
        if reason:
            raise InvalidParameter(
                f"apparmor profile {wanted!r} cannot be applied", reason, "use apparmor=unconfined"
            )
        if not self._is_loaded(wanted):
            raise InvalidParameter(
                f"apparmor profile {wanted!r} is not loaded",
                help="load it with apparmor_parser -r FILE",
            )

    @hookimpl
    def security_contribute(self, container: Container, spec: dict[str, Any]) -> None:
        self._confine(container, spec["process"])

    @hookimpl
    def security_exec(
        self, container: Container, process: dict[str, Any], privileged: bool
    ) -> None:
        # As in Docker, --privileged of an exec does not lift the profile of its container.
        self._confine(container, process)

    def _confine(self, container: Container, process: dict[str, Any]) -> None:
        if self._loaded_at is None and self._missing():
            return
        host = container.host_config
        wanted = _wanted(host) or (UNCONFINED if host.privileged else NAME)
        if wanted == NAME:
            self._ensure_loaded()
        process["apparmorProfile"] = wanted

    def _ensure_loaded(self) -> None:
        """Load the default profile unless it is there. Others unload profiles at times."""
        if self._loaded_at and self._loaded_at.exists():
            return
        self._loaded_at = self._find(NAME)
        if self._loaded_at:
            return
        failpoint("security.apparmor.load")
        try:
            done = subprocess.run(
                # No cache: its directory may be read-only, and this is done once.
                ["apparmor_parser", "--skip-cache", "--replace"],
                input=generate(_own_profile()),
                capture_output=True,
                text=True,
                timeout=_DEADLINE,
                check=False,
            )
        except FileNotFoundError:
            raise EngineError(
                f"cannot load the AppArmor profile {NAME}",
                "apparmor_parser is not installed",
                "install the package apparmor, or run with --security-opt apparmor=unconfined",
            ) from None
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"cannot load the AppArmor profile {NAME}",
                f"apparmor_parser did not end within {_DEADLINE:.0f} s",
            ) from None
        if done.returncode:
            raise EngineError(
                f"cannot load the AppArmor profile {NAME}",
                f"apparmor_parser ended with {done.returncode}: {done.stderr.strip()}",
            )
        self._loaded_at = self._find(NAME)

    @classmethod
    def _missing(cls) -> str:
        """Why this host has no AppArmor; "" if it has."""
        try:
            enabled = cls.switch.read_text().strip() == "Y"
        except OSError:
            return "the kernel has no AppArmor"
        if not enabled:
            return "AppArmor is disabled in this kernel"
        if not cls.policy.is_dir():
            return f"securityfs is not mounted: {cls.policy} is missing"
        return ""

    @classmethod
    def _is_loaded(cls, name: str) -> bool:
        """True for a profile the kernel has; its list holds lines like ``name (enforce)``."""
        try:
            with open(cls.policy / "profiles", encoding="utf-8", errors="surrogateescape") as file:
                return any(line.rpartition(" (")[0] == name for line in file)
        except OSError:
            return False

    @classmethod
    def _find(cls, name: str) -> Path | None:
        """The directory that the kernel shows for a loaded profile: ``<name>.<number>``. Looking
        whether it is still there costs a start some microseconds; reading the list, far more."""
        try:
            entries = os.listdir(cls.policy / "policy/profiles")
        except OSError:
            return None
        for entry in entries:
            if entry.rpartition(".")[0] == name:
                return cls.policy / "policy/profiles" / entry
        return None


def _wanted(host_config: HostConfig) -> str:
    """The value of the last ``apparmor=`` option, "" if there is none."""
    wanted = ""
    for option in host_config.security_opt or ():
        if option.startswith(("apparmor=", "apparmor:")):
            wanted = option[len("apparmor=") :]
    return wanted


def _own_profile() -> str:
    """What confines this process: ``name (mode)`` or ``unconfined``."""
    try:
        text = Path("/proc/self/attr/current").read_text().rstrip("\n\0")
    except OSError:
        return UNCONFINED
    return text.rpartition(" (")[0] or text or UNCONFINED
