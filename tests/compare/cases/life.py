"""Start, stop, signals, removal, events, changes."""

from __future__ import annotations

from tests.compare.cases.common import MEEK, SLEEP, case
from tests.compare.steps import api, background, data, docker, finish, pause, quiet, settle

case(
    "life",
    docker("create --name cmp-a compare sh -c 'exit 0'"),
    docker("start cmp-a"),
    docker("wait cmp-a"),
    docker("start missing"),
    docker("stop missing"),
    docker("wait missing"),
    docker("stop cmp-a"),
    docker("kill cmp-a"),
    docker("pause cmp-a"),
    docker("unpause cmp-a"),
    docker("top cmp-a"),
    docker("rename cmp-a cmp-b"),
    docker("inspect -f '{{.Name}}' cmp-b"),
    docker("rename cmp-b cmp-b"),
    docker("rename missing cmp-x"),
    docker("rename cmp-b 'a b'"),
    docker("create --name cmp-c compare"),
    docker("rename cmp-b cmp-c"),
    docker("rm cmp-b cmp-c missing"),
)

case(
    "signals",
    quiet(f"run -d --name cmp-a compare {MEEK}"),
    settle("logs cmp-a", "ready"),
    docker("start cmp-a"),
    docker("kill -s NONSENSE cmp-a"),
    docker("kill -s 99 cmp-a"),
    docker("kill -s WINCH cmp-a"),
    background("wait", "wait cmp-a"),
    docker("stop cmp-a"),
    finish("wait"),
    docker("inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} "
           "{{.State.Error}}' cmp-a"),
    quiet(f"run -d --name cmp-b compare {SLEEP}"),
    docker("kill -s TERM cmp-b"),
    docker("stop -t 0 cmp-b"),
    docker("wait cmp-b"),
    quiet(f"run -d --name cmp-c --stop-signal USR1 compare {MEEK}".replace(" TERM;", " USR1;")),
    settle("logs cmp-c", "ready"),
    docker("stop cmp-c"),
    docker("wait cmp-c"),
    quiet(f"run -d --name cmp-d compare {SLEEP}"),
    docker("pause cmp-d"),
    docker("pause cmp-d"),
    docker("ps --filter name=cmp-d --format '{{.Status}}'"),
    docker("start cmp-d"),
    docker("restart -t 0 cmp-d"),
    docker("ps --filter name=cmp-d --format '{{.State}}'"),
    docker("unpause cmp-d"),
    docker("stop -t 0 cmp-d cmp-d"),
    docker("stop -s KILL cmp-d"),
    docker("create --name cmp-e --stop-signal NONSENSE compare"),
    api("POST", "/containers/cmp-d/stop?t=x"),
    api("POST", "/containers/cmp-d/kill?signal=NONSENSE"),
    api("POST", "/containers/cmp-d/wait?condition=nonsense"),
    api("POST", "/containers/cmp-d/wait?condition=not-running"),
    api("POST", "/containers/cmp-d/start"),
    api("POST", "/containers/cmp-d/start"),
    api("DELETE", "/containers/cmp-d"),
    api("DELETE", "/containers/cmp-d?force=1"),
    api("DELETE", "/containers/cmp-d?force=1"),
)  # fmt: skip

case(
    "remove",
    quiet(f"run -d --name cmp-a -v /data compare {SLEEP}"),
    docker("rm cmp-a"),
    quiet("pause cmp-a"),
    docker("rm cmp-a"),
    docker("rm -f -v cmp-a"),
    docker("volume ls -q"),
    quiet(f"run -d --rm --name cmp-b -v /data compare {SLEEP}"),
    background("removed", "wait cmp-b"),
    pause(1.0),
    docker("stop -t 0 cmp-b"),
    finish("removed"),
    settle("ps -aq", "^$"),
    docker("volume ls -q"),
    quiet("create --name cmp-c compare"),
    quiet("create --name cmp-d compare"),
    docker("container prune -f"),
    docker("ps -aq"),
    docker("container prune -f"),
)  # fmt: skip

SINCE = "events --since {t0} --until {now}"
case(
    "events",
    quiet("create --name cmp-a -l k=v compare sleep 1000"),
    quiet("start cmp-a"),
    quiet("pause cmp-a"),
    quiet("unpause cmp-a"),
    quiet("rename cmp-a cmp-b"),
    docker("exec cmp-b sh -c 'exit 3'"),
    quiet("kill -s WINCH cmp-b"),
    quiet("stop -t 0 cmp-b"),
    quiet("start cmp-b"),
    quiet("restart -t 0 cmp-b"),
    quiet("kill cmp-b"),
    quiet("wait cmp-b"),
    settle("events --since {t0} --until {now} --filter type=network", "(?s)(disconnect.*){3}"),
    quiet("rm cmp-b"),
    quiet("volume create cmp-v"),
    quiet("run --name cmp-c -v cmp-v:/d compare true"),
    settle(f"{SINCE} --filter type=volume", "unmount"),
    quiet("rm cmp-c"),
    quiet("volume rm cmp-v"),
    quiet("tag compare cmp-image:1"),
    quiet("rmi cmp-image:1"),
    # Whether `stop` or `die` is told first is a race in dockerd.
    docker(f"{SINCE} --filter type=container", lines=True),
    data(f"{SINCE} --format '{{{{json .}}}}' --filter type=container " + " ".join(
        f"--filter event={event}"
        for event in ("create", "start", "pause", "rename", "kill", "die", "exec_die", "destroy")
    )),
    docker(f"{SINCE} --filter type=network --format "
           "'{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}'"),
    docker(f"{SINCE} --filter type=volume --filter type=image"),
    docker(f"{SINCE} --filter event=die --format '{{{{.Actor.Attributes.exitCode}}}}'"),
    docker(f"{SINCE} --filter container=cmp-c --format '{{{{.Action}}}}'"),
    docker(f"{SINCE} --filter label=k=v --filter event=start --format '{{{{.Action}}}}'"),
    docker(f"{SINCE} --filter image=compare --filter event=create --format '{{{{.Action}}}}'"),
    docker(f"{SINCE} --filter nonsense=x --filter event=rename"),
    docker(f"{SINCE} --filter type=nonsense"),
    docker("events --since nonsense --until {now}"),
)  # fmt: skip

case(
    "events-live",
    background("live", "events --since {t0} --filter event=start --filter container=cmp-a "
               "--until {soon} --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'"),
    quiet("run --name cmp-a compare true"),
    finish("live"),
)  # fmt: skip

case(
    "diff",
    quiet("run --name cmp-a compare "
          "sh -c 'mkdir /new; echo > /new/file; rm /etc/group; echo >> /etc/passwd'"),
    docker("diff cmp-a", lines=True),
    docker("diff missing"),
    api("GET", "/containers/cmp-a/changes"),
    quiet("create --name cmp-b compare"),
    docker("diff cmp-b"),
    api("GET", "/containers/cmp-b/changes"),
)  # fmt: skip
