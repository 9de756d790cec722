"""What importing aiohttp leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys


def test_it_reads_no_authorities_and_leaves_the_environment_alone() -> None:
    script = (
        "import os; before = dict(os.environ)\n"
        "import pyengine.registry.aio\n"
        "from aiohttp import connector\n"
        "assert dict(os.environ) == before\n"
        "print(connector._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509_ca'])"
    )
    for name in ("SSL_CERT_DIR", "SSL_CERT_FILE"):
        environment = {key: value for key, value in os.environ.items() if key != name}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == "0\n", done.stderr
