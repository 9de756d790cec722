"""Security hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from pyengine.hooks import PROJECT

if TYPE_CHECKING:
    from pyengine.engine.model import Container, HostConfig

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def security_validate(host_config: HostConfig) -> None:
    """Fires when a container is created, before anything is stored.

    Read ``host_config.security_opt`` and raise ``InvalidParameter`` for an option that belongs to
    this plugin and is wrong (a profile that does not parse: line and reason). Since 1.0.
    """


@hookspec(firstresult=True)
def security_parse_option(option: str) -> bool | None:
    """Fires once per ``--security-opt`` at create: return True if the option is this plugin's.

    An option that no plugin and not the engine itself claims is refused. Must not raise. Since 1.0.
    """


@hookspec
def security_contribute(container: Container, spec: dict[str, Any]) -> None:
    """Fires when a container starts, after the OCI spec is built: amend ``spec`` in place.

    ``spec['process']['capabilities']`` is final. May set ``linux.seccomp``, ``process.
    apparmorProfile``, masked paths, annotations. An exception fails the start. Since 1.0.
    """


@hookspec
def security_exec(container: Container, process: dict[str, Any], privileged: bool) -> None:
    """Fires before an exec: amend ``process`` (an OCI process object) in place. An exception fails
    it. Since 1.0."""


@hookspec
def security_authorize(method: str, path: str, user: str) -> None:
    """Fires for each API request before it is handled: raise ``Forbidden`` to refuse. Since 1.0."""


class ApiRequest(msgspec.Struct, frozen=True):
    """A request as it came. ``uri``: path with version and query. ``user``: the common name of the
    client's certificate, ``certificates``: it in DER; both empty where there is none. ``body``:
    JSON of at most 1 MiB, else empty."""

    method: str
    uri: str
    user: str = ""
    certificates: tuple[bytes, ...] = ()
    headers: dict[str, str] = {}
    body: bytes = b""


class ApiAnswer(msgspec.Struct, frozen=True):
    """An answer before it is sent. ``body``: at most 1 MiB, else empty."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""


@hookspec
def security_authorize_request(request: ApiRequest) -> None:
    """Fires for each API request before it is handled, on a thread: it may block. An exception
    refuses the request (``Forbidden`` for what is not allowed). Since 1.1."""


@hookspec
def security_authorize_answer(request: ApiRequest, answer: ApiAnswer) -> None:
    """Fires for each answer that is no stream, before it is sent, on a thread: it may block. An
    exception withholds the answer; what was done stays done. Since 1.1."""


@hookspec
def security_admit_image(name: str, digest: str) -> None:
    """Fires before an image is stored or run: raise ``Forbidden`` to refuse. Since 1.0."""
