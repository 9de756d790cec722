"""A registry beside the engines: Debian's docker-registry, on loopback of the peer's network.

What it holds stays in the peer's directory from run to run, since making it takes a while.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import images
from bench.engines import CommandFailed
from bench.peer import Peer

IMAGE = "bench/layers:1"

_CONFIGURATION = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@contextmanager
def registry(peer: Peer) -> Iterator[str]:
    """A registry for the block: its address, from which both engines pull without TLS.

    It has `images.layers_archive` as `bench/layers:1`.
    """
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            raise CommandFailed(f"{program} is not installed (apt install {program})")
    root = peer.root / "registry"
    full = root / "complete"
    with _serving(peer, root / "data") as address:
        if not full.exists():
            _fill(peer, address)
            full.touch()
        yield address


@contextmanager
def _serving(peer: Peer, data: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-registry-") as directory:
        configuration, log = Path(directory, "config.yml"), Path(directory, "log")
        configuration.write_text(_CONFIGURATION.format(root=data))
        with log.open("wb") as out:
            process = subprocess.Popen(
                peer.in_network("docker-registry", "serve", str(configuration)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(10)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise CommandFailed(f"docker-registry does not start:\n{log.read_text()[-2000:]}")


def _fill(peer: Peer, address: str) -> None:
    with tempfile.NamedTemporaryFile(dir=peer.root, suffix=".tar") as file:
        images.layers_archive(file)
        file.flush()
        copy = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]
        copy += [f"docker-archive:{file.name}", f"docker://{address}/{IMAGE}"]
        done = subprocess.run(peer.in_network(*copy), capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandFailed(f"skopeo copy: {done.stderr.strip()}")
