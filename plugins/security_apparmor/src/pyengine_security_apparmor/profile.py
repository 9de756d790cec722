"""The text of the default profile (apparmor.d(5))."""

from __future__ import annotations

import os

NAME = "pyengine-default"

#: Peers that the body names already.
_NAMED = frozenset({"", "unconfined", "runc", "crun"})

_BODY = """
profile {name} flags=(attach_disconnected, mediate_deleted) {{
{inner}
  # What is forbidden below, and by capabilities and seccomp, is the fence; the rest is open.
  file,
  capability,
  network,
  umount,

  # The kernel's crypto sockets have been a way out more than once.
  deny network alg,

  # A container arranges its own processes; the engine and the host may end them.
  signal (send, receive) peer={name},
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
{daemon}  ptrace (trace, tracedby, read, readby) peer={name},

  # New mounts could uncover what is masked.
  deny mount,

  # /proc: only directories of processes, whose names begin with a digit, and what the next
  # paragraph leaves of /proc/sys.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/[^0-9s]*/** w,
  deny @{{PROC}}/s[^y]*/** w,
  deny @{{PROC}}/sy[^s]*/** w,
  deny @{{PROC}}/sys?*/** w,

  # /proc/sys: only kernel/shm*, which belongs to the container's IPC namespace.
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/k[^e]** w,
  deny @{{PROC}}/sys/kernel/[^s]** w,
  deny @{{PROC}}/sys/kernel/s[^h]** w,
  deny @{{PROC}}/sys/kernel/sh[^m]** w,

  # Memory of the kernel, and the keys that restart the host.
  deny @{{PROC}}/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # /sys: only cgroups can be written to, where the mount allows it.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  # Not even to be read: they tell of the host.
  deny /sys/{{firmware,devices/virtual/powercap,kernel/security}}/** rwklx,
}}
"""


def generate(daemon: str = "unconfined", folder: str = "/etc/apparmor.d") -> str:
    """The profile. ``daemon``: what confines the engine itself; ``folder``: where the host keeps
    the common parts, of which those that exist are used."""

    def has(name: str) -> bool:
        return os.path.exists(f"{folder}/{name}")

    # Since ABI 4 plain "network" no longer covers unix sockets.
    head = "abi <abi/3.0>,\n" if has("abi/3.0") else ""
    head += "include <tunables/global>\n" if has("tunables/global") else "@{PROC}=/proc/\n"
    inner = "  include <abstractions/base>\n" if has("abstractions/base") else ""
    own = "" if daemon in _NAMED else f'  signal (receive) peer="{daemon}",\n'
    return head + _BODY.format(name=NAME, inner=inner, daemon=own)
