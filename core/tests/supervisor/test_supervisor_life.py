"""Create, start, exit and everything between, with a runtime that isolates nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from pyengine.errors import Conflict, DriverBroken, DriverMissing, EngineError, StartError


async def run(bench, launch):
    """Launch and start; returns the shim and a future of its exit record."""
    supervisor = bench.supervisors[0] if bench.supervisors else bench.supervisor()
    if supervisor._zygote is None:
        await supervisor.start()
    shim = await supervisor.launch(launch)
    bench.pids.add(shim.pid)
    ended = asyncio.get_running_loop().create_future()
    shim.on_exit = ended.set_result
    await shim.start()
    return shim, ended


async def test_runs_and_leaves_a_record(bench):
    launch = bench.launch("sh", "-c", "echo out; echo err >&2; exit 3")
    shim, ended = await run(bench, launch)
    record = await asyncio.wait_for(ended, 5)
    assert (record.code, record.id, record.oom_killed, record.error) == (3, launch.id, False, "")
    assert record.started < record.finished
    assert sorted(bench.log(launch).split()) == ["err", "out"]
    assert Path(launch.log_path).read_text().endswith("[flushed]")
    assert json.loads((Path(launch.state_dir) / "exit.json").read_text())["code"] == 3
    await shim.shutdown()
    assert await shim.gone()
    assert not os.path.exists(launch.socket)


async def test_create_and_start_are_two_steps(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sh", "-c", "echo ran")
    shim = await supervisor.launch(launch)
    await asyncio.sleep(0.1)
    assert bench.log(launch) == ""
    assert Path(f"/proc/{shim.pid}").exists()
    await shim.start()
    with pytest.raises(Conflict):
        await shim.start()


async def test_signal_exit_codes(bench):
    shim, ended = await run(bench, bench.launch("sleep", "100"))
    await shim.kill(signal.SIGTERM)
    assert (await asyncio.wait_for(ended, 5)).code == 143


async def test_network_is_made_beside_the_creation(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    seen = []

    async def connect(fd):
        seen.append((os.readlink(f"/proc/self/fd/{fd}"), bench.log(launch)))
        await asyncio.sleep(0.4)
        seen.append(os.readlink(f"/proc/self/fd/{fd}"))

    launch = bench.launch("true", annotations={"slow-create": "0.4"})
    began = asyncio.get_running_loop().time()
    await supervisor.launch(launch, on_namespaces=connect)
    assert asyncio.get_running_loop().time() - began < 0.7
    assert seen[0][0].startswith("net:[")
    assert len(seen) == 2


async def test_failed_network_leaves_nothing(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sleep", "100")
    pids = []

    async def connect(fd):
        pids.append(int((bench.context.run / launch.id).read_text()))
        raise EngineError("no bridge")

    with pytest.raises(EngineError, match="no bridge"):
        await supervisor.launch(launch, on_namespaces=connect)
    await until(lambda: not Path(f"/proc/{pids[0]}").exists())
    assert not os.path.exists(launch.socket)


async def test_failed_create_keeps_the_error(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("true", annotations={"fail-create": "yes"})
    with pytest.raises(EngineError) as caught:
        await supervisor.launch(launch)
    assert (caught.value.brief, caught.value.detail, caught.value.help) == (
        "create failed",
        "as asked",
        "do not ask",
    )
    assert not os.path.exists(launch.socket)


async def test_driver_bug_names_the_driver(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    with pytest.raises(DriverBroken, match=r"runtime driver 'fake': create.*nobody foresaw"):
        await supervisor.launch(bench.launch("true", annotations={"fail-create": "bug"}))


async def test_shim_that_dies_in_create(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    with pytest.raises(EngineError, match="died while it created"):
        await supervisor.launch(bench.launch("true", annotations={"die-in-create": "yes"}))


async def test_unknown_command(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("no-such-command")
    shim = await supervisor.launch(launch)
    lost = []
    shim.on_lost = lambda: lost.append(1)
    with pytest.raises(StartError) as caught:
        await shim.start()
    assert caught.value.exit_code == 127
    assert "No such file" in caught.value.message()
    assert shim.ended.is_set()
    assert not lost
    await until(lambda: not Path(f"/proc/{shim.pid}").exists())


async def test_unknown_driver_is_refused(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    with pytest.raises(DriverMissing, match="'runc' is not loaded"):
        await supervisor.launch(bench.launch("true", runtime="runc"))


async def test_cancelled_launch_leaves_nothing(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sleep", "100", annotations={"slow-create": "0.3"})
    task = asyncio.create_task(supervisor.launch(launch))
    path = bench.context.run / launch.id
    await until(lambda: path.exists() and path.read_text())
    pid = int(path.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert not os.path.exists(launch.socket)


async def test_verbs_reach_the_runtime(bench, until):
    shim, ended = await run(bench, bench.launch("sleep", "100"))
    assert await shim.ps() == [shim.pid]
    await shim.update({"memory": {"limit": 4096}})
    stats = await shim.stats()
    assert (stats.cpu_total, stats.memory_limit) == (7, 4096)
    assert stats.blkio_bytes == [(8, 0, "Read", 512)]
    await shim.pause()
    stat = Path(f"/proc/{shim.pid}/stat")
    await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    await shim.resume()
    steps = {step.name: step for step in await shim.trace()}
    assert {"fork", "shim ready", "fake fork", "create", "start"} <= set(steps)
    assert all(0 <= step.duration < 1e9 for step in steps.values())
    assert not ended.done()


async def test_nothing_is_imported_after_the_fork(bench):
    shim, _ = await run(bench, bench.launch("sleep", "100"))
    await shim.exec(
        "e", {"args": ["true"], "env": ["PATH=/bin"]}, terminal=False, stdin=False, attach=False
    )
    await shim.resize(10, 10)
    stats = await shim.stats()
    assert stats.memory == {}


async def test_oom_is_told_and_recorded(bench, until):
    shim, ended = await run(bench, bench.launch("sleep", "100", annotations={"oom": "1"}))
    told = []
    shim.on_oom = told.append
    await shim.kill(signal.SIGKILL)
    record = await asyncio.wait_for(ended, 5)
    assert (record.code, record.oom_killed, told) == (137, True, [1])


async def test_kills_that_come_after_their_signal_are_told(bench, until):
    shim, _ = await run(bench, bench.launch("sleep", "100", annotations={"oom": "1"}))
    told = []
    shim.on_oom = told.append
    await shim.kill(signal.SIGURG)
    await until(lambda: sum(told) == 3)


async def test_shim_is_seen_in_ps(bench):
    launch = bench.launch("sleep", "100", oom_score_adj=321)
    shim, _ = await run(bench, launch)
    proc = Path(f"/proc/{shim.shim_pid}")
    assert (proc / "cmdline").read_bytes().rstrip(b"\0") == f"pyengine-shim {launch.id}".encode()
    assert (proc / "comm").read_text() == "pyengine-shim\n"
    assert (proc / "oom_score_adj").read_text() == "321\n"
    assert os.getsid(shim.shim_pid) == shim.shim_pid
    for fd in (0, 1, 2):
        assert os.readlink(proc / f"fd/{fd}") == "/dev/null"


async def test_no_descriptor_reaches_the_container(bench):
    launch = bench.launch("sh", "-c", "ls -l /proc/self/fd")
    _, ended = await run(bench, launch)
    await asyncio.wait_for(ended, 5)
    # Its three, the directory that ls reads, and the line with the total.
    assert len(bench.log(launch).splitlines()) == 5, bench.log(launch)


async def test_large_launch_and_exec(bench):
    environment = [f"V{n}={'x' * 1000}" for n in range(400)]
    launch = bench.launch("sh", "-c", "env | wc -c; sleep 100", env=environment)
    shim, _ = await run(bench, launch)
    _, attachment = await shim.exec(
        "big",
        {"args": ["sh", "-c", "env | wc -c"], "env": ["PATH=/usr/bin:/bin", *environment]},
        terminal=False,
        stdin=False,
        attach=True,
    )
    data = await asyncio.get_running_loop().sock_recv(attachment.sock, 100)
    assert int(data[8:]) > 400_000
    attachment.close()
