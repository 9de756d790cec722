"""The images that the cases run, made here from a static busybox."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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


def tree_tar(out: IO[bytes], files: int = 15_000, total: int = 150_000_000) -> None:
    """A root file system of so many files and bytes in all, 40 to a directory."""
    with tarfile.open(fileobj=out, mode="w") as tar:
        _tree_into(tar, "tree", files, total, random.Random(15))


#: Files of each layer of `layers_archive`: a distribution, a language, a program, its settings.
LAYERS = (9000, 6500, 4500, 3000, 2000, 1200, 600, 200)


def layers_archive(out: IO[bytes], total: int = 280_000_000) -> None:
    """An image of eight layers with 27,000 files, as `docker save` writes one. The first layer is
    busybox; later ones also replace and remove something."""
    source = random.Random(8)
    blobs: list[tuple[str, IO[bytes]]] = []
    with ExitStack() as stack, tarfile.open(fileobj=out, mode="w") as archive:
        for number, files in enumerate(LAYERS):
            blob = stack.enter_context(tempfile.TemporaryFile())
            with tarfile.open(fileobj=blob, mode="w") as tar:
                if number == 0:
                    _busybox_into(tar)
                else:
                    _file(tar, f"layer{number - 1}/0/0", b"replaced\n", 0o644)
                    _file(tar, f"layer{number - 1}/0/.wh.1", b"", 0o644)
                _tree_into(tar, f"layer{number}", files, total * files // sum(LAYERS), source)
            blob.seek(0)
            blobs.append((hashlib.file_digest(blob, "sha256").hexdigest(), blob))
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{name}" for name, _ in blobs]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(blobs))],
        }
        _file(archive, "config.json", json.dumps(config).encode(), 0o644)
        for name, blob in blobs:
            entry = tarfile.TarInfo(f"{name}.tar")
            entry.size = blob.seek(0, io.SEEK_END)
            blob.seek(0)
            archive.addfile(entry, blob)
        manifest = [{"Config": "config.json", "Layers": [f"{name}.tar" for name, _ in blobs]}]
        _file(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _tree_into(
    tar: tarfile.TarFile, top: str, files: int, total: int, source: random.Random
) -> None:
    """Files of many sizes, most of them small; a third of their bytes cannot be compressed."""
    words = b" ".join(b"%x" % source.getrandbits(24) for _ in range(2000)) * 8
    weights = [source.paretovariate(1.2) for _ in range(files)]
    most = 200 * sum(weights) / files
    weights = [min(weight, most) for weight in weights]
    share = total / sum(weights)
    for number, weight in enumerate(weights):
        directory, place = divmod(number, 40)
        if place == 0:
            entry = tarfile.TarInfo(f"{top}/{directory}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        size = int(weight * share)
        noise = source.randbytes(size // 3)
        text = words * ((size - len(noise)) // len(words) + 1)
        _file(tar, f"{top}/{directory}/{place}", noise + text[: size - len(noise)], 0o644)


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
