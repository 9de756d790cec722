"""The images that the cases run, made here from a static busybox: no registry is needed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

Writer = Callable[[IO[bytes]], None]

_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


def static_busybox() -> Path:
    """Where this host keeps a statically linked busybox. Raises FileNotFoundError with advice."""
    found = shutil.which("busybox")
    if found is None:
        raise FileNotFoundError("no busybox on this host (apt install busybox-static)")
    return Path(found).resolve()


def busybox_tar(out: IO[bytes]) -> None:
    """A root file system of about 2 MB: busybox, its applets as links, users, groups, /tmp."""
    with tarfile.open(fileobj=out, mode="w|") as tar:
        _busybox_into(tar)


def logs_tar(lines: Callable[[], Iterator[bytes]]) -> Writer:
    """busybox with a file /lines holding `lines`: `cat /lines` is the fastest writer of a log."""

    def write(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|") as tar:
            _busybox_into(tar)
            _file(tar, "lines", b"".join(lines()), 0o644)

    return write


def plain_lines(total: int = 71_000_000) -> Iterator[bytes]:
    """Short plain lines, `total` bytes of them."""
    yield from _until(total, lambda n: b"%08d worker took a job and finished\n" % n)


def json_lines(total: int = 71_000_000) -> Iterator[bytes]:
    """JSON with quotes, a tab, a colour and UTF-8 in each line, `total` bytes of them."""
    colours = ("31", "32", "33", "36")
    words = ("Größe", "naïve", "日本語", "🙂 done")

    def line(n: int) -> bytes:
        return (
            f'{{"n":{n},"level":"\x1b[{colours[n % 4]}minfo\x1b[0m",'
            f'"msg":"{words[n % 4]}\tkept","path":"/a/{n % 97}?x=1&y=2"}}\n'
        ).encode()

    yield from _until(total, line)


def load(docker: Sequence[str], name: str, write: Writer) -> None:
    """Import what `write` produces as image `name`, unless the engine behind `docker` has it."""
    seen = subprocess.run([*docker, "image", "inspect", name], capture_output=True, check=False)
    if seen.returncode == 0:
        return
    command = [*docker, "import", "--change", 'CMD ["/bin/sh"]', "-", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        write(process.stdin)
        process.stdin.close()
    if process.returncode:
        raise RuntimeError(f"docker import of {name} failed with {process.returncode}")


def _until(total: int, line: Callable[[int], bytes]) -> Iterator[bytes]:
    written = n = 0
    while written < total:
        one = line(n)
        yield one
        written += len(one)
        n += 1


def _busybox_into(tar: tarfile.TarFile) -> None:
    busybox = static_busybox()
    for name, mode in (
        ("bin", 0o755),
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("dev", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("var", 0o755),
    ):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        tar.addfile(entry)
    _file(tar, "bin/busybox", busybox.read_bytes(), 0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for applet in applets.split():
        if applet != "busybox":
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    _file(tar, "etc/passwd", _PASSWD, 0o644)
    _file(tar, "etc/group", _GROUP, 0o644)


def _file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
