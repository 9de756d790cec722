"""Runs in the guest: does what the host asks over a virtio port, one command at a time.

A request is a line of JSON, {"run": "shell command", "timeout": seconds}; the answer is lines of
JSON: {"out": "text"} as the command prints (stdout and stderr in one), then {"exit": status},
124 when the time was up.
"""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

PORT_NAME = "pyengine"


def open_port() -> int:
    """The virtio port of that name; without udev there is no /dev/virtio-ports."""
    while True:
        for port in Path("/sys/class/virtio-ports").glob("*"):
            if (port / "name").read_text().strip() == PORT_NAME:
                return os.open(f"/dev/{port.name}", os.O_RDWR)
        time.sleep(0.05)


def run(command: str, timeout: float, port: int) -> int:
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = process.stdout.fileno()
    deadline = time.monotonic() + timeout
    while True:
        ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 124
        chunk = os.read(output, 65536)
        if not chunk:
            return process.wait()
        say(port, {"out": chunk.decode(errors="replace")})


def say(port: int, message: dict[str, object]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def main() -> None:
    port = open_port()
    say(port, {"ready": True})
    pending = b""
    while True:
        chunk = os.read(port, 65536)
        if not chunk:  # the host's end is closed
            return
        pending += chunk
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            request = json.loads(line)
            say(port, {"exit": run(request["run"], request["timeout"], port)})


main()
