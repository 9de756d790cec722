"""A virtual machine for as long as a test session: boot, run commands, power off.

Emulated (`-accel tcg`), so it works wherever a program can run, at about a tenth of the speed.
"""

from __future__ import annotations

import json
import select
import shlex
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.vm.image import Image

MEMORY = "2G"
CPUS = 2


class GuestError(RuntimeError):
    """The machine did not boot, went away or did not answer; the message has its console's end."""


@dataclass(frozen=True)
class Done:
    """What a command in the guest printed, stdout and stderr in one, and its exit status."""

    status: int
    output: str


class Machine:
    """One guest. `payload` is mounted at /opt; both disks are discarded with the machine.
    `systemd`: it is process 1, where otherwise a script is."""

    def __init__(
        self, image: Image, payload: Path, *, systemd: bool = False, boot_timeout: float = 120
    ) -> None:
        self._work = tempfile.TemporaryDirectory(prefix="pyengine-vm-")
        home = Path(self._work.name)
        self.console = home / "console.log"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(home / "agent.sock"))
        listener.listen(1)
        self._qemu = subprocess.Popen(
            _qemu(image, payload, self.console, home / "agent.sock", systemd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pending = b""
        try:
            listener.settimeout(20)
            self._agent, _ = listener.accept()
            listener.close()
            self._receive(time.monotonic() + boot_timeout)
        except (TimeoutError, GuestError) as error:
            self._qemu.kill()
            text = self._console_tail()
            self.close()
            raise GuestError(f"the guest did not boot: {error}\n{text}") from None

    def run(self, command: str, *, timeout: float = 60) -> Done:
        """A shell command in the guest; status 124 when it took longer than `timeout` seconds."""
        request = json.dumps({"run": command, "timeout": timeout}) + "\n"
        self._agent.sendall(request.encode())
        deadline = time.monotonic() + timeout + 30
        output: list[str] = []
        while True:
            answer = self._receive(deadline)
            if "exit" in answer:
                return Done(answer["exit"], "".join(output))
            output.append(answer["out"])

    def check(self, command: str, *, timeout: float = 60) -> str:
        """The same, but a status other than 0 is an AssertionError with the output."""
        done = self.run(command, timeout=timeout)
        assert done.status == 0, f"{command}: exit {done.status}\n{done.output}"
        return done.output

    def pytest(self, *selection: str, timeout: float = 600) -> Done:
        """The repository's own tests, run by the guest's Python on the guest's kernel."""
        words = ["python3", "-m", "pytest", "-q", "--timeout=300", "-p", "no:cacheprovider"]
        return self.run(f"cd /opt/repo && {shlex.join([*words, *selection])}", timeout=timeout)

    def close(self) -> None:
        if hasattr(self, "_agent"):
            self._agent.close()  # the agent sees the end and powers the machine off
        try:
            self._qemu.wait(10)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()
        self._work.cleanup()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._agent], [], [], left)[0]:
                raise GuestError(f"no answer from the guest\n{self._console_tail()}")
            chunk = self._agent.recv(1 << 20)
            if not chunk:
                raise GuestError(f"the guest is gone\n{self._console_tail()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _console_tail(self) -> str:
        try:
            text = self.console.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        if self._qemu.poll() is not None and self._qemu.stdout is not None:
            text += self._qemu.stdout.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-30:])


_KERNEL = "console=ttyS0 quiet panic=-1 random.trust_cpu=on"
_SYSTEMD = " guest.systemd systemd.unit=agent.service"


def _qemu(image: Image, payload: Path, console: Path, agent: Path, systemd: bool) -> list[str]:
    disks = [f"file={disk},if=virtio,format=raw,snapshot=on" for disk in (image.disk, payload)]
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", str(CPUS), "-m", MEMORY, "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-nic", "none", "-serial", f"file:{console}"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", _KERNEL + _SYSTEMD * systemd),
        *(word for disk in disks for word in ("-drive", disk)),
        *("-chardev", f"socket,id=agent,path={agent}"),
        *("-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=agent,name=pyengine"),
    ]
