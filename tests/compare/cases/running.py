"""Containers that run: `run`, terminals, in the background, restart policies."""

from __future__ import annotations

from tests.compare.cases.common import ECHO, LISTED, PIDS, TICK, TICKS, case
from tests.compare.steps import data, docker, host, quiet, settle, terminal

case(
    "run",
    docker("run --rm compare echo hi"),
    docker("run --rm compare sh -c 'echo out; echo err >&2; exit 3'"),
    docker("run --rm -i compare cat", stdin="one\ntwo\n"),
    docker("run --rm -i compare sh -c 'cat; sleep 0.3; echo late'", stdin="x\n"),
    docker("run --rm -e A=1 -e B compare env"),
    docker("run --rm -w /var/new compare pwd"),
    docker("run --rm -u nobody compare id"),
    docker("run --rm -u 12:34 --group-add 56 compare id"),
    docker("run --rm --hostname box compare hostname"),
    docker("run --rm --entrypoint echo compare a b"),
    docker("run --rm --read-only compare touch /x"),
    docker("run --rm --network none compare ip -o link show up"),
    docker("run --rm --add-host a.b:10.9.8.7 --dns 10.1.1.1 --dns-search c.d compare "
           "cat /etc/hosts /etc/resolv.conf"),
    docker("run --rm compare sh -c 'kill -9 $$'"),
    docker("run --rm --init compare sh -c 'ps -o pid,args'"),
    docker("run --cidfile {dir}/cid --name cmp-cid compare true"),
    docker("run --rm --network none --mac-address 02:42:00:00:00:05 compare true"),
    docker("run --rm -a stderr compare sh -c 'echo out; echo err >&2'"),
)  # fmt: skip

case(
    "run-inside",
    docker("run --rm compare sh -c 'id; umask; pwd; ulimit -n; cat /proc/self/oom_score_adj'"),
    docker("run --rm compare grep -E '^(Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign|Cgt)|Groups)' "
           "/proc/self/status"),
    docker("run --rm compare sh -c 'ls -l /dev; ls -l /proc/self/fd | wc -l'", rules=LISTED),
    docker("run --rm compare sh -c 'cut -d\" \" -f2-4 /proc/mounts | sed s/,lowerdir.*// "
           "| grep -vE \"cgroup|^/etc\"'", lines=True),
    docker("run --rm compare sh -c 'cat /proc/timer_list; ls /proc/scsi; ls /sys/firmware'"),
    docker("run --rm compare sh -c 'echo 1 > /proc/sys/kernel/panic; mkdir /sys/x'"),
    docker("run --rm compare mount -t tmpfs x /tmp"),
    docker("run --rm compare unshare -r true"),
    docker("run --rm --privileged compare grep -E '^(Cap|Seccomp:)' /proc/self/status"),
    docker("run --rm --cap-drop ALL --cap-add NET_ADMIN compare grep ^Cap /proc/self/status"),
    docker("run --rm --security-opt no-new-privileges compare grep NoNewPrivs /proc/self/status"),
    docker("run --rm --security-opt seccomp=unconfined compare grep Seccomp: /proc/self/status"),
    docker("run --rm --ulimit nofile=100:200 compare sh -c 'ulimit -n; ulimit -Hn'"),
    docker("run --rm --sysctl net.ipv4.ip_forward=0 compare cat /proc/sys/net/ipv4/ip_forward"),
    docker("run --rm --shm-size 8m compare sh -c 'df -k /dev/shm | tail -n1'"),
    docker("run --rm --tmpfs /t:size=1m,mode=700 compare grep ' /t ' /proc/mounts"),
    docker("run --rm --oom-score-adj 300 compare cat /proc/self/oom_score_adj"),
    docker("run --rm --device /dev/zero:/dev/nought:r compare ls -l /dev/nought",
           rules=LISTED),
    docker("run --rm -v /usr:/host:ro compare touch /host/x"),
    docker("run --rm -v cmp-v:/data compare sh -c 'touch /data/a; ls /data'"),
    docker("run --rm --mount type=bind,src=/usr,dst=/host,readonly compare ls -d /host/bin"),
    docker("run --rm --pid host compare sh -c 'test $$ -ne 1'"),
    docker("run --rm --uts host --hostname x compare true"),
    docker("run --rm --ipc none compare ls /dev/shm"),
    docker("run --rm -t compare tty"),
    docker("run --rm --memory 64m --cpus .5 --pids-limit 50 compare true"),
)  # fmt: skip

case(
    "run-terminal",
    terminal("run --rm -it --name cmp-a compare",
             ("/ # ", "echo $COLOUR $TERM; tty\n"), ("/ # ", "stty size\n"), ("/ # ", "exit 5\n"),
             rules=((r"BusyBox v.*", "BusyBox"),)),
    terminal(f"run -it --name cmp-b compare {ECHO}",
             ("ready\r\n", "abc\n"), ("abc\r\nabc\r\n", "\x04")),
    terminal("run -it --name cmp-c compare sh -c 'trap \"exit 9\" INT; echo ready; read x'",
             ("ready", "\x03")),
    terminal(f"run -it --name cmp-d compare {TICK}", ("tick", "\x10\x11"), rules=TICKS),
    docker("inspect -f '{{.State.Status}} {{.Config.Tty}} {{.Config.OpenStdin}}' cmp-d"),
    terminal("attach cmp-d", ("tick", "\x10\x11"), rules=TICKS),
    terminal("attach --detach-keys ctrl-a,x cmp-d", ("tick", "\x01x"), rules=TICKS),
    docker("logs cmp-b"),
)  # fmt: skip

case(
    "run-detached",
    docker("run -d --name cmp-a -p 18471:80 --memory 64m --cpus .5 --pids-limit 50 compare "
           "httpd -f -p 80 -h /etc"),
    docker("ps --filter name=cmp-"),
    docker("port cmp-a"),
    docker("port cmp-a 80"),
    docker("port cmp-a 81"),
    settle("exec cmp-a netstat -ltn", ":80 "),
    host("busybox wget -qO- http://127.0.0.1:18471/group"),
    docker("exec cmp-a sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes "
           "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max'"),
    data("inspect cmp-a"),
    docker("inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} "
           "{{.HostConfig.PidsLimit}} {{json .NetworkSettings.Ports}}' cmp-a"),
    docker("top cmp-a", rules=(*PIDS, (r"<n>:<n>(:<n>)?", "<time>"))),
    docker("top cmp-a -o pid,comm", rules=PIDS),
    docker("top cmp-a -o nonsense"),
    docker("stop -t 1 cmp-a"),
    docker("port cmp-a"),
    docker("start cmp-a"),
    docker("restart -t 0 cmp-a"),
    docker("rm cmp-a"),
    docker("rm -f cmp-a"),
    docker("rm -f cmp-a"),
    docker("rm cmp-a"),
)  # fmt: skip

case(
    "restart-policy",
    quiet("run -d --name cmp-a --restart on-failure:2 compare sh -c 'echo turn; exit 4'"),
    settle("inspect -f '{{.RestartCount}} {{.State.Status}}' cmp-a", "2 exited"),
    docker("logs cmp-a"),
    docker("inspect -f '{{.RestartCount}} {{.State.ExitCode}} {{.State.Restarting}}' cmp-a"),
    docker("run -d --rm --restart always compare true"),
    docker("create --name cmp-b --restart sometimes compare"),
    docker("create --name cmp-b --restart always:3 compare"),
    docker("update --restart no cmp-a"),
)
