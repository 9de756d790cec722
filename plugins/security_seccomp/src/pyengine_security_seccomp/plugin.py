"""The plugin: chooses a profile for each container and hands over what is compiled already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.security import SecurityPlugin
from pyengine.errors import ConfigError, InvalidParameter
from pyengine.faults import failpoint
from pyengine.hooks import hookimpl
from pyengine_security_seccomp import compile as compiler
from pyengine_security_seccomp.default import profile as default_profile
from pyengine_security_seccomp.profile import Profile, parse, resolve, this_machine

if TYPE_CHECKING:
    from pyengine.engine.model import Container, HostConfig

UNCONFINED, BUILTIN = "unconfined", "builtin"
#: Part of every key: raised when the same input shall give another filter.
_FORMAT = 1
#: Custom profiles are keys with all their text, so there must be an end to them.
_REMEMBERED = 256


class _Filter(msgspec.Struct, frozen=True):
    """What goes into a spec. ``seccomp`` is shared by all specs: replace it, never amend it."""

    seccomp: dict[str, Any]
    path: str


class SeccompPlugin(SecurityPlugin):
    """Option ``profile``: a path, ``builtin`` (the default) or ``unconfined``."""

    name: ClassVar[str] = "seccomp"
    priority: ClassVar[int] = 100
    keys: ClassVar[Mapping[str, str]] = {"seccomp-profile": "profile"}

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset({"profile"}))
        self._configured = context.options.get("profile") or BUILTIN
        self._profiles: dict[str, Profile | None] = {}
        self._filters: dict[tuple[str, tuple[str, ...]], _Filter | None] = {}

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
            return Probe(
                available=False,
                reason="the kernel has no seccomp filters",
                help="a kernel with CONFIG_SECCOMP_FILTER",
            )
        try:
            version = compiler.version()
        except (ImportError, OSError, RuntimeError) as error:
            return Probe(
                available=False,
                reason=f"libseccomp cannot be loaded: {error}",
                help="install libseccomp2",
            )
        return Probe(available=True, details={"libseccomp": version})

    def check(self) -> None:
        _ = self._engine_profile

    def security_options(self) -> list[str]:
        return [f"name=seccomp,profile={self._configured}"]

    @hookimpl
    def security_parse_option(self, option: str) -> bool | None:
        return True if option.startswith(("seccomp=", "seccomp:")) else None

    @hookimpl
    def security_validate(self, host_config: HostConfig) -> None:
        wanted = _wanted(host_config)
        if wanted not in ("", UNCONFINED, BUILTIN):
            self._profile(wanted)

    @hookimpl
    def security_contribute(self, container: Container, spec: dict[str, Any]) -> None:
        host = container.host_config
        wanted = _wanted(host)
        if wanted == UNCONFINED or (host.privileged and not wanted):
            return
        if not wanted:
            wanted = self._engine_profile
            if wanted == UNCONFINED:
                return
        bounding = spec["process"]["capabilities"].get("bounding", ())
        key = (wanted, tuple(bounding))
        try:
            made = self._filters[key]
        except KeyError:
            if len(self._filters) >= _REMEMBERED:
                self._filters.clear()
                self._profiles.clear()
            made = self._filters[key] = self._make(wanted, bounding)
        if made is not None:
            spec["linux"]["seccomp"] = made.seccomp
            spec.setdefault("annotations", {})[compiler.ANNOTATION] = made.path

    @cached_property
    def _engine_profile(self) -> str:
        """What the operator configured: ``builtin``, ``unconfined`` or a file's content."""
        if self._configured in (BUILTIN, UNCONFINED):
            return self._configured
        path = self._configured
        try:
            content = Path(path).read_text()
            self._profile(content)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"cannot read the seccomp profile {path}", str(error)) from None
        except InvalidParameter as error:
            raise ConfigError(f"the seccomp profile {path} is invalid", error.message()) from None
        return content

    def _profile(self, wanted: str) -> Profile | None:
        if wanted not in self._profiles:
            self._profiles[wanted] = default_profile() if wanted == BUILTIN else parse(wanted)
        return self._profiles[wanted]

    def _make(self, wanted: str, bounding: list[str]) -> _Filter | None:
        """Resolve and compile, or find compiled in ``context.root``."""
        profile = self._profile(wanted)
        if profile is None:
            return None
        seccomp = resolve(profile, profile.capabilities().intersection(bounding), this_machine())
        # What is resolved holds capabilities, kernel and architecture already.
        identity = msgspec.json.encode((_FORMAT, compiler.version(), seccomp))
        path = self.context.root / f"{hashlib.sha256(identity).hexdigest()}.bpf"
        if not path.exists():
            _store(path, compiler.compile_filter(seccomp))
        return _Filter(seccomp, str(path))


def _wanted(host_config: HostConfig) -> str:
    """The value of the last ``seccomp=`` option, "" if there is none."""
    wanted = ""
    for option in host_config.security_opt or ():
        if option.startswith(("seccomp=", "seccomp:")):
            wanted = option[len("seccomp=") :]
    return wanted


def _store(path: Path, content: bytes) -> None:
    """Appears whole or not at all: a torn filter would be loaded as it is."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    failpoint("security.seccomp.store")
    os.replace(temporary, path)
