"""The prune commands of containers, images, networks, volumes, and of the whole system."""

from __future__ import annotations

import sys

from pyengine.cli import units
from pyengine.cli.client import Client, CommandError, filters
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORCE = Flag("force", "f", "bool", "Do not prompt for confirmation")
_FILTER = Flag("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")')


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but y or yes is a no."""
    sys.stdout.write(question + " [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stdout.write("\n")
    return answer.strip().lower() in ("y", "yes")


def _ask(options: Options, effect: str) -> None:
    if options["force"] or confirm(f"WARNING! {effect}\nAre you sure you want to continue?"):
        return
    raise CommandError(code=0)


def _containers(client: Client, wanted: Any) -> tuple[str, int]:
    report = client.post("/containers/prune", {"filters": wanted})
    names = report.get("ContainersDeleted") or []
    return _section("Deleted Containers:", names), report.get("SpaceReclaimed") or 0


def _networks(client: Client, wanted: Any) -> tuple[str, int]:
    report = client.post("/networks/prune", {"filters": wanted})
    return _section("Deleted Networks:", report.get("NetworksDeleted") or []), 0


def _volumes(client: Client, wanted: Any) -> tuple[str, int]:
    report = client.post("/volumes/prune", {"filters": wanted})
    names = report.get("VolumesDeleted") or []
    return _section("Deleted Volumes:", names), report.get("SpaceReclaimed") or 0


def _images(client: Client, wanted: Any) -> tuple[str, int]:
    report = client.post("/images/prune", {"filters": wanted})
    steps = report.get("ImagesDeleted") or []
    lines = [
        f"untagged: {step['Untagged']}" if step.get("Untagged") else f"deleted: {step['Deleted']}"
        for step in steps
    ]
    return _section("Deleted Images:", lines), report.get("SpaceReclaimed") or 0


def _section(heading: str, names: list[str]) -> str:
    return "".join(f"{line}\n" for line in [heading, *names]) if names else ""


def _print(text: str) -> None:
    if text:
        print(text)


@command("[OPTIONS]", "Remove all stopped containers", [_FILTER, _FORCE], at_most=0)
def container_prune(session: Session, options: Options, _: list[str]) -> None:
    wanted = filters(options["filter"])
    _ask(options, "This will remove all stopped containers.")
    text, space = _containers(session.client, wanted)
    _print(text)
    print("Total reclaimed space:", units.human_size(space))


@command(
    "[OPTIONS]",
    "Remove unused images",
    [Flag("all", "a", "bool", "Remove all unused images, not just dangling ones"), _FILTER, _FORCE],
    at_most=0,
)
def image_prune(session: Session, options: Options, _: list[str]) -> None:
    wanted = filters(options["filter"])
    wanted["dangling"] = {"false" if options["all"] else "true": True}
    which = "images without at least one container associated to them"
    effect = f"This will remove all {which if options['all'] else 'dangling images'}."
    _ask(options, effect)
    text, space = _images(session.client, wanted)
    _print(text)
    print("Total reclaimed space:", units.human_size(space))


@command("[OPTIONS]", "Remove all unused networks", [_FILTER, _FORCE], at_most=0)
def network_prune(session: Session, options: Options, _: list[str]) -> None:
    wanted = filters(options["filter"])
    _ask(
        options,
        "This will remove all custom networks not used by at least one container.",
    )
    text, _space = _networks(session.client, wanted)
    _print(text)


@command(
    "[OPTIONS]",
    "Remove unused local volumes",
    [
        Flag("all", "a", "bool", "Remove all unused volumes, not just anonymous ones"),
        _FILTER,
        _FORCE,
    ],
    at_most=0,
)
def volume_prune(session: Session, options: Options, _: list[str]) -> None:
    wanted = filters(options["filter"])
    if options["all"]:
        if "all" in wanted:
            raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
        wanted["all"] = {"true": True}
    which = "local" if options["all"] else "anonymous"
    effect = f"This will remove {which} volumes not used by at least one container."
    _ask(options, effect)
    text, space = _volumes(session.client, wanted)
    _print(text)
    print("Total reclaimed space:", units.human_size(space))


@command(
    "[OPTIONS]",
    "Remove unused data",
    [
        Flag("all", "a", "bool", "Remove all unused images not just dangling ones"),
        _FILTER,
        _FORCE,
        Flag("volumes", "", "bool", "Prune anonymous volumes"),
    ],
    at_most=0,
)
def system_prune(session: Session, options: Options, _: list[str]) -> None:
    wanted = filters(options["filter"])
    effects = ["all stopped containers", "all networks not used by at least one container"]
    if options["volumes"]:
        effects.append("all anonymous volumes not used by at least one container")
    effects.append(
        "all images without at least one container associated to them"
        if options["all"]
        else "all dangling images"
    )
    listing = "".join(f"  - {effect}\n" for effect in effects)
    _ask(options, f"This will remove:\n{listing}")
    client, total = session.client, 0
    image_filters = {**wanted, "dangling": {"false" if options["all"] else "true": True}}
    steps = [(_containers, wanted), (_networks, wanted)]
    if options["volumes"]:
        steps.append((_volumes, wanted))
    for prune, given in [*steps, (_images, image_filters)]:
        text, space = prune(client, given)
        _print(text)
        total += space
    print("Total reclaimed space:", units.human_size(total))
