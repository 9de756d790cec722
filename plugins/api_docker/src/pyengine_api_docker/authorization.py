"""What authorization plugins are shown of a request and of its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from pyengine.hooks.security import ApiAnswer, ApiRequest
from pyengine_api_docker.http import JSON, Call

#: Larger bodies are not shown.
MOST = 1 << 20


async def authorized(
    call: Call, run: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Ask the plugins before and after ``run``. ``Forbidden`` if one refuses."""
    hooks, request = call.engine.hooks, call.request
    body = b""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == JSON and (request.content_length or 0) <= MOST:
        body = await call.raw_body()
    secure = request.transport.get_extra_info("ssl_object") if request.transport else None
    certificate = secure.getpeercert(binary_form=True) if secure is not None else None
    seen = ApiRequest(
        method=request.method,
        uri=request.raw_path,
        user=user(request),
        certificates=(certificate,) if certificate else (),
        headers=dict(request.headers),
        body=body,
    )
    await asyncio.to_thread(hooks.security_authorize_request, seen)
    response = await run()
    # What has been streamed cannot be taken back.
    if isinstance(response, web.Response) and not response.prepared:
        text = response.body if isinstance(response.body, bytes) else b""
        answer = ApiAnswer(
            response.status, dict(response.headers), text if len(text) <= MOST else b""
        )
        await asyncio.to_thread(hooks.security_authorize_answer, seen, answer)
    return response


def user(request: web.BaseRequest) -> str:
    """The common name of the client's certificate, if it showed one."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for group in (certificate or {})["subject"]:
            for key, value in group:
                if key == "commonName":
                    return str(value)
    return ""
