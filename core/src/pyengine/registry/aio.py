"""aiohttp, without the TLS contexts that it makes while it is imported.

They hold the system's certificate authorities, cost every start of a daemon a tenth of a second,
and nobody here uses them: whoever speaks TLS brings a context of its own (``hosts``). Import this
before anything else imports aiohttp; a context of aiohttp's own then trusts nobody.
"""

from __future__ import annotations

import ssl
from typing import Any


def _bare(*_: Any, **__: Any) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_whole = ssl.create_default_context
ssl.create_default_context = _bare
try:
    import aiohttp  # noqa: F401
finally:
    ssl.create_default_context = _whole
