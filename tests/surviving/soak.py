"""Many cycles of run, exec, rm: what an engine holds afterwards is what it held after the first 50.

``python tests/surviving/soak.py [CYCLES]`` (as root, with the environment's python; 500 cycles
take some four minutes). A row is printed every 50 cycles; the exit code is 1 if something grew.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# ruff: noqa: E402
from harness import (
    EngineProcess,
    busybox_tar,
    cgroups_named,
    docker_cli,
    leftovers,
    mounts_below,
    processes_of,
)
from surviving import zygote_of

WARM_UP = 50
#: How much more there may be after all the rest. ``pss``: a leak of 1 kB a cycle is found.
#: ``threads``: each driver has up to eight, made when as many calls meet.
TOLERANCE = {"pss": 450, "threads": 8}


class Held(msgspec.Struct, frozen=True):
    """What daemon and zygote hold. ``pss`` in kB, both together; the others are counts."""

    daemon_fds: int
    zygote_fds: int
    threads: int
    processes: int
    mounts: int
    namespaces: int
    cgroups: int
    links: int
    files: int
    pss: int

    @classmethod
    def by(cls, engine: EngineProcess) -> Held:
        zygote = zygote_of(engine)
        prefix = "pe" + (engine.data / "engine-id").read_text().replace("-", "")[:6]
        return cls(
            daemon_fds=len(os.listdir(f"/proc/{engine.pid}/fd")),
            zygote_fds=len(os.listdir(f"/proc/{zygote}/fd")),
            threads=len(os.listdir(f"/proc/{engine.pid}/task")),
            processes=len(processes_of(engine.root)),
            mounts=len(mounts_below(engine.root)),
            namespaces=_namespaces(engine),
            cgroups=len(cgroups_named(prefix)),
            links=len(engine.in_namespace("ip", "-o", "link").stdout.splitlines()),
            files=sum(len(files) for _, _, files in os.walk(engine.root)),
            pss=_pss(engine.pid) + _pss(zygote),
        )


def cycle(engine: EngineProcess, number: int) -> None:
    """One container through its life, by the stock CLI."""
    name = f"soak{number}"
    engine.docker(
        "run", "-d", "--name", name, "-p", "18090:80", "-v", "/anonymous", "busybox",
        "sh", "-c", "echo begin; while :; do sleep 1; done",
    )  # fmt: skip
    assert engine.out("exec", name, "echo", "inside") == "inside"
    assert engine.out("logs", name) == "begin"
    engine.docker("rm", "-f", "-v", name)


def main() -> int:
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        engine = EngineProcess(Path(place) / "engine", docker_cli())
        engine.root.mkdir()
        try:
            engine.start()
            image = busybox_tar(Path(place) / "busybox.tar")
            engine.docker("import", str(image), "busybox")
            _fill_journal(engine)
            return _soak(engine, cycles)
        finally:
            engine.dispose()


def _fill_journal(engine: EngineProcess) -> None:
    """The last 4096 events are kept, on purpose: let there be as many from the beginning."""
    for _ in range(4096 // 2):
        engine.api("POST", "/v1.45/volumes/create", {"Name": "filler"})
        engine.api("DELETE", "/v1.45/volumes/filler")


def _soak(engine: EngineProcess, cycles: int) -> int:
    print(" cycles", *(f"{name:>11}" for name in Held.__struct_fields__))
    first: Held | None = None
    held = Held.by(engine)
    _row(0, held)
    began = time.monotonic()
    for number in range(1, cycles + 1):
        cycle(engine, number)
        if number % WARM_UP == 0:
            _rest(engine)
            held = Held.by(engine)
            _row(number, held)
            first = first or held
    assert first is not None, f"at least {WARM_UP} cycles"
    print(f"{(time.monotonic() - began) / cycles * 1000:.0f} ms a cycle")
    grown = [
        f"{name}: {getattr(first, name)} after {WARM_UP} cycles, {getattr(held, name)} now"
        for name in Held.__struct_fields__
        if getattr(held, name) > getattr(first, name) + TOLERANCE.get(name, 0)
    ]
    print("\n".join(grown) or "as after the first 50")
    return 1 if grown else 0


def _rest(engine: EngineProcess) -> None:
    """Let sweeps and the database's checkpoint come to their end."""
    deadline = time.monotonic() + 15
    while leftovers(engine) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)


def _row(number: int, held: Held) -> None:
    print(f"{number:7}", *(f"{value:11}" for value in msgspec.structs.astuple(held)), flush=True)


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError(f"no Pss of {pid}")


def _namespaces(engine: EngineProcess) -> int:
    """Different namespaces that the engine's processes are in or hold by a descriptor."""
    found = set()
    for pid in processes_of(engine.root):
        for directory in ("ns", "fd"):
            for link in Path(f"/proc/{pid}/{directory}").iterdir():
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                if directory == "ns" or target.partition(":")[0] in ("net", "mnt", "pid"):
                    found.add(target)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
