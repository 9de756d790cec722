"""The second disk: this working tree and a virtual environment for the guest's Python.

Wheels are built from the tree as it is and unpacked, not editable, beside what they depend on.
The dependencies are kept in the cache, in a directory named after what is asked for.
"""

from __future__ import annotations

import configparser
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

from tests.vm.image import GUEST, BuildFailed, Image, cache, call, make_ext4

REPO = Path(__file__).parents[2]
TEST_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout")
"""In the versions that this Python has, so that a test means the same on both sides."""
GLIBC = 41
"""Minor version of the guest's libc: wheels for it or any older one will do."""

_SKIP = (".git", ".venv", "__pycache__", ".cache", ".*_cache", "build", "dist", "*.egg-info")


def build(image: Image, work: Path) -> Path:
    """Makes the disk in `work`, a directory of the caller's; answers its path."""
    root = work / "payload"
    shutil.copytree(REPO, root / "repo", ignore=shutil.ignore_patterns(*_SKIP), symlinks=True)
    for name in ("init", "agent.py", "agent.service"):
        shutil.copy(GUEST / name, root / name)
    wheels = _build_wheels(work / "wheels")
    python = _python(image.tree)
    site = root / "venv" / "lib" / python / "site-packages"
    shutil.copytree(_dependencies(image, python, wheels), site, symlinks=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    _compile(image.tree, python, site, [w.name.split("-")[0] for w in wheels])
    _make_venv(root / "venv", site, python)
    disk = work / "payload.ext4"
    make_ext4(disk, root, "2G")
    shutil.rmtree(root)
    return disk


def distributions() -> list[Path]:
    """The directories of core and of every plugin."""
    return [
        project.parent
        for project in [REPO / "core/pyproject.toml", *REPO.glob("plugins/*/pyproject.toml")]
    ]


def _build_wheels(target: Path) -> list[Path]:
    target.mkdir()

    def one(source: Path) -> None:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
        command += ["--no-build-isolation", "-w", str(target), str(source)]
        call(*command)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, distributions()))
    return sorted(target.glob("*.whl"))


def _dependencies(image: Image, python: str, wheels: Iterable[Path]) -> Path:
    """What the wheels need from others, installed for the guest's Python into the cache."""
    tools = [f"{name}=={version(name)}" for name in TEST_TOOLS]
    wanted = sorted({*tools, *(need for wheel in wheels for need in _needs(wheel))})
    key = hashlib.sha256("\n".join([python, *wanted]).encode()).hexdigest()[:16]
    home = cache() / f"site-{key}"
    if home.exists():
        return home
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
    call(
        *(sys.executable, "-m", "pip", "install", "-q", "--target", str(partial)),
        *("--only-binary=:all:", "--python-version", python.removeprefix("python")),
        *("--implementation=cp", *platforms, "--platform=manylinux2014_x86_64"),
        *wanted,
    )
    _compile(image.tree, python, partial, ["."])
    partial.rename(home)
    return home


def _needs(wheel: Path) -> list[str]:
    """Requirements of a wheel on others than ourselves, without those of optional extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        found = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    return [str(n) for n in found if "extra ==" not in n and not n.startswith("pyengine")]


def _compile(tree: Path, python: str, site: Path, parts: Iterable[str]) -> None:
    """Byte code made here by the guest's own Python: an emulated one takes minutes for it."""
    mount = 'mount --bind "$1" "$2/mnt" && cd / && root=$2 && python=$3 && shift 3'
    run = 'exec chroot "$root" "$python" -m compileall -q -j2 "$@"'
    paths = [f"/mnt/{part}" for part in parts]
    script = ["unshare", "--mount", "sh", "-c", f"{mount} && {run}", "sh"]
    done = subprocess.run(
        [*script, str(site), str(tree), python, *paths], capture_output=True, check=False
    )
    # Its status says nothing: packages carry files that no Python compiles (templates, fixtures).
    if not any(site.rglob("*.pyc")):
        raise BuildFailed(f"nothing was compiled in {site}:\n{done.stderr.decode()}")


def _make_venv(venv: Path, site: Path, python: str) -> None:
    """What `python3 -m venv` makes, without needing that Python: three links, a file, scripts."""
    (venv / "bin").mkdir()
    for name, target in (
        ("python3", "/usr/bin/python3"),
        ("python", "python3"),
        (python, "python3"),
    ):
        (venv / "bin" / name).symlink_to(target)
    settings = {
        "home": "/usr/bin",
        "include-system-site-packages": "false",
        "version": python.removeprefix("python"),
    }
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (venv / "pyvenv.cfg").write_text("".join(lines))
    for points in site.glob("*.dist-info/entry_points.txt"):
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(points.read_text())
        if parser.has_section("console_scripts"):
            for name, target in parser.items("console_scripts"):
                module, _, function = target.split("[")[0].strip().partition(":")
                script = venv / "bin" / name
                script.write_text(
                    "#!/opt/venv/bin/python3\nimport sys\n"
                    f"from {module} import {function.split('.')[0]}\nsys.exit({function}())\n"
                )
                script.chmod(0o755)


def _python(tree: Path) -> str:
    """The guest's Python as "python3.13"."""
    return (tree / "usr/bin/python3").readlink().name
