"""An engine in the guest, driven by Debian's docker CLI."""

from __future__ import annotations

from tests.vm.machine import Machine

ANSWERS = (
    "for _ in $(seq 300); do docker version >/dev/null 2>&1 && exit 0; sleep 0.1; done; "
    "cat /var/log/{name}.log; exit 1"
)
DAEMON = (
    "setsid pyengine daemon --data-root {data_root} --exec-root /run/{name} "
    "-H unix:///run/{name}.sock {options} >>/var/log/{name}.log 2>&1 </dev/null & echo $!"
)
IMPORT = (
    "cd /opt/repo && python3 -c 'import sys; from bench.images import busybox_tar; "
    "busybox_tar(sys.stdout.buffer)' | docker import - busybox"
)


class Docker:
    """docker's words against the engine called ``name``; `pid` is the daemon's."""

    def __init__(
        self, guest: Machine, name: str = "pyengine", data_root: str = "/var/lib/pyengine"
    ) -> None:
        self.guest = guest
        self.name = name
        self.data_root = data_root
        self.pid = 0

    def __call__(self, words: str) -> str:
        return self.shell(f"docker {words}")

    def shell(self, command: str) -> str:
        return self.guest.check(self._here(command), timeout=120).strip()

    def fails(self, words: str) -> str:
        """What docker prints with these words, which end in an error."""
        done = self.guest.run(self._here(f"docker {words}"), timeout=120)
        assert done.status != 0, done.output
        return done.output

    def start(self, options: str = "") -> None:
        names = {"name": self.name, "data_root": self.data_root, "options": options}
        self.pid = int(self.shell(DAEMON.format(**names)))
        self.shell(ANSWERS.format(name=self.name))

    def kill(self, signal: str) -> None:
        gone = f"while [ -d /proc/{self.pid} ]; do sleep 0.1; done"
        self.shell(f"kill -{signal} {self.pid}; {gone}")

    def cgroup(self, name: str) -> str:
        """The directory of a running container's cgroup, as the host sees it."""
        pid = self(f"inspect -f '{{{{.State.Pid}}}}' {name}")
        (line,) = self.shell(f"cat /proc/{pid}/cgroup").splitlines()
        number, controllers, path = line.split(":")
        assert (number, controllers) == ("0", "")
        return f"/sys/fs/cgroup{path}"

    def _here(self, command: str) -> str:
        return f"export DOCKER_HOST=unix:///run/{self.name}.sock; {command}"
