"""The guest's disk: a Debian 13 system, its kernel and an initramfs, built once and kept.

Kept under $PYENGINE_VM_DIR (~/.cache/pyengine-vm), in a directory named after all that goes in,
so a changed list of packages makes a new one. Needs root (to enter the new system by chroot).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peer import apt_options, debian_mirror

SUITE = "trixie"
PACKAGES = (
    "apparmor",
    "busybox-static",
    "ca-certificates",
    "dbus",
    "docker-cli",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "kmod",
    "libnftables1",
    "libseccomp2",
    "linux-image-cloud-amd64",
    "nftables",
    "procps",
    "python3",
    "runc",
    "strace",
    "systemd",
    "util-linux",
    "xfsprogs",
)
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
DISK_SIZE = "6G"

GUEST = Path(__file__).with_name("guest")


class BuildFailed(RuntimeError):
    """A tool that makes the guest's disks ended with an error; the message has its output."""


@dataclass(frozen=True)
class Image:
    """`tree` is the same system as a directory, to run its programs on this host by chroot."""

    kernel: Path
    initramfs: Path
    disk: Path
    tree: Path


def cache() -> Path:
    chosen = os.environ.get("PYENGINE_VM_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "pyengine-vm"


def build() -> Image:
    """The image for this list of packages: from the cache, else made in about a minute."""
    key = hashlib.sha256()
    for part in (SUITE, *PACKAGES, DISK_SIZE, (GUEST / "initramfs-init").read_text()):
        key.update(part.encode() + b"\0")
    home = cache() / f"image-{key.hexdigest()[:16]}"
    image = Image(home / "vmlinuz", home / "initramfs", home / "disk.ext4", home / "tree")
    if home.exists():
        return image
    if os.geteuid() != 0:
        raise BuildFailed("making the guest's disk needs root")
    cache().mkdir(parents=True, exist_ok=True)
    work = cache() / f"making-{os.getpid()}"
    try:
        _make(work)
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return image


def make_ext4(disk: Path, content: Path, size: str) -> None:
    """A sparse file of that size, an ext4 filesystem with the content of a directory."""
    disk.unlink(missing_ok=True)
    call("truncate", "--size", size, str(disk))
    call("mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(content), str(disk))


def call(*argv: str) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        output = (done.stdout + done.stderr)[-3000:]
        raise BuildFailed(f"{' '.join(argv)} ended with {done.returncode}:\n{output}")
    return done.stdout


def _make(work: Path) -> None:
    tree = work / "tree"
    work.mkdir()
    call(
        "mmdebstrap",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        *apt_options(),
        SUITE,
        str(tree),
        *debian_mirror(),
    )
    (release,) = (tree / "lib/modules").iterdir()
    shutil.copy(tree / f"boot/vmlinuz-{release.name}", work / "vmlinuz")
    # The packaged initramfs looks for hardware of every kind; an emulated CPU takes long for it.
    shutil.rmtree(tree / "boot")
    _make_initramfs(tree, release, work / "initramfs")
    make_ext4(work / "disk.ext4", tree, DISK_SIZE)


def _make_initramfs(tree: Path, modules: Path, target: Path) -> None:
    root = tree / "initramfs"
    for name in ("bin", "dev", "proc", "root", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(GUEST / "initramfs-init", root / "init")
    (root / "init").chmod(0o755)
    shutil.copy(tree / "usr/bin/busybox", root / "bin/busybox")
    for name in MODULES:  # a module that the kernel has built in is no file
        for packed in modules.rglob(f"{name}.ko.xz"):
            (root / "modules" / f"{name}.ko").write_bytes(lzma.decompress(packed.read_bytes()))
    archive = "cd /initramfs && find . | busybox cpio -o -H newc | gzip -1 >/initramfs.gz"
    call("chroot", str(tree), "sh", "-c", archive)
    shutil.move(tree / "initramfs.gz", target)
    shutil.rmtree(root)
