"""An engine at the other end of ssh, as Docker's clients reach it.

``ssh://[USER@]HOST[:PORT][/SOCKET]``: on the host ``docker system dial-stdio`` runs, which passes
what it reads on to its engine and writes what comes back.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess

from pyengine.cli.http import ConnectError

#: How long ssh may take to end once its stream has ended, in seconds.
_PATIENCE = 3.0


def arguments(url: str) -> list[str]:
    """The command line for an address; ValueError in Docker's words."""
    from urllib.parse import unquote, urlsplit

    def refuse(reason: str) -> ValueError:
        return ValueError(f"ssh host connection is not valid: invalid SSH URL: {reason}")

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        after = parts.netloc.rpartition("@")[2].rpartition(":")[2]
        raise ValueError(f'parse "{url}": invalid port ":{after}" after host')
    if parts.password is not None:
        raise refuse("plain-text password is not supported")
    # Not parts.hostname, which is in lower case: ssh_config(5) may know the name in another.
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}")
    host = unquote(host[1:-1] if host.startswith("[") else host)
    if not host:
        raise refuse("hostname is empty")
    if parts.query:
        raise refuse(f'query parameters are not allowed: "{parts.query}"')
    if parts.fragment:
        raise refuse(f'fragments are not allowed: "{parts.fragment}"')
    words = ["ssh", "-o ConnectTimeout=30", "-T"]
    words += ["-l", unquote(parts.username)] if parts.username else []
    words += ["-p", str(port)] if port is not None else []
    words += ["--", host, "docker"]
    if parts.path.strip("/"):
        # ssh joins the words and the host's shell takes them apart again.
        words += ["--host", shlex.quote(f"unix://{unquote(parts.path)}")]
    return [*words, "system", "dial-stdio"]


class SshStream(socket.socket):
    """A connected stream to the standard input and output of a command."""

    def __init__(self, words: list[str]) -> None:
        """Start the command; OSError if it cannot be."""
        ours, theirs = socket.socketpair()
        with theirs, ours:
            self._errors = os.memfd_create("stderr", os.MFD_CLOEXEC)
            try:
                # A session of its own: Ctrl-C is for us, and the connection must outlive it.
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    words,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._errors,
                    start_new_session=True,
                )
            except OSError as error:
                os.close(self._errors)
                raise ConnectError(error.errno or 0, f"{words[0]}: {str(error.strerror).lower()}")
            super().__init__(fileno=ours.detach())
        self._words = words
        self._silent = True

    def recv(self, limit: int, flags: int = 0) -> bytes:
        """Empty at the end; ConnectError if that is all that ever came."""
        try:
            data = super().recv(limit, flags)
        except ConnectionResetError:
            data = b""  # it ended without reading all we sent
        if data:
            self._silent = False
        elif self._silent:
            raise ConnectError(0, self._failure())
        return data

    def close(self) -> None:
        """The command sees the end of its input, and has a little time to end by itself."""
        if self.fileno() < 0:
            return
        super().close()
        self._end()
        os.close(self._errors)

    def _end(self) -> int:
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _failure(self) -> str:
        status = self._end()
        said = os.pread(self._errors, 65536, 0).decode(errors="replace").strip()
        return (
            f"command [{' '.join(self._words)}] has exited with status {status}, make sure the "
            f"address is right and the host has docker or pyengine: stderr={said}"
        )
