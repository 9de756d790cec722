"""What a process sees of itself is what runc would have shown it, in run and in exec.

Needs the program runc (Debian's package runc).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pyengine.linux import syscalls
from pyengine.testing.containers import World, make_process, world
from pyengine_runtime_native import NativeRuntime

LOOK = (
    "cat /proc/self/status /proc/self/limits;"
    "ls -l /proc/self/fd 2>/dev/null | sed 's/.* \\([0-9]* ->\\)/\\1/';"
    "tr '\\0' '\\n' < /proc/self/environ; umask; pwd; cat /proc/self/oom_score_adj;"
    "cut -d' ' -f4- /proc/self/mountinfo | sort -k2; ls -l /dev | grep -v total"
)
#: Numbers that differ between any two processes.
OWN = re.compile(
    r"^(Pid|PPid|Tgid|NS\w+|Ngid|Vm\w+|Rss\w+|HugetlbPages|\w*ctxt_switches|SigQ|THP_enabled):.*$",
    re.MULTILINE,
)
#: (a line of runc's, the line of ours that stands for it)
ACCEPTED = (
    # The mounts are read-only either way. runc also makes the file system itself so, which for
    # sysfs would reach other mounts of it.
    (r"(.* - (?:sysfs|tmpfs) \w+) ro(?:,.*)?", r"{} rw.*"),
    # runc 1.1 leaves the directory of the hierarchies writable.
    (r"/ (/sys/fs/cgroup) rw,(?:.*)", r"/ {} ro,.*"),
    # Version 2 in the host's cgroup namespace: ours is a bind of the host's mount and keeps that
    # one's source and options, runc's is mounted anew.
    (r"/ (/sys/fs/cgroup ro,[a-z,]+) - cgroup2 .*", r"/ {} - cgroup2 .*"),
)


def test_run_and_exec_look_as_under_runc(tmp_path: Path) -> None:
    # What started the tests may have left them ignored (make does), and runc hands them on.
    for signal in (32, 33):
        syscalls.default_disposition(signal)
    assert shutil.which("runc"), "install the package runc"
    with world(NativeRuntime) as surroundings:
        ours = surroundings.in_shim(lambda: look_native(surroundings))
        theirs = look_runc(surroundings, tmp_path)
        surroundings.assert_nothing_left()
    for mine, other in zip(ours, theirs, strict=True):
        assert differences(other, mine) == []


def look_native(world: World) -> tuple[str, str]:
    with world.running():
        inside = world.exec(LOOK).output
    return world.run(LOOK).output, inside


def look_runc(world: World, tmp_path: Path) -> tuple[str, str]:
    command = ["runc", "--root", str(tmp_path / "state")]
    name = f"pekit{os.getpid()}"

    def call(*args: str) -> str:
        done = subprocess.run(
            command + list(args), input=b"", stdout=subprocess.PIPE, check=True, cwd=tmp_path
        )
        return done.stdout.decode()

    def bundle(args: list[str] | str) -> None:
        (tmp_path / "config.json").write_text(json.dumps(world.spec(args)))

    try:
        bundle(LOOK)
        alone = call("run", name)
        bundle("sleep 1000")
        subprocess.run([*command, "run", "-d", name], check=True, cwd=tmp_path,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
        process: dict[str, Any] = make_process(["sh", "-c", LOOK])
        (tmp_path / "process.json").write_text(json.dumps(process))
        return alone, call("exec", "-p", "process.json", name)
    finally:
        subprocess.run([*command, "delete", "-f", name], check=False, capture_output=True)


def differences(theirs: str, ours: str) -> list[str]:
    left, right = normal(theirs), normal(ours)
    unexplained = [line for line in left if line not in right]
    excess = [line for line in right if line not in left]
    for pattern, replacement in ACCEPTED:
        for line in list(unexplained):
            match = re.fullmatch(pattern, line)
            if match:
                wanted = replacement.format(re.escape(match.group(1)))
                found = [e for e in excess if re.fullmatch(wanted, e)]
                if found:
                    unexplained.remove(line)
                    excess.remove(found[0])
    return [f"runc: {line}" for line in unexplained] + [f"native: {line}" for line in excess]


def normal(text: str) -> list[str]:
    text = OWN.sub(r"\1", text)
    text = re.sub(r"pipe:\[\d+\]", "pipe", text)
    text = re.sub(r"\b\d+:\d+ /", "/", text)
    text = re.sub(r"[A-Z][a-z]{2} +\d+ +\d\d:\d\d", "DATE", text)
    return text.splitlines()
