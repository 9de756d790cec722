"""The security plugin: asks the configured authorization plugins, in their order."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from typing import Any, ClassVar

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.security import SecurityPlugin
from pyengine.errors import Forbidden
from pyengine.hooks import hookimpl
from pyengine.hooks.security import ApiAnswer, ApiRequest
from pyengine_security_authz.client import Plugin


class AuthzPlugin(SecurityPlugin):
    """Option ``plugins``: names, by commas. None: nobody is asked."""

    name: ClassVar[str] = "authz"
    priority: ClassVar[int] = 100
    keys: ClassVar[Mapping[str, str]] = {"authorization-plugins": "plugins"}

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset({"plugins"}))
        self.reconfigure(context.options)

    def reconfigure(self, options: Mapping[str, str]) -> bool:
        # One that is named twice is asked once, as by dockerd.
        names = dict.fromkeys(filter(None, options.get("plugins", "").split(",")))
        self._plugins = [Plugin(name) for name in names]
        for hook in ("security_authorize_request", "security_authorize_answer"):
            vars(self).pop(hook, None)
        if self._plugins:
            # Not there otherwise: every request would be handed to a thread, for nobody.
            @hookimpl
            def security_authorize_request(request: ApiRequest) -> None:
                self._judge_request(request)

            @hookimpl
            def security_authorize_answer(request: ApiRequest, answer: ApiAnswer) -> None:
                self._judge_answer(request, answer)

            self.security_authorize_request = security_authorize_request
            self.security_authorize_answer = security_authorize_answer
        return True

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def _judge_request(self, request: ApiRequest) -> None:
        for plugin in self._plugins:
            _judge(plugin, "AuthZPlugin.AuthZReq", _question(request))

    def _judge_answer(self, request: ApiRequest, answer: ApiAnswer) -> None:
        for plugin in self._plugins:
            question = _question(request) | {
                "ResponseStatusCode": answer.status,
                "ResponseHeaders": answer.headers,
                "ResponseBody": base64.b64encode(answer.body).decode(),
            }
            _judge(plugin, "AuthZPlugin.AuthZRes", question)


def _question(request: ApiRequest) -> dict[str, Any]:
    return {
        "User": request.user,
        "UserAuthNMethod": "TLS" if request.certificates else "",
        "RequestMethod": request.method,
        "RequestUri": request.uri,
        "RequestHeaders": request.headers,
        "RequestBody": base64.b64encode(request.body).decode(),
        "RequestPeerCertificates": [
            base64.b64encode(ssl.DER_cert_to_PEM_cert(certificate).encode()).decode()
            for certificate in request.certificates
        ],
    }


def _judge(plugin: Plugin, what: str, question: dict[str, Any]) -> None:
    answer = plugin.ask(what, question)
    if answer.get("Err"):
        raise Forbidden(f"plugin {plugin.name} failed with error: {what}: {answer['Err']}")
    if answer.get("Allow") is not True:
        reason = answer.get("Msg") or "no reason given"
        raise Forbidden(f"authorization denied by plugin {plugin.name}: {reason}")
