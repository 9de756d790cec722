"""The zygote: lean, sealed, replaceable, and strict about what it imports."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import pyengine
from pyengine.errors import DriverBroken, DriverMissing
from pyengine.linux import cgroups

LIFE = """
import asyncio, json, sys
from pathlib import Path
from pyengine.supervisor.client import Supervisor

async def main():
    one = Supervisor(exec_root=Path(sys.argv[1]), runtimes={}, loggers={}, shim_cgroup="")
    await one.start()
    info = await one.info()
    print(json.dumps([info.prefix, info.base_prefix, info.executable, sys.prefix]))
    await one.close()

asyncio.run(main())
"""


async def test_imports_nothing_heavy(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    info = await supervisor.info()
    heavy = {"asyncio", "aiohttp", "pyroute2", "pluggy", "stevedore", "click", "sqlite3", "email"}
    assert not heavy & set(info.modules)
    assert not {m for m in info.modules if m.startswith("pyengine.engine")}
    assert info.threads == 1
    assert info.prefix == sys.prefix


async def test_runs_from_memory(bench):
    supervisor = bench.supervisor()
    await supervisor.start()
    info = await supervisor.info()
    assert info.executable == "/memfd:pyengine-python (deleted)"
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
        os.close(os.open(f"/proc/{info.pid}/exe", os.O_WRONLY))
    title = Path(f"/proc/{info.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == f"pyengine-zygote {bench.exec_root}"


async def test_runs_from_a_mount_where_memory_may_not_be_executed(bench):
    """vm.memfd_noexec belongs to a pid namespace, so it is set in one of the test's own."""
    script = f"echo 2 > /proc/sys/vm/memfd_noexec && exec {sys.executable} -c '{LIFE}' $0"
    done = subprocess.run(
        ["unshare", "-p", "-m", "-f", "--mount-proc", "sh", "-c", script, str(bench.exec_root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "memfd_noexec" in done.stderr and "No such file" in done.stderr:
        pytest.skip("this kernel has no vm.memfd_noexec")
    assert done.returncode == 0, done.stderr
    assert f'["{sys.prefix}"' in done.stdout
    assert "memfd" not in done.stdout


async def test_finds_the_prefix_of_another_python(bench, tmp_path):
    """A distribution's python with a venv on it, as on a user's machine."""
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("there is no /usr/bin/python3")
    made = subprocess.run(
        ["/usr/bin/python3", "-m", "venv", "--without-pip", str(tmp_path / "venv")],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("/usr/bin/python3 has no venv module")
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    ours = [Path(module.__file__).parent.parent for module in (pyengine, msgspec)]
    (site / "ours.pth").write_text("".join(f"{path}\n" for path in ours))
    version = subprocess.check_output([python, "-c", "import sys;print(sys.version_info[:2])"])
    if version.decode().strip() != str(sys.version_info[:2]):
        pytest.skip("/usr/bin/python3 cannot import this interpreter's packages")
    done = subprocess.run(
        [python, "-c", LIFE, str(bench.exec_root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f'["{tmp_path}/venv", "/usr", "/memfd:' in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("threaded", "'threaded' of supervisor-fakes starts a thread at import"),
        ("broken", "'broken' of supervisor-fakes cannot be imported.*nothing_that_exists"),
        ("other", "'other' of supervisor-fakes is no RuntimeDriver"),
    ],
)
async def test_refuses_a_plugin_by_name(bench, name, words):
    with pytest.raises(DriverBroken, match=words):
        await bench.supervisor(runtimes=("fake", name)).start()


async def test_missing_driver(bench):
    with pytest.raises(DriverMissing, match="no runtime driver 'nope' is installed"):
        await bench.supervisor(runtimes=("nope",)).start()


async def test_is_replaced_when_distributions_change(bench, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    supervisor = bench.supervisor()
    await supervisor.start()
    old = (await supervisor.info()).pid
    before = await supervisor.launch(bench.launch("sleep", "100"))
    (site / "new-1.0.dist-info").mkdir()
    after = await supervisor.launch(bench.launch("sleep", "100"))
    assert (await supervisor.info()).pid != old
    for shim in (before, after):
        await shim.start()
        assert await shim.ps() == [shim.pid]


async def test_lives_in_the_shims_cgroup(bench):
    name = f"/petest-shims-{os.getpid()}"
    supervisor = bench.supervisor(shim_cgroup=name)
    await supervisor.start()
    info = await supervisor.info()
    shim = await supervisor.launch(bench.launch("sleep", "100"))
    memory = cgroups.layout().find("memory")
    assert memory is not None
    assert info.cgroup_warnings == []
    procs = Path(memory.mount, name[1:], "cgroup.procs")
    assert {str(info.pid), str(shim.shim_pid)} <= set(procs.read_text().split())
    os.kill(shim.pid, 9)
    await supervisor.close(keep_shims=False)
    await asyncio.sleep(0.1)
    await supervisor.close()
    assert not procs.parent.exists()
