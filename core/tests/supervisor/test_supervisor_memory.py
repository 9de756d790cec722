"""What shims cost, and that nothing grows."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

PATH = ["PATH=/usr/bin:/bin"]


def private_dirty(pid: int) -> int:
    """In KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise AssertionError("no Private_Dirty")


async def test_private_memory_after_chunks_and_execs(bench, until, read_all):
    supervisor = bench.supervisor()
    await supervisor.start()
    # A line, an answer, the next line: the shim cannot take two of them for one chunk.
    script = "while read x; do echo chunk $x; done; head -c 50000000 /dev/zero; sleep 100"
    launch = bench.launch("sh", "-c", script, open_stdin=True, stdin_once=True)
    shim = await supervisor.launch(launch)
    client = await shim.attach(stdin=True, stdout=True, stderr=True)
    await shim.start()
    loop = asyncio.get_running_loop()
    for n in range(10_000):
        client.sock.send(b"%d\n" % n)
        await loop.sock_recv(client.sock, 1000)
    client.close()
    for n in range(10):
        process = {"args": ["echo", "hi"], "env": PATH}
        _, attached = await shim.exec(f"e{n}", process, terminal=False, stdin=False, attach=True)
        assert (await read_all(attached.sock))[8:] == b"hi\n"
    await until(lambda: Path(launch.log_path).stat().st_size > 50_000_000, 20)
    await asyncio.sleep(1.2)
    assert private_dirty(shim.shim_pid) <= 3 * 1024


async def test_descriptors_and_processes_stay_flat(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    zygote = (await supervisor.info()).pid

    def counts() -> tuple[int, int, list[str]]:
        children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
        return (
            len(os.listdir("/proc/self/fd")),
            len(os.listdir(f"/proc/{zygote}/fd")),
            children,
        )

    async def cycle() -> None:
        shim = await supervisor.launch(bench.launch("sleep", "100"))
        await shim.start()
        _, client = await shim.exec(
            "e", {"args": ["true"], "env": PATH}, terminal=False, stdin=False, attach=True
        )
        client.close()
        await shim.kill(9)
        await shim.shutdown()
        assert await shim.gone()

    await cycle()
    await until(lambda: not counts()[2])
    before = counts()
    for _ in range(20):
        await cycle()
    await until(lambda: counts() == before)
    assert not os.listdir(bench.exec_root / "s")
