"""What a container may call when nobody says otherwise.

The semantics are those of Docker's default profile (moby ``profiles/seccomp``); the arrangement is
ours. In the tables a name may end in alternatives: ``chown{,32}`` is chown and chown32. ``T`` there
stands for ``_time64``. Names that libseccomp or the processor does not know are passed over.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from pyengine_security_seccomp.profile import Action, Arg, Condition, Op, Profile, Rule

_FILES = """
    access faccessat{,2} open{,at,at2} creat close{,_range} dup{,2,3} fcntl{,64} flock ioctl
    stat{,64,fs,fs64,x} lstat{,64} fstat{,64,at64,fs,fs64} newfstatat statmount listmount
    read{,v,ahead,link,linkat} write{,v} pread{64,v,v2} pwrite{64,v,v2} lseek _llseek
    getdents{,64} getcwd chdir fchdir mkdir{,at} rmdir mknod{,at} name_to_handle_at
    link{,at} symlink{,at} unlink{,at} rename{,at,at2} truncate{,64} ftruncate{,64} fallocate
    chmod fchmod{,at,at2} chown{,32} fchown{,32,at} lchown{,32} umask utime{,s,nsat,nsatT} futimesat
    sync{,fs,_file_range} fsync fdatasync fadvise64{,_64} copy_file_range sendfile{,64}
    splice vmsplice tee cachestat
    getxattr{,at} lgetxattr fgetxattr setxattr{,at} lsetxattr fsetxattr
    listxattr{,at} llistxattr flistxattr removexattr{,at} lremovexattr fremovexattr
    inotify_{init,init1,add_watch,rm_watch} fanotify_mark
    landlock_{create_ruleset,add_rule,restrict_self}
"""
_WAITING = """
    select _newselect pselect6{,T} poll ppoll{,T}
    epoll_{create,create1,ctl,ctl_old,wait,wait_old,pwait,pwait2} eventfd{,2} signalfd{,4}
    io_{setup,destroy,submit,cancel,getevents,pgetevents,pgeteventsT}
    pipe{,2} pause restart_syscall
"""
_MEMORY = """
    brk mmap{,2} munmap mremap mprotect madvise mincore msync mseal remap_file_pages
    mlock{,2,all} munlock{,all} membarrier memfd_{create,secret} map_shadow_stack
    pkey_{alloc,free,mprotect}
"""
_PROCESSES = """
    fork vfork execve{,at} exit{,_group} wait4 waitid waitpid kill tkill tgkill
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
    pidfd_{open,send_signal} process_mrelease prctl seccomp uname sysinfo
    getrlimit ugetrlimit setrlimit prlimit64 getrusage times getcpu
    getpriority setpriority ioprio_{get,set} rseq riscv_hwprobe uretprobe
    sched_{yield,getaffinity,setaffinity,getattr,setattr,getparam,setparam,getscheduler}
    sched_{setscheduler,get_priority_max,get_priority_min,rr_get_interval,rr_get_intervalT}
    futex{,T,_wait,_waitv,_wake,_requeue} {get,set}_robust_list {get,set}_thread_area
"""
_SIGNALS = """
    rt_sig{action,pending,procmask,queueinfo,return,suspend,timedwait,timedwaitT} rt_tgsigqueueinfo
    sigaltstack sigprocmask sigreturn alarm getitimer setitimer
"""
_IDENTITY = """
    getuid{,32} geteuid{,32} getgid{,32} getegid{,32} getresuid{,32} getresgid{,32} getgroups{,32}
    setuid{,32} setgid{,32} setreuid{,32} setregid{,32} setresuid{,32} setresgid{,32}
    setgroups{,32} setfsuid{,32} setfsgid{,32} capget capset getrandom
"""
_TIME = """
    time gettimeofday adjtimex clock_adjtime{,64} clock_gettime{,64}
    clock_getres{,T} clock_nanosleep{,T} nanosleep
    timer_{create,delete,getoverrun,gettime,gettime64,settime,settime64}
    timerfd_{create,gettime,gettime64,settime,settime64}
"""
_SOCKETS_AND_IPC = """
    socketpair socketcall bind listen accept{,4} connect shutdown getsockname getpeername
    getsockopt setsockopt send{,to,msg,mmsg} recv{,from,msg,mmsg,mmsgT}
    ipc msg{get,ctl,snd,rcv} sem{get,ctl,op,timedop,timedopT} shm{get,ctl,at,dt}
    mq_{open,unlink,notify,getsetattr}
    mq_timed{send,sendT,receive,receiveT}
"""

#: Calls that belong to one capability: allowed where the container has it.
_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """
        mount umount{,2} mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick
        clone{,3} unshare setns sethostname setdomainname syslog bpf perf_event_open
        fanotify_init lookup_dcookie quotactl{,_fd} lsm_{get_self_attr,set_self_attr,list_modules}
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": """
        ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    """,
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime{,64}",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy{,_home_node} mbind",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

#: Calls that only some processors have or need.
_BY_PROCESSOR = (
    (("ppc64le",), "sync_file_range2 swapcontext"),
    (
        ("arm", "arm64"),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (("amd64", "x32"), "arch_prctl"),
    (("amd64", "x32", "x86"), "modify_ldt"),
    (("s390", "s390x"), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (("riscv64",), "riscv_flush_icache"),
)

#: Since 4.8 a tracer is held to the tracee's filter as well (seccomp(2)).
_SINCE_4_8 = "ptrace process_vm_readv process_vm_writev"

#: personality(2): plain Linux, 32-bit addresses, both with UNAME26, and asking what is set.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_AF_ALG, _AF_VSOCK = 38, 40
#: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of clone(2).
_NEW_NAMESPACES = 0x7E020000

_X86, _ARM, _MIPS, _MIPSEL = "SCMP_ARCH_X86", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPSEL"
_ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "SCMP_ARCH_X86_64": (_X86, "SCMP_ARCH_X32"),
    "SCMP_ARCH_AARCH64": (_ARM,),
    "SCMP_ARCH_MIPS64": (_MIPS, "SCMP_ARCH_MIPS64N32"),
    "SCMP_ARCH_MIPS64N32": (_MIPS, "SCMP_ARCH_MIPS64"),
    "SCMP_ARCH_MIPSEL64": (_MIPSEL, "SCMP_ARCH_MIPSEL64N32"),
    "SCMP_ARCH_MIPSEL64N32": (_MIPSEL, "SCMP_ARCH_MIPSEL64"),
    "SCMP_ARCH_S390X": ("SCMP_ARCH_S390",),
    "SCMP_ARCH_RISCV64": (),
    "SCMP_ARCH_LOONGARCH64": (),
}


def profile() -> Profile:
    """The default profile, in the form that custom ones are parsed to."""
    everywhere = (
        *(_FILES, _WAITING, _MEMORY, _PROCESSES, _SIGNALS, _IDENTITY, _TIME, _SOCKETS_AND_IPC),
    )
    rules = [Rule(names=[name for table in everywhere for name in expand(table)])]
    rules.append(Rule(names=list(expand(_SINCE_4_8)), includes=Condition(min_kernel="4.8")))
    # Every family but the kernel's crypto API and the door to the hypervisor.
    rules += (
        Rule(names=["socket"], args=[Arg(index=0, value=value, op=op)])
        for value, op in (
            (_AF_ALG, Op.LESS),
            (_AF_ALG + 1, Op.EQUAL),
            (_AF_VSOCK, Op.GREATER),
        )
    )
    rules += (
        Rule(names=["personality"], args=[Arg(index=0, value=value, op=Op.EQUAL)])
        for value in _PERSONALITIES
    )
    rules += (
        Rule(names=list(expand(names)), includes=Condition(arches=list(processors)))
        for processors, names in _BY_PROCESSOR
    )
    rules += (
        Rule(names=list(expand(names)), includes=Condition(caps=[capability]))
        for capability, names in _BY_CAPABILITY.items()
    )
    no_admin = ["CAP_SYS_ADMIN"]
    s390 = ["s390", "s390x"]
    rules += (
        # A clone that makes no namespace; s390 has the flags second.
        Rule(
            names=["clone"],
            args=[Arg(index=0, value=_NEW_NAMESPACES, op=Op.MASKED_EQUAL)],
            excludes=Condition(caps=no_admin, arches=s390),
        ),
        Rule(
            names=["clone"],
            args=[Arg(index=1, value=_NEW_NAMESPACES, op=Op.MASKED_EQUAL)],
            includes=Condition(arches=s390),
            excludes=Condition(caps=no_admin),
        ),
        # Its flags lie in memory, where a filter cannot look; ENOSYS makes libc use clone.
        Rule(
            names=["clone3"],
            action=Action.ERRNO,
            errno_ret=errno.ENOSYS,
            excludes=Condition(caps=no_admin),
        ),
    )
    return Profile(
        default_action=Action.ERRNO,
        default_errno_ret=errno.EPERM,
        arch_map=dict(_ARCHITECTURES),
        rules=rules,
    )


_WORD = re.compile(r"(\w*)\{([^}]*)\}(\w*)|\w+")


def expand(table: str) -> Iterator[str]:
    """The names of a table, alternatives written out."""
    for match in _WORD.finditer(table):
        if match[2] is None:
            yield match[0]
        else:
            for ending in match[2].split(","):
                yield match[1] + ending.replace("T", "_time64") + match[3]
