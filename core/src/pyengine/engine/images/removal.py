"""What ``docker rmi`` takes away, planned as a whole before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pyengine.engine.images.records import Image
from pyengine.errors import Conflict
from pyengine.oci import reference

#: image id -> (container id, whether it runs) of each container made from it
Users = Callable[[str], Sequence[tuple[str, bool]]]


class Removal:
    """``rows`` of the answer, ``events`` (action, image id, labels), and what to change."""

    def __init__(self, images: Mapping[str, Image], users: Users) -> None:
        self._images = images
        self._users = users
        self.rows: list[dict[str, str]] = []
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.untagged: dict[str, list[str]] = {}
        self.deleted: list[str] = []

    def plan(self, image: Image, ref: str, force: bool, prune: bool) -> None:
        """Remove ``image``, found as ``ref``. Raises ``Conflict`` in Docker's words."""
        quiet = False
        names = image.references
        if _is_id_prefix(image.id, ref):
            if _is_single(names):
                self._check(image, force, references=False)
                self.untag(image, names)
        else:
            users = self._users(image.id)
            if not force and _is_single(names) and users:
                raise Conflict(
                    f'conflict: unable to remove repository reference "{ref}" (must force) - '
                    f"container {users[0][0][:12]} is using its referenced image {image.id[7:19]}"
                )
            name = reference.parse(ref).with_default_tag()
            if name.digest:
                name = name._replace(tag="")
            self.untag(image, [str(name)])
            left = self.left(image)
            if not name.digest and not any(
                other.name == name.name and not other.digest for other in map(reference.parse, left)
            ):
                # Digests of a repository without a tag in it are of no use to anybody.
                self.untag(
                    image,
                    [other for other in left if reference.parse(other).name == name.name],
                    silent=True,
                )
            if self.left(image):
                return
            quiet = True
        self._plan_delete(image, force, prune, quiet)

    def _plan_delete(self, image: Image, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(image, force, references=True)
        except Conflict:
            dangling = not self.left(image) and not self._children(image.id)
            if quiet and (not dangling or self._users(image.id)):
                return
            raise
        self.untag(image, self.left(image))
        self.delete(image)
        parent = self._images.get(image.parent)
        if prune and parent is not None:
            self._plan_delete(parent, False, True, True)

    def _check(self, image: Image, force: bool, references: bool) -> None:
        """``Conflict`` if somebody needs ``image``; ``force`` overrules names and stopped users."""
        hard = f"conflict: unable to delete {image.id[7:19]} (cannot be forced) - "
        soft = f"conflict: unable to delete {image.id[7:19]} (must be forced) - "
        if self._children(image.id):
            raise Conflict(hard + "image has dependent child images")
        users = self._users(image.id)
        for container, running in users:
            if running:
                raise Conflict(hard + f"image is being used by running container {container[:12]}")
        if force:
            return
        if references and self.left(image):
            raise Conflict(soft + "image is referenced in multiple repositories")
        for container, running in users:
            if not running:
                raise Conflict(soft + f"image is being used by stopped container {container[:12]}")

    def _children(self, id: str) -> bool:
        return any(
            image.parent == id and image.id not in self.deleted for image in self._images.values()
        )

    def left(self, image: Image) -> list[str]:
        """Names that ``image`` still has."""
        gone = self.untagged.get(image.id, [])
        return [name for name in image.references if name not in gone]

    def untag(self, image: Image, names: Sequence[str], silent: bool = False) -> None:
        for name in names:
            self.untagged.setdefault(image.id, []).append(name)
            self.rows.append({"Untagged": reference.parse(name).familiar})
            if not silent:
                self.events.append(("untag", image.id, image.config.labels or {}))

    def delete(self, image: Image) -> None:
        self.deleted.append(image.id)
        self.rows.append({"Deleted": image.id})
        self.events.append(("delete", image.id, {}))


def _is_id_prefix(id: str, ref: str) -> bool:
    return id.startswith(ref) or id[7:].startswith(ref)


def _is_single(names: Sequence[str]) -> bool:
    """True for names of one repository with at most one tag; False for none at all."""
    parsed = [reference.parse(name) for name in names]
    tags = sum(1 for name in parsed if not name.digest)
    return bool(parsed) and tags <= 1 and len({name.name for name in parsed}) == 1
