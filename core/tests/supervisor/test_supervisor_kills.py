"""kill -9 of daemon, zygote, shim and of two at once, while a container writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pyengine.supervisor.records import Launch

LINES = 2000
WRITER = (
    f"for i in $(seq 1 {LINES}); do echo line $i; [ $((i % 20)) = 0 ] && sleep 0.01; done; exit 5"
)

DAEMON = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from pyengine.contracts.base import DriverContext
from pyengine.supervisor.client import Supervisor
from pyengine.supervisor.records import Launch

sys.path.append(sys.argv[1])
root, exec_root = Path(sys.argv[2]), Path(sys.argv[3])

async def main():
    context = DriverContext(engine_id="test", prefix="petest", root=root, run=root / "run")
    one = Supervisor(exec_root=exec_root, runtimes={"fake": context}, loggers={"fake": context},
                     shim_cgroup="")
    await one.start()
    launch = msgspec.json.decode(sys.stdin.read(), type=Launch)
    shim = await one.launch(launch)
    await shim.start()
    exec_pid = 0
    if len(sys.argv) > 4:
        exec_pid, _ = await shim.exec("e1", json.loads(sys.argv[4]), terminal=False, stdin=False,
                                      attach=False)
    zygote = (await one.info()).pid
    print(json.dumps({"zygote": zygote, "shim": shim.shim_pid, "pid": shim.pid,
                      "exec": exec_pid}), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


class Daemon:
    """A daemon in a process of its own, with one container running."""

    def __init__(self, bench, site: Path, launch: Launch, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, site, bench.root, bench.exec_root, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.process.stdin.write(msgspec.json.encode(launch))
        self.process.stdin.close()
        line = self.process.stdout.readline()
        self.__dict__.update(json.loads(line))
        bench.pids |= {self.pid, self.shim}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def complete(bench, launch) -> bool:
    return bench.log(launch).split("\n")[:-1] == [f"line {n}" for n in range(1, LINES + 1)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def daemon(bench, distributions):
    made = []

    def make(launch, *args):
        made.append(Daemon(bench, distributions, launch, *args))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.mark.parametrize("victims", ["daemon", "daemon and zygote", "zygote and daemon"])
async def test_container_outlives_the_daemon(bench, daemon, until, victims):
    launch = bench.launch("sh", "-c", WRITER)
    first = daemon(launch)
    await asyncio.sleep(0.2)
    if victims == "zygote and daemon":
        os.kill(first.zygote, signal.SIGKILL)
    first.kill()
    if victims == "daemon and zygote":
        try:
            os.kill(first.zygote, signal.SIGKILL)
        except ProcessLookupError:
            pass
    await until(lambda: not alive(first.zygote))
    await asyncio.sleep(0.1)
    supervisor = bench.supervisor()
    await supervisor.start()
    shim = await supervisor.adopt(launch.id, Path(launch.socket))
    ended = asyncio.get_running_loop().create_future()
    shim.on_exit = ended.set_result
    assert (shim.pid, shim.shim_pid, shim.hello.status) == (first.pid, first.shim, "running")
    assert await shim.ps() == [first.pid]
    record = await asyncio.wait_for(ended, 20)
    assert record.code == 5
    assert complete(bench, launch)


async def test_end_without_a_daemon_is_recorded(bench, daemon, until):
    launch = bench.launch("sh", "-c", WRITER)
    first = daemon(launch)
    first.kill()
    await until(lambda: not os.path.exists(launch.socket), 20)
    record = json.loads((Path(launch.state_dir) / "exit.json").read_text())
    assert (record["code"], record["error"]) == (5, "")
    assert complete(bench, launch)
    await until(lambda: not alive(first.shim))
    # The runtime's delete has run: its state is gone.
    assert not (bench.context.run / launch.id).exists()
    supervisor = bench.supervisor()
    await supervisor.start()
    assert await supervisor.adopt(launch.id, Path(launch.socket)) is None


async def test_exec_codes_are_kept_for_the_next_daemon(bench, daemon, until):
    process = {"args": ["sh", "-c", "sleep 0.3; exit 9"], "env": ["PATH=/usr/bin:/bin"]}
    launch = bench.launch("sleep", "100")
    first = daemon(launch, json.dumps(process))
    first.kill()
    await until(lambda: not alive(first.exec))
    await asyncio.sleep(0.1)
    supervisor = bench.supervisor()
    await supervisor.start()
    shim = await supervisor.adopt(launch.id, Path(launch.socket))
    codes = {}
    shim.on_exec_exit = codes.__setitem__
    assert codes == {"e1": 9}
    # Taken once, it is forgotten.
    await shim.ps()
    again = await supervisor.adopt(launch.id, Path(launch.socket))
    assert again.hello.execs == []


async def test_newest_daemon_wins(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sleep", "100")
    old = await supervisor.launch(launch)
    lost = []
    old.on_lost = lambda: lost.append(1)
    new = await bench.supervisor().adopt(launch.id, Path(launch.socket))
    assert new.hello.status == "created"
    ended = asyncio.get_running_loop().create_future()
    new.on_exit = ended.set_result
    await new.start()
    await new.kill(signal.SIGKILL)
    assert (await asyncio.wait_for(ended, 5)).code == 137
    assert not lost
    await new.shutdown()


async def test_zygote_is_replaced_and_shims_go_on(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sh", "-c", WRITER)
    shim = await supervisor.launch(launch)
    ended = asyncio.get_running_loop().create_future()
    shim.on_exit = ended.set_result
    await shim.start()
    for _ in range(2):
        os.kill((await supervisor.info()).pid, signal.SIGKILL)
        other = await supervisor.launch(bench.launch("true"))
        await other.start()
        await other.shutdown()
    assert (await asyncio.wait_for(ended, 20)).code == 5
    assert complete(bench, launch)
    # The first zygote's shim is ours now: reaped at once, no zombie.
    await shim.shutdown()
    assert await shim.gone()
    await until(lambda: not Path(f"/proc/{shim.shim_pid}").exists())


async def test_launch_under_a_dying_zygote_is_tried_again(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    zygote = (await supervisor.info()).pid
    os.kill(zygote, signal.SIGSTOP)
    task = asyncio.create_task(supervisor.launch(bench.launch("sh", "-c", "exit 3")))
    await asyncio.sleep(0.1)
    os.kill(zygote, signal.SIGKILL)
    shim = await asyncio.wait_for(task, 10)
    ended = asyncio.get_running_loop().create_future()
    shim.on_exit = ended.set_result
    await shim.start()
    assert (await asyncio.wait_for(ended, 5)).code == 3


async def test_killed_shim_ends_its_container(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sleep", "100")
    shim = await supervisor.launch(launch)
    lost = asyncio.Event()
    exits = []
    shim.on_lost = lost.set
    shim.on_exit = exits.append
    await shim.start()
    os.kill(shim.shim_pid, signal.SIGKILL)
    await asyncio.wait_for(lost.wait(), 5)
    record = await supervisor.end_lost(
        launch.id, runtime="fake", bundle=launch.bundle, state_dir=launch.state_dir
    )
    assert record.code == 137
    assert "shim was killed" in record.error
    assert not exits
    await until(lambda: not Path(f"/proc/{shim.pid}").exists())
    assert await supervisor.adopt(launch.id, Path(launch.socket)) is None


async def test_record_of_a_shim_that_died_after_writing_it(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sh", "-c", "exit 4")
    shim = await supervisor.launch(launch)
    ended = asyncio.get_running_loop().create_future()
    shim.on_exit = ended.set_result
    await shim.start()
    await asyncio.wait_for(ended, 5)
    os.kill(shim.shim_pid, signal.SIGKILL)
    record = await supervisor.end_lost(
        launch.id, runtime="fake", bundle=launch.bundle, state_dir=launch.state_dir
    )
    assert (record.code, record.error) == (4, "")


async def test_orphans_of_zygote_and_shim_are_reaped(bench, until):
    supervisor = bench.supervisor()
    await supervisor.start()
    launch = bench.launch("sleep", "100")
    shim = await supervisor.launch(launch)
    lost = asyncio.Event()
    shim.on_lost = lost.set
    await shim.start()
    own = subprocess.Popen(["sh", "-c", "exit 6"], start_new_session=False)
    os.kill((await supervisor.info()).pid, signal.SIGKILL)
    await supervisor.info()
    os.kill(shim.shim_pid, signal.SIGKILL)
    await asyncio.wait_for(lost.wait(), 5)
    await supervisor.end_lost(
        launch.id, runtime="fake", bundle=launch.bundle, state_dir=launch.state_dir
    )
    await until(lambda: not Path(f"/proc/{shim.pid}").exists(), 10)
    # What this process started itself is not taken away from it.
    assert own.wait() == 6
