"""config.json, where Docker's clients keep the user's settings and credentials."""

from __future__ import annotations

import json
import os

from pyengine.cli.client import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class ConfigFile:
    """The config.json in ``folder``."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "config.json")

    def load(self) -> dict[str, Any]:
        """The file's object, empty without a file; OSError or ValueError if it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                loaded = json.load(file)
        except FileNotFoundError:
            return {}
        if not isinstance(loaded, dict):
            raise ValueError("it holds no object")
        return loaded

    def update(self, saving: str, change: Callable[[dict[str, Any]], bool]) -> bool:
        """Replace the file if ``change`` changed what it says, and tell; all else stays as it was.

        Two clients at once wait for each other; a reader sees the old file or the new one.
        CommandError, "error saving ``saving``", if the file cannot be read or written.
        """
        import fcntl

        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            if not change({}):
                return False
            os.makedirs(folder, 0o700, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            config = self.load_to_change(saving)
            changed = change(config)
            if changed:
                self._write(config)
            return changed
        except OSError as error:
            raise CommandError(f"error saving {saving}: {error}")
        finally:
            os.close(lock)

    def load_to_change(self, saving: str) -> dict[str, Any]:
        """As :meth:`load`, for a caller that is going to :meth:`update`, with its CommandError."""
        try:
            return self.load()
        except (OSError, ValueError) as error:
            raise CommandError(
                f"error saving {saving}: {self.path} cannot be read, and so is not "
                f"overwritten: {error}"
            )

    def _write(self, config: dict[str, Any]) -> None:
        # Where the file is a symlink, what it points to is replaced.
        path = os.path.realpath(self.path)
        partial = f"{path}.{os.getpid()}"
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(config, file, indent="\t", ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
                if os.path.exists(path):
                    owner = os.stat(path)
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
