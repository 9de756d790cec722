"""The typed door to the hooks: every spec has one, with its arguments and its kind of failure."""

from __future__ import annotations

import inspect
import logging
import re
from typing import Any

import pytest

from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import DriverBroken, Forbidden
from pyengine.hooks import hookimpl
from pyengine.hooks.manager import SPECS, Hooks
from pyengine.hooks.security import ApiAnswer, ApiRequest

ALL = {
    name: spec
    for area in SPECS
    for name, spec in vars(area).items()
    if hasattr(spec, "pyengine_spec")
}
CONTAINER = Container(
    id="1" * 64, name="web", created="", path="sh", args=[], config=ContainerConfig(),
    host_config=HostConfig(), image="", image_name="", layer="",
)  # fmt: skip
#: An argument of each name that specs use.
ARGUMENTS: dict[str, Any] = {
    "span": object(),
    "event": {"Action": "start"}, "container": CONTAINER, "driver": "json-file", "options": {},
    "data": b"text", "network": "network", "endpoint": "endpoint", "ports": [], "spec": {},
    "old": "created", "new": "running", "process": {}, "host_config": CONTAINER.host_config,
    "option": "a=b", "request": ApiRequest("GET", "/info"), "answer": ApiAnswer(200),
    "privileged": True, "method": "GET", "path": "/info", "user": "root",
    "name": "busybox", "digest": "sha256:1", "layer": "l1", "diff_id": "sha256:2", "size": 3,
    "parent": "l0", "owner": "1",
}  # fmt: skip
#: Hooks that only tell: what they raise is logged.
TELLING = {
    "runtime_state_changed", "storage_layer_applied", "storage_snapshot_removed",
    "network_endpoint_left", "network_ports_published", "engine_event", "engine_health",
    "engine_metrics", "engine_span", "engine_closing",
}  # fmt: skip


def arguments_of(name: str) -> dict[str, Any]:
    return {
        parameter: ARGUMENTS[parameter] for parameter in inspect.signature(ALL[name]).parameters
    }


def plugin(name: str, body: Any) -> object:
    """A plugin that implements one hook with ``body(**arguments)``."""
    parameters = ", ".join(inspect.signature(ALL[name]).parameters)
    scope: dict[str, Any] = {"body": body}
    passed = ", ".join(f"{p}={p}" for p in inspect.signature(ALL[name]).parameters)
    exec(f"def {name}({parameters}):\n    return body({passed})", scope)
    return type("Plugin", (), {name: staticmethod(hookimpl(scope[name]))})()


@pytest.mark.parametrize("name", ALL)
def test_a_spec_says_when_it_fires_and_what_an_exception_does(name: str) -> None:
    text = inspect.getdoc(ALL[name]) or ""
    assert text.startswith("Fires "), text
    assert re.search(r"Since \d+\.\d+\.", text), text
    if inspect.signature(ALL[name]).return_annotation == "None":
        assert re.search(r"[Ee]xception|raise", text), text


@pytest.mark.parametrize("name", ALL)
def test_a_hook_fires_with_its_arguments(name: str) -> None:
    seen: list[dict[str, Any]] = []
    hooks = Hooks()
    hooks.register(plugin(name, lambda **arguments: seen.append(arguments)), "test")
    getattr(hooks, name)(**arguments_of(name))
    assert seen == [arguments_of(name)]
    assert hooks.names() == ["test"]


@pytest.mark.parametrize("name", sorted(set(ALL) - TELLING))
def test_what_a_strict_hook_raises_reaches_the_caller(name: str) -> None:
    def fail(**_: Any) -> None:
        raise error

    hooks = Hooks()
    hooks.register(plugin(name, fail), "test")
    error: Exception = Forbidden("not you")
    with pytest.raises(Forbidden, match="not you"):
        getattr(hooks, name)(**arguments_of(name))
    error = KeyError("oops")
    with pytest.raises(DriverBroken) as broken:
        getattr(hooks, name)(**arguments_of(name))
    assert broken.value.message() == f"a plugin failed in hook {name}: KeyError: 'oops'"


@pytest.mark.parametrize("name", sorted(TELLING))
def test_what_a_telling_hook_raises_is_logged_and_the_others_hear(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def fail(**_: Any) -> None:
        raise Forbidden("oops")

    hooks = Hooks()
    hooks.register(plugin(name, lambda **_: heard.append(1)), "before")
    hooks.register(plugin(name, fail), "bad")
    hooks.register(plugin(name, lambda **_: heard.append(2)), "after")
    with caplog.at_level(logging.ERROR):
        getattr(hooks, name)(**arguments_of(name))
    assert sorted(heard) == [1, 2]
    assert f"plugin bad failed in hook {name}" in caplog.text


def test_every_spec_is_sorted_into_a_kind() -> None:
    assert set(ALL) >= TELLING
    assert all(hasattr(Hooks, name) for name in ALL)


def test_a_hook_that_does_not_exist_is_refused_by_name() -> None:
    class Wrong:
        @hookimpl
        def runtime_nonesuch(self) -> None: ...

    hooks = Hooks()
    with pytest.raises(DriverBroken, match="'wrong' implements an unknown hook"):
        hooks.register(Wrong(), "wrong")
    assert hooks.names() == []


def test_redactions_add_up() -> None:
    hooks = Hooks()
    assert not hooks.has_redaction()
    assert hooks.logging_redact(CONTAINER, b"one two") == b"one two"
    hooks.register(
        plugin("logging_redact", lambda container, data: data.replace(b"one", b"1")), "a"
    )
    hooks.register(
        plugin("logging_redact", lambda container, data: data.replace(b"two", b"2")), "b"
    )
    hooks.register(plugin("logging_redact", lambda container, data: None), "c")
    assert hooks.has_redaction()
    assert hooks.logging_redact(CONTAINER, b"one two") == b"1 2"


def test_the_first_who_knows_an_option_claims_it() -> None:
    hooks = Hooks()
    assert not hooks.security_parse_option("a=b")
    hooks.register(plugin("security_parse_option", lambda option: option == "a=b" or None), "a")
    assert hooks.security_parse_option("a=b")
    assert not hooks.security_parse_option("c=d")


def test_health_and_metrics_are_gathered() -> None:
    hooks = Hooks()
    hooks.register(plugin("engine_health", lambda: "too warm"), "a")
    hooks.register(plugin("engine_health", lambda: None), "b")
    hooks.register(plugin("engine_metrics", lambda: {"x": 1.0}), "c")
    hooks.register(plugin("engine_metrics", lambda: {"y": 2.0}), "d")
    assert hooks.engine_health() == ["too warm"]
    assert hooks.engine_metrics() == {"x": 1.0, "y": 2.0}
