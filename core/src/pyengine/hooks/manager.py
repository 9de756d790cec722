"""Calls hooks. No caller elsewhere names ``pm.hook``: these typed methods are the only door."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from pyengine.errors import DriverBroken, EngineError
from pyengine.hooks import PROJECT, engine, network, runtime, security, storage
from pyengine.hooks import logging as logging_hooks

if TYPE_CHECKING:
    from pyengine.contracts.firewall import PublishedPort
    from pyengine.contracts.network import EndpointRecord, NetworkRecord
    from pyengine.engine.model import Container, HostConfig
    from pyengine.engine.tracing import Span
    from pyengine.hooks.security import ApiAnswer, ApiRequest

log = logging.getLogger(__name__)

SPECS = (engine, network, runtime, security, storage, logging_hooks)


class Hooks:
    """All plugins that take part, and one typed method per hook spec."""

    def __init__(self) -> None:
        self._pm = pluggy.PluginManager(PROJECT)
        for area in SPECS:
            self._pm.add_hookspecs(area)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin; ``DriverBroken`` if it implements a hook that does not exist."""
        self._pm.register(plugin, name=name)
        try:
            self._pm.check_pending()
        except pluggy.PluginValidationError as error:
            self._pm.unregister(plugin)
            raise DriverBroken(f"plugin {name!r} implements an unknown hook", str(error)) from error

    def renew(self, plugin: object, name: str) -> None:
        """A plugin implements other hooks than before."""
        self._pm.unregister(plugin)
        self.register(plugin, name)

    def names(self) -> list[str]:
        return [name for name, _ in self._pm.list_name_plugin()]

    # -- these fail the step they are part of -------------------------------------------------

    def security_validate(self, host_config: HostConfig) -> None:
        self._strict(self._pm.hook.security_validate, host_config=host_config)

    def security_parse_option(self, option: str) -> bool:
        return bool(self._strict(self._pm.hook.security_parse_option, option=option))

    def security_contribute(self, container: Container, spec: dict[str, Any]) -> None:
        self._strict(self._pm.hook.security_contribute, container=container, spec=spec)

    def security_exec(
        self, container: Container, process: dict[str, Any], privileged: bool
    ) -> None:
        self._strict(
            self._pm.hook.security_exec, container=container, process=process, privileged=privileged
        )

    def security_authorize(self, method: str, path: str, user: str) -> None:
        self._strict(self._pm.hook.security_authorize, method=method, path=path, user=user)

    def security_authorize_request(self, request: ApiRequest) -> None:
        self._strict(self._pm.hook.security_authorize_request, request=request)

    def security_authorize_answer(self, request: ApiRequest, answer: ApiAnswer) -> None:
        self._strict(self._pm.hook.security_authorize_answer, request=request, answer=answer)

    def has_authorization(self) -> bool:
        """True if a plugin looks at requests or answers; spares all others a thread."""
        hook = self._pm.hook
        return bool(
            hook.security_authorize_request.get_hookimpls()
            or hook.security_authorize_answer.get_hookimpls()
        )

    def security_admit_image(self, name: str, digest: str) -> None:
        self._strict(self._pm.hook.security_admit_image, name=name, digest=digest)

    def runtime_amend_spec(self, container: Container, spec: dict[str, Any]) -> None:
        self._strict(self._pm.hook.runtime_amend_spec, container=container, spec=spec)

    def runtime_exec(self, container: Container, process: dict[str, Any]) -> None:
        self._strict(self._pm.hook.runtime_exec, container=container, process=process)

    def storage_snapshot_prepared(self, layer: str, parent: str, owner: str) -> None:
        self._strict(
            self._pm.hook.storage_snapshot_prepared, layer=layer, parent=parent, owner=owner
        )

    def network_endpoint_joined(self, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        self._strict(self._pm.hook.network_endpoint_joined, network=network, endpoint=endpoint)

    def logging_opened(self, container: Container, driver: str, options: dict[str, str]) -> None:
        self._strict(
            self._pm.hook.logging_opened, container=container, driver=driver, options=options
        )

    def logging_redact(self, container: Container, data: bytes) -> bytes:
        # Each sees what the one before left, so that none brings back what another took out.
        for _, one in self._singly(self._pm.hook.logging_redact):
            for answer in self._strict(one, container=container, data=data):
                data = answer
        return data

    def has_redaction(self) -> bool:
        """True if a plugin redacts logs; spares the hot path a call per chunk."""
        return bool(self._pm.hook.logging_redact.get_hookimpls())

    # -- these only tell; what they raise is logged ---------------------------------------------

    def runtime_state_changed(self, container: Container, old: str, new: str) -> None:
        self._tell(self._pm.hook.runtime_state_changed, container=container, old=old, new=new)

    def storage_layer_applied(self, layer: str, diff_id: str, size: int) -> None:
        self._tell(self._pm.hook.storage_layer_applied, layer=layer, diff_id=diff_id, size=size)

    def storage_snapshot_removed(self, layer: str) -> None:
        self._tell(self._pm.hook.storage_snapshot_removed, layer=layer)

    def network_endpoint_left(self, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        self._tell(self._pm.hook.network_endpoint_left, network=network, endpoint=endpoint)

    def network_ports_published(self, endpoint: EndpointRecord, ports: list[PublishedPort]) -> None:
        self._tell(self._pm.hook.network_ports_published, endpoint=endpoint, ports=ports)

    def engine_event(self, event: dict[str, Any]) -> None:
        self._tell(self._pm.hook.engine_event, event=event)

    def engine_health(self) -> list[str]:
        return self._tell(self._pm.hook.engine_health)

    def engine_span(self, span: Span) -> None:
        self._tell(self._pm.hook.engine_span, span=span)

    def has_tracing(self) -> bool:
        """True if a plugin listens to spans; without one none is made."""
        return bool(self._pm.hook.engine_span.get_hookimpls())

    def engine_closing(self) -> None:
        self._tell(self._pm.hook.engine_closing)

    def engine_metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for answer in self._tell(self._pm.hook.engine_metrics):
            metrics.update(answer)
        return metrics

    def _strict(self, hook: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return hook(**arguments)
        except EngineError:
            raise
        except Exception as error:
            raise DriverBroken(
                f"a plugin failed in hook {getattr(hook, 'name', '?')}",
                f"{type(error).__name__}: {error}",
            ) from error

    def _tell(self, hook: pluggy.HookCaller, **arguments: Any) -> list[Any]:
        """Call one plugin after the other, so that one that raises silences none of the rest."""
        answers = []
        for name, one in self._singly(hook):
            try:
                answers += one(**arguments)
            except Exception:
                log.exception("plugin %s failed in hook %s", name, hook.name)
        return answers

    def _singly(self, hook: pluggy.HookCaller) -> list[tuple[str, pluggy.HookCaller]]:
        """A caller for each plugin alone with its name, in the order of their registration."""
        plugins = [implementation.plugin for implementation in hook.get_hookimpls()]
        return [
            (
                self._pm.get_name(plugin) or "?",
                self._pm.subset_hook_caller(hook.name, [p for p in plugins if p is not plugin]),
            )
            for plugin in plugins
        ]
