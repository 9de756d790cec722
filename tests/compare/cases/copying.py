"""docker cp both ways, export and diff."""

from __future__ import annotations

from tests.compare.cases.common import SLEEP, case
from tests.compare.steps import Rule, api, data, docker, host, quiet

#: The client's own complaint, now and then, that nobody reads its archive any more.
UNREAD: tuple[Rule, ...] = ((r'time=[^\n]*closed pipe"\n?', ""),)
FILL = (
    "mkdir -p /d/sub; echo x >/d/f; echo y >/d/sub/g; ln /d/sub/g /d/sub/h; ln -s d /ld; "
    "ln -s /d/f /lf; ln -s nowhere /broken; ln -s loop /loop; ln -s /d/f/x /through; "
    "chown 3:4 /d/f; chmod 4755 /d/f; chmod 1777 /d; mkfifo /d/fifo; echo v >/vol/v"
)
SOURCE = (
    "mkdir -p {dir}/s/sub; cd {dir}; echo 1 >s/f; echo 2 >s/sub/g; ln s/f s/hard; ln -s f s/l; "
    "ln -s s sl; chown 1234:1235 s/f; chmod 640 s/f"
)
#: What a container has of its own, without dates.
LISTED = (
    "exec cmp-a find /d /vol /s /s2 /s3 /tmp /ld /lf /broken /nowhere /new /l1 /l2 /l3 "
    "-exec stat -c '%n %F %a %u:%g %h' {} +"
)
FOUND = "sh -c 'cd {dir}/o && find . ! -type d -printf \"%p %y %m %U:%G %n %l\\n\" | sort'"

case(
    "cp-out",
    quiet(f"run -d --network none -v cmp-v:/vol --name cmp-a compare {SLEEP}"),
    quiet(f"exec cmp-a sh -c '{FILL}'"),
    host("mkdir {dir}/o"),
    *(
        docker(f"cp {words}")
        for words in (
            "cmp-a:/d {dir}/o", "cmp-a:/d {dir}/o/new", "cmp-a:/d/. {dir}/o/contents",
            "cmp-a:/d/f {dir}/o", "cmp-a:/d/f {dir}/o/f2", "cmp-a:/d/f {dir}/o/f2",
            "cmp-a:/d/f {dir}/o/", "cmp-a:/d/f {dir}/nodir/", "cmp-a:/d/f {dir}/nodir/x",
            "cmp-a:/d {dir}/o/f2", "cmp-a:/lf {dir}/o", "-L cmp-a:/lf {dir}/o/followed",
            "cmp-a:/ld {dir}/o", "-L cmp-a:/ld {dir}/o/ldL", "cmp-a:/ld/ {dir}/o/ldS",
            "cmp-a:/ld/. {dir}/o/ldD", "cmp-a:/broken {dir}/o", "-L cmp-a:/broken {dir}/o/brL",
            "cmp-a:/nope {dir}/o", "cmp-a:d/../d/sub {dir}/o", "-a cmp-a:/d {dir}/o/a",
            "cmp-a:/through {dir}/o", "cmp-a:/d/f/x {dir}/o", "cmp-a:/d/f/ {dir}/o",
            "cmp-a:/vol/v {dir}/o", "cmp-missing:/x {dir}/o", "{dir} {dir}/o", "cmp-a:/d cmp-a:/e",
            "-q cmp-a:/d/sub {dir}/o/quiet",
        )
    ),
    host(FOUND),
    docker("cp cmp-a:/d/f -", rules=((r"(?s).*", "<tar>"),)),
    api("GET", "/containers/cmp-a/archive?path=/nope"),
    api("GET", "/containers/cmp-a/archive?path=/d/f/x"),
    api("GET", "/containers/cmp-a/archive?path=/lf/"),
    api("GET", "/containers/cmp-a/archive?path=/through"),
    api("GET", "/containers/cmp-missing/archive?path=/"),
)  # fmt: skip

INTO = (
    "{dir}/s cmp-a:/", "{dir}/s cmp-a:/s2", "{dir}/s/. cmp-a:/s3", "{dir}/s/. cmp-a:/vol",
    "{dir}/s/f cmp-a:/tmp", "{dir}/s/f cmp-a:/new", "{dir}/s/f cmp-a:/nodir/",
    "{dir}/s/f cmp-a:/nodir/x", "{dir}/s/f cmp-a:/d/", "{dir}/s/f cmp-a:/ld",
    "{dir}/s/f cmp-a:/lf", "{dir}/s/f cmp-a:/broken", "{dir}/s cmp-a:/d/sub", "{dir}/s/l cmp-a:/l1",
    "-L {dir}/s/l cmp-a:/l2", "{dir}/sl/ cmp-a:/l3", "-a {dir}/s cmp-a:/tmp/arch",
    "{dir}/missing cmp-a:/", "{dir}/s/f cmp-missing:/", "- cmp-a:/nodir", "- cmp-a:/d/sub/g",
)  # fmt: skip

case(
    "cp-in",
    quiet(f"run -d --network none -v cmp-v:/vol --name cmp-a compare {SLEEP}"),
    quiet(f"exec cmp-a sh -c '{FILL}'"),
    host(f"sh -c '{SOURCE}'"),
    *(docker(f"cp {words}", rules=UNREAD) for words in INTO),
    docker(LISTED, lines=True),
    docker("diff cmp-a", lines=True),
)

case(
    "cp-stopped",
    quiet("create --network none -v cmp-v:/vol -v /usr:/ro:ro --read-only --name cmp-r compare"),
    quiet(f"run -d --network none -v cmp-v:/vol --name cmp-a compare {SLEEP}"),
    quiet(f"exec cmp-a sh -c '{FILL}'"),
    quiet("stop -t 0 cmp-a"),
    host(f"sh -c '{SOURCE}'"),
    *(docker(f"cp {words}", rules=UNREAD) for words in INTO),
    docker("cp {dir}/s/f cmp-r:/tmp"),
    docker("cp {dir}/s/f cmp-r:/ro"),
    docker("cp {dir}/s/f cmp-r:/vol/r"),
    docker("cp cmp-r:/vol {dir}/o"),
    host(FOUND),
    docker("diff cmp-a", lines=True),
    quiet("start cmp-a"),
    docker(LISTED, lines=True),
)

case(
    "cp-owner",
    host(f"sh -c '{SOURCE}'"),
    quiet(f"run -d --network none -u nobody --name cmp-a compare {SLEEP}"),
    docker("cp {dir}/s/f cmp-a:/tmp/plain"),
    docker("cp -a {dir}/s/f cmp-a:/tmp/archive"),
    docker("exec cmp-a stat -c '%n %u:%g %a' /tmp/plain /tmp/archive"),
)

case(
    "cp-events",
    quiet("create --network none -v cmp-v:/vol --name cmp-a compare"),
    quiet("cp cmp-a:/etc/passwd {dir}/p"),
    quiet("cp {dir}/p cmp-a:/etc/p"),
    quiet("export -o {dir}/tar cmp-a"),
    data("events --since {t0} --until {now} --format '{{json .}}' --filter container=cmp-a"),
    docker("events --since {t0} --until {now} --filter volume=cmp-v "
           "--format '{{.Action}} {{.Actor.Attributes.destination}}'"),
)  # fmt: skip

case(
    "export-and-diff",
    quiet(f"run -d --network none -v cmp-v:/vol --name cmp-a compare {SLEEP}"),
    quiet(f"exec cmp-a sh -c '{FILL}'"),
    quiet("exec cmp-a sh -c 'chmod 700 /var; mv /etc/group /etc/moved; rm /bin/cat; "
          "touch /tmp/new; ln /etc/passwd /etc/hard; rm -r /root; mkdir /root; "
          "chown 1:1 /bin/busybox; mkdir /tmp/gone; rmdir /tmp/gone; ln -sfn x /bin/ls'"),
    docker("diff cmp-a", lines=True),
    quiet("export -o {dir}/tar cmp-a"),
    host("sh -c 'tar tvf {dir}/tar | grep -v \" bin/\" | sed \"s/20..-..-.. ..:..//\" | sort -k4'"),
    quiet("stop -t 0 cmp-a"),
    docker("diff cmp-a", lines=True),
    quiet("export -o {dir}/tar2 cmp-a"),
    host("cmp {dir}/tar {dir}/tar2"),
    docker("diff cmp-missing"),
    docker("export -o {dir}/none cmp-missing"),
)  # fmt: skip
