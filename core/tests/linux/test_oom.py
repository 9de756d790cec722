"""OOM kills: the reports of kernels, and kills on this one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from pyengine.linux import oom
from pyengine.linux.cgroups import Cgroup, layout, write
from pyengine.linux.oom import Exhausted, KernelLog, Kill, Reports

MB = 1 << 20
UNLIMITED = 9007199254740988
HIERARCHY = layout().find("memory")
needs_memory = pytest.mark.skipif(
    HIERARCHY is None or os.geteuid() != 0, reason="takes root and the memory controller"
)


# -- reports ---------------------------------------------------------------------------------------


def report(*amounts: str, where: str, task: str = "dd", pid: int = 7) -> list[str]:
    """The lines of a kill that say something, and some that do not."""
    return [
        "sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "CPU: 0 UID: 0 PID: 26026 Comm: sh Not tainted 6.18.44 #1 PREEMPT(none) ",
        *amounts,
        "Memory cgroup stats for /a:",
        f"oom-kill:constraint={where},task={task},pid={pid},uid=0",
        f"Memory cgroup out of memory: Killed process {pid} ({task}) total-vm:19076kB, UID:0",
        "oom_reaper: reaped process 7 (dd), now anon-rss:0kB",
    ]


def memcg(group: str, task_group: str) -> str:
    return (
        "CONSTRAINT_MEMCG,nodemask=(null),cpuset=/x,mems_allowed=0,"
        f"oom_memcg={group},task_memcg={task_group}"
    )


def kills(lines: list[str]) -> list[Kill]:
    reports = Reports()
    return [kill for line in lines if (kill := reports.feed(line))]


def amount(what: str, used: int, limit: int) -> str:
    return f"{what}: usage {used}kB, limit {limit}kB, failcnt 3"


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        pytest.param(
            [amount("memory", 16384, 16384), amount("memory+swap", 16384, UNLIMITED)],
            Exhausted("memory", "/a", 16 * MB),
            id="v1",
        ),
        pytest.param(
            [amount("memory", 9000, 16384), amount("memory+swap", 32768, 32768)],
            Exhausted("memory+swap", "/a", 32 * MB),
            id="v1-swap",
        ),
        pytest.param(
            [amount("memory", 16384, 16384), amount("memory+swap", 16384, 16384)],
            Exhausted("memory+swap", "/a", 16 * MB),
            id="v1-no-swap-allowed",
        ),
        pytest.param(
            [amount("memory", 16384, 16384), amount("swap", 0, 16384)],
            Exhausted("memory", "/a", 16 * MB),
            id="v2-swap-left",
        ),
        pytest.param(
            [amount("memory", 16384, 16384), amount("swap", 16380, 16384)],
            Exhausted("memory+swap", "/a", 32 * MB),
            id="v2-swap",
        ),
        pytest.param(
            [amount("memory", 16384, 16384), amount("swap", 0, UNLIMITED)],
            Exhausted("memory", "/a", 16 * MB),
            id="v2-swap-unlimited",
        ),
    ],
)
def test_which_limit(amounts: list[str], expected: Exhausted) -> None:
    found = kills(report(*amounts, where=memcg("/a", "/a/b")))
    assert found == [Kill(7, "dd", "/a/b", expected)]


@pytest.mark.parametrize(
    ("constraint", "what"),
    [("NONE", "host"), ("CPUSET", "cpuset"), ("MEMORY_POLICY", "memory policy")],
)
def test_no_cgroup_limit(constraint: str, what: str) -> None:
    where = (
        f"CONSTRAINT_{constraint},nodemask=(null),cpuset=/,mems_allowed=0,"
        "global_oom,task_memcg=/a/b"
    )
    assert kills(report(where=where)) == [Kill(7, "dd", "/a/b", Exhausted(what))]


def test_a_report_does_not_inherit_amounts() -> None:
    first = report(amount("memory", 16384, 16384), where=memcg("/a", "/a"))
    second = report(where=memcg("/c", "/c"), pid=8)
    assert [kill.exhausted for kill in kills(first + second)] == [
        Exhausted("memory", "/a", 16 * MB),
        Exhausted("memory", "/c", 0),
    ]


@pytest.mark.parametrize("name", ["a,task=b", "x,pid=1,uid=0", "(sd-pam)", "two words"])
def test_names_that_look_like_fields(name: str) -> None:
    (found,) = kills(report(where=memcg("/a", "/a"), task=name))
    assert (found.name, found.pid, found.cgroup) == (name, 7, "/a")


def test_the_last_line_alone() -> None:
    """What is left of reports beyond ten in five seconds; the process still is where it was."""
    lines = report(where=memcg("/a", "/a"))
    alone = f"Memory cgroup out of memory: Killed process {os.getpid()} (dd) total-vm:1kB"
    first, second = kills([*lines, alone])
    assert (first.pid, first.exhausted is None) == (7, False)
    assert (second.pid, second.name, second.exhausted) == (os.getpid(), "dd", None)
    with open("/proc/self/cgroup") as file:
        assert f":{second.cgroup}\n" in file.read()
    gone = f"Out of memory: Killed process {1 << 30} (dd) total-vm:1kB"
    assert kills([gone]) == [Kill(1 << 30, "dd", "", None)]


# -- this kernel -----------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[KernelLog]:
    try:
        made = KernelLog()
    except PermissionError:
        pytest.skip("the kernel's log may not be read")
    yield made
    made.close()


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """``/petest…/in``, whose parent is for limits too."""
    parent = Cgroup(f"/petest-oom{os.getpid()}")
    group = Cgroup(parent.path + "/in")
    group.create()
    yield group
    group.kill()
    group.remove()
    parent.remove()


def limit(group: Cgroup, *, with_swap: bool, size: int = 16 * MB) -> None:
    """Memory, and no swap above if ``with_swap``."""
    assert HIERARCHY is not None
    directory = group.directory_in(HIERARCHY)
    if HIERARCHY.v2:
        write(directory + "/memory.max", str(size))
        write(directory + "/memory.swap.max", "0" if with_swap else "max")
    else:
        write(directory + "/memory.limit_in_bytes", str(size))
        if with_swap:
            write(directory + "/memory.memsw.limit_in_bytes", str(size))


def eat(group: Cgroup) -> int:
    """A process of ``group`` that takes more and more, and is killed for it: its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            group.add(os.getpid())
            taken = []
            while True:
                taken.append(os.urandom(MB))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    return pid


def swap_total() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("SwapTotal"))


@needs_memory
@pytest.mark.parametrize("what", ["memory", "memory+swap"])
@pytest.mark.parametrize("whose", ["own", "parent"])
def test_kills(log: KernelLog, group: Cgroup, whose: str, what: str) -> None:
    if what == "memory" and swap_total():
        pytest.skip("swap would be filled first")
    limited = group if whose == "own" else Cgroup(group.path.rpartition("/")[0])
    limit(limited, with_swap=what == "memory+swap")
    expected = Exhausted(what, limited.path, 16 * MB)
    for _ in range(2):  # the kernel tells ten kills in five seconds, and others may have had them
        pid = eat(group)
        found = [kill for kill in log.kills() if kill.pid == pid]
        if found and found[0].exhausted:
            break
        time.sleep(5)
    assert [kill._replace(name="") for kill in found] == [Kill(pid, "", group.path, expected)]
    assert log.kills() == [] or all(kill.pid != pid for kill in log.kills())
    assert oom.counted(group) == expected


@needs_memory
def test_counters_that_could_mean_either_say_nothing(group: Cgroup) -> None:
    assert oom.counted(group) == Exhausted("host")
    parent = Cgroup(group.path.rpartition("/")[0])
    limit(parent, with_swap=True)
    eat(group)
    limit(group, with_swap=True, size=8 * MB)
    eat(group)
    assert oom.counted(group) is None


@needs_memory
def test_what_a_program_writes_to_the_log_is_not_believed(log: KernelLog) -> None:
    with open("/dev/kmsg", "w") as file:
        file.write("\n".join(report(where=memcg("/a", "/forged"))[-3:-2]))
    assert [kill for kill in log.kills() if kill.cgroup == "/forged"] == []


def test_a_log_that_may_not_be_read() -> None:
    with pytest.raises(FileNotFoundError):
        KernelLog("/nonexistent/kmsg")


def test_the_inner_pid() -> None:
    with open("/proc/self/comm") as file:
        name = file.read().strip()
    assert oom.inner_pid(os.getpid(), name) == os.getpid()
    assert oom.inner_pid(os.getpid(), "another") == 0
    assert oom.inner_pid(1 << 30, name) == 0
