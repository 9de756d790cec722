"""aiohttp, without the TLS contexts that it makes while it is imported.

They hold the system's certificate authorities, cost every start of a daemon a tenth of a second,
and nobody here uses them: whoever speaks TLS brings a context of its own (``hosts``). Import this
before anything else imports aiohttp; a context of aiohttp's own then trusts nobody.
"""

from __future__ import annotations

import os

#: Where OpenSSL looks for authorities (SSL_CTX_set_default_verify_paths(3)).
_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

_before = {name: os.environ.get(name) for name in _PLACES}
os.environ.update(dict.fromkeys(_PLACES, os.devnull))
try:
    import aiohttp  # noqa: F401
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value
