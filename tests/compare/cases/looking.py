"""What is asked of containers: `ps`, `inspect`, `logs`, `exec`, `attach`."""

from __future__ import annotations

from tests.compare.cases.common import SLEEP, case
from tests.compare.steps import api, background, data, docker, finish, quiet, settle, terminal

case(
    "ps",
    quiet("run -d --name cmp-a -l who=me -p 127.0.0.1:18472:80 -p 18473-18474:90-91/udp "
          f"compare {SLEEP}"),
    quiet("run --name cmp-b -l who=you compare true"),
    quiet("create --name cmp-c -v cmp-vol:/data compare a very long command line that is cut off"),
    quiet("run -d --name cmp-d --expose 99 compare sh -c 'exit 3'"),
    quiet("wait cmp-d"),
    docker("ps"),
    docker("ps -a"),
    docker("ps -a --no-trunc"),
    docker("ps -aq"),
    docker("ps -n 1"),
    docker("ps -l --format '{{.Names}}'"),
    docker("ps -a --format '{{.Names}}|{{.Image}}|{{.Command}}|{{.Status}}|"
           "{{.Ports}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}|{{.State}}|"
           "{{.LocalVolumes}}|{{.RunningFor}}'"),
    data("ps -a --format json"),
    docker("ps -as --format '{{.Names}} {{.Size}}'"),
    docker("ps -a --filter status=created --format '{{.Names}}'"),
    docker("ps -a --filter status=exited --filter status=running --format '{{.Names}}'"),
    docker("ps -a --filter exited=3 --format '{{.Names}}'"),
    docker("ps -a --filter label=who --format '{{.Names}}'"),
    docker("ps -a --filter label=who=you --format '{{.Names}}'"),
    docker("ps -a --filter name=^/cmp-b$ --format '{{.Names}}'"),
    docker("ps -a --filter name=cmp-[ab] --format '{{.Names}}'"),
    docker("ps -a --filter volume=cmp-vol --format '{{.Names}}'"),
    docker("ps -a --filter volume=/data --format '{{.Names}}'"),
    docker("ps -a --filter ancestor=compare --format '{{.Names}}'"),
    docker("ps -a --filter ancestor=other --format '{{.Names}}'"),
    docker("ps -a --filter before=cmp-b --format '{{.Names}}'"),
    docker("ps -a --filter since=cmp-b --format '{{.Names}}'"),
    docker("ps -a --filter network=bridge --format '{{.Names}}'"),
    docker("ps -a --filter publish=18472 --format '{{.Names}}'"),
    docker("ps -a --filter publish=18474/udp --format '{{.Names}}'"),
    docker("ps -a --filter expose=99 --format '{{.Names}}'"),
    docker("ps -a --filter health=none --format '{{.Names}}'"),
    docker("ps -a --filter is-task=true --format '{{.Names}}'"),
    docker("ps --filter status=nonsense"),
    docker("ps --filter nonsense=1"),
    docker("ps --filter before=missing"),
    docker("ps --filter exited=x"),
    docker("ps --filter health=x"),
    api("GET", "/containers/json?all=1"),
    api("GET", "/containers/json?limit=1&size=1"),
    api("GET", "/containers/json?filters={broken"),
    api("GET", "/containers/json?filters=%7B%22status%22%3A%7B%22exited%22%3Atrue%7D%7D"),
    api("GET", "/containers/json?limit=x"),
)  # fmt: skip

case(
    "inspect",
    quiet("volume create cmp-vol"),
    quiet("create --name cmp-plain compare"),
    quiet(
        "create --name cmp-full -it --init --read-only --privileged -u 1:2 -w /var -h box "
        "--domainname d.e "
        "-e X=1 -l a=b --entrypoint /bin/sh -p 127.0.0.1:18475:80 -p 443 --expose 99/udp -P "
        "-v cmp-vol:/v:ro -v /usr:/host:ro,rslave -v /anon --tmpfs /t:size=1m "
        "--mount type=volume,dst=/w --mount type=tmpfs,dst=/u,tmpfs-size=4096 "
        "--memory 64m --cpu-shares 100 --cpuset-cpus 0 --pids-limit 20 "
        "--ulimit nofile=10:20 --sysctl net.ipv4.ip_forward=0 --shm-size 8m --oom-score-adj 10 "
        "--cap-add SYS_TIME --cap-drop CHOWN --security-opt no-new-privileges --group-add 9 "
        "--dns 10.0.0.1 --dns-search a.b --dns-option ndots:2 --add-host c.d:10.0.0.2 "
        "--restart on-failure:3 --stop-signal INT --stop-timeout 4 --log-opt max-size=1m "
        "--ipc shareable --pid host --device /dev/zero:/dev/nought:r compare echo hi"
    ),
    data("inspect cmp-plain"),
    data("inspect cmp-full"),
    data("inspect -s cmp-plain"),
    data("inspect --type container cmp-plain"),
    data("inspect cmp-vol"),
    data("inspect bridge"),
    docker("inspect --type image cmp-plain"),
    docker("inspect missing"),
    docker("inspect -f '{{.Nonsense}}' cmp-plain"),
    docker("inspect -f '{{json .Config.Cmd}} {{.Path}} {{.Args}} {{len .Mounts}}' cmp-full"),
    api("GET", "/containers/missing/json"),
)

case(
    "inspect-states",
    quiet(f"run -d --name cmp-a compare {SLEEP}"),
    data("inspect cmp-a"),
    quiet("pause cmp-a"),
    data("inspect -f '{{json .State}}' cmp-a"),
    quiet("unpause cmp-a"),
    quiet("kill cmp-a"),
    quiet("wait cmp-a"),
    data("inspect cmp-a"),
    quiet("run -d --name cmp-b --network host compare true"),
    quiet("wait cmp-b"),
    data("inspect cmp-b"),
    quiet(f"run -d --name cmp-c --network none compare {SLEEP}"),
    data("inspect cmp-c"),
    quiet(f"run -d --name cmp-d --network container:cmp-c compare {SLEEP}"),
    data("inspect cmp-d"),
)  # fmt: skip

case(
    "logs",
    quiet("run --name cmp-a compare "
          "sh -c 'for i in 1 2 3 4 5; do echo line $i; done; sleep 0.1; echo oops >&2'"),
    docker("logs cmp-a"),
    docker("logs --tail 2 cmp-a"),
    docker("logs --tail 0 cmp-a"),
    docker("logs --tail all cmp-a"),
    docker("logs --tail x cmp-a"),
    docker("logs -t cmp-a"),
    docker("logs --details cmp-a"),
    docker("logs --since 1h cmp-a"),
    docker("logs --since {now} cmp-a"),
    docker("logs --until {t0} cmp-a"),
    docker("logs --since 2099-01-01T00:00:00Z cmp-a"),
    docker("logs --since nonsense cmp-a"),
    docker("logs -f cmp-a"),
    docker("logs missing"),
    quiet("run -d --name cmp-b compare sh -c 'echo early; sleep 0.4; echo late; exit 2'"),
    background("follow", "logs -f cmp-b"),
    background("tail", "logs -f --tail 0 -t cmp-b"),
    finish("follow"),
    finish("tail"),
    quiet("run -d --name cmp-c -t compare sh -c 'echo from a tty; printf part'"),
    quiet("wait cmp-c"),
    docker("logs cmp-c"),
    quiet("run --name cmp-d --log-driver none compare echo lost"),
    docker("logs cmp-d"),
    quiet("create --name cmp-e compare echo never"),
    docker("logs cmp-e"),
    docker("create --name cmp-f --log-driver nonsense compare"),
    docker("create --name cmp-f --log-opt nonsense=1 compare"),
    docker("create --name cmp-f --log-opt max-size=many compare"),
    quiet("run --name cmp-h -l a=b -e C=d --log-opt labels=a --log-opt env=C compare echo hi"),
    docker("logs --details cmp-h"),
    api("GET", "/containers/cmp-a/logs"),
    api("GET", "/containers/cmp-a/logs?stdout=1&tail=1"),
    api("GET", "/containers/cmp-a/logs?stdout=1&since=x"),
)  # fmt: skip

case(
    "exec",
    quiet(f"run -d --name cmp-a -e A=1 -w /tmp compare {SLEEP}"),
    docker("exec cmp-a echo hi"),
    docker("exec cmp-a sh -c 'echo out; echo err >&2; exit 9'"),
    docker("exec -i cmp-a cat", stdin="one\n"),
    docker("exec -e B=2 cmp-a env"),
    docker("exec -w /etc -u nobody cmp-a sh -c 'pwd; id'"),
    docker("exec cmp-a sh -c 'pwd; umask; kill -9 $$'"),
    docker("exec -d cmp-a touch /tmp/made"),
    settle("exec cmp-a ls /tmp", "made"),
    docker("exec --privileged cmp-a grep CapEff /proc/self/status"),
    docker("exec cmp-a grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status"),
    docker("exec cmp-a nonsense"),
    docker("exec cmp-a /etc/passwd"),
    docker("exec -w /missing cmp-a true"),
    docker("exec -u missing cmp-a true"),
    docker("exec cmp-a /missing/path"),
    docker("exec -d cmp-a nonsense"),
    docker("exec missing true"),
    docker("exec -it cmp-a true"),
    terminal("exec -it cmp-a sh", ("/tmp # ", "tty; echo $TERM $A\n"), ("/tmp # ", "exit 6\n")),
    terminal("exec -it cmp-a nonsense"),
    quiet("pause cmp-a"),
    docker("exec cmp-a true"),
    quiet("unpause cmp-a"),
    quiet("kill cmp-a"),
    quiet("wait cmp-a"),
    docker("exec cmp-a true"),
    api("POST", "/containers/missing/exec", {"Cmd": ["true"]}),
    api("POST", "/containers/cmp-a/exec", {"Cmd": ["true"]}),
    api("POST", "/exec/missing/start", {}),
    api("GET", "/exec/missing/json"),
    quiet("start cmp-a"),
    api("POST", "/containers/cmp-a/exec", {}),
    api("POST", "/containers/cmp-a/exec", {"Cmd": "true"}),
    api("POST", "/containers/cmp-a/exec", {"Cmd": ["true"], "DetachKeys": "nonsense"}),
    api("POST", "/containers/cmp-a/exec", {"Cmd": ["true"]}),
)  # fmt: skip

case(
    "attach",
    quiet("run -d --name cmp-a compare sh -c 'sleep 0.5; echo out; echo err >&2; exit 3'"),
    background("all", "attach cmp-a"),
    background("quiet", "attach --no-stdin cmp-a"),
    finish("all"),
    finish("quiet"),
    docker("attach cmp-a"),
    docker("attach missing"),
    quiet("create --name cmp-b -i compare sh -c 'cat; exit 4'"),
    docker("start -ai cmp-b", stdin="to it\n"),
    docker("start -a cmp-a"),
    quiet(f"run -d --name cmp-c compare {SLEEP}"),
    quiet("pause cmp-c"),
    docker("attach cmp-c"),
)  # fmt: skip
