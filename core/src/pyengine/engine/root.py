"""Where an engine lives, and that it lives there alone."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from pyengine.config import DEFAULT_DATA_ROOT, Config
from pyengine.drivers import Places
from pyengine.errors import Unavailable

#: In the data root and in the exec root: locked by the daemon whose pid it holds.
LOCK = "engine.lock"


def take(config: Config) -> Places:
    """Make the directories of an engine and hold them for as long as this process lives.

    ``Unavailable`` if another engine has one of them.
    """
    data_root, exec_root = Path(config.data_root), Path(config.exec_root)
    for path in (data_root, data_root / "containers", exec_root, exec_root / "s",
                 exec_root / "b", exec_root / "netns"):  # fmt: skip
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    # Programs that containers gave set-id bits are not for users of the host (CVE-2021-41091).
    data_root.chmod(0o710)
    _lock(data_root, f"another engine runs on {data_root}",
          "stop it, take over with --replace, or use another --data-root")  # fmt: skip
    _lock(exec_root, f"another engine uses {exec_root}",
          "give this one an --exec-root of its own")  # fmt: skip
    id_file = data_root / "engine-id"
    if not id_file.exists():
        temporary = id_file.with_suffix(".new")
        temporary.write_text(str(uuid.uuid4()))
        temporary.replace(id_file)
    engine_id = id_file.read_text().strip()
    default = data_root == DEFAULT_DATA_ROOT
    prefix = "pyengine" if default else f"pe{engine_id.replace('-', '')[:6]}"
    return Places(data_root, exec_root, engine_id, prefix)


def _lock(root: Path, taken: str, advice: str) -> None:
    """Hold a directory, under our pid. The descriptor is never closed: the lock goes with it."""
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode().strip() or "?"
        os.close(lock)
        raise Unavailable(taken, f"its daemon is process {holder}", advice) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
