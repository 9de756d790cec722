"""Pushing a list of manifests that a client has put together from a registry's images."""

from __future__ import annotations

from pyengine.errors import InvalidParameter
from pyengine.oci.image import Index, parse_manifest
from pyengine.oci.reference import Reference
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository


async def push_list(
    registries: Registries,
    target: Reference,
    credentials: Credentials | None,
    data: bytes,
    media_type: str,
    members: list[Reference],
) -> tuple[str, list[Reference]]:
    """Store the list ``data`` at the tag ``target``; its digest, and the members that were new.

    ``members`` are the images that it names, each with the repository where it is now and its
    digest. A registry shows only what is in the list's own repository, so that manifests and blobs
    of others are taken over into it. ``InvalidParameter`` if that cannot be done, and if ``data``
    is no list or names other images.
    """
    index = parse_manifest(data, media_type)
    if not isinstance(index, Index):
        raise InvalidParameter("this is no list of manifests")
    named = {entry.digest for entry in index.manifests or []}
    if named != {member.digest for member in members}:
        raise InvalidParameter("the members are not those that the list names")
    repository = registries.repository(target, credentials, push=True)
    pushed = []
    for member in members:
        if member.domain != target.domain:
            raise InvalidParameter(
                "cannot use source images from a different registry than the target image: "
                f"{member.domain} != {target.domain}"
            )
        if member.path != target.path:
            source = registries.repository(member, credentials)
            await _take_over(repository, source, member, target)
            pushed.append(target._replace(tag="", digest=member.digest))
    return await repository.put_manifest(target.tag or target.digest, data, media_type), pushed


async def _take_over(
    repository: Repository, source: Repository, member: Reference, target: Reference
) -> None:
    found = await source.manifest(member.digest)
    image = parse_manifest(found.data, found.media_type)
    if isinstance(image, Index):
        raise InvalidParameter(f"{member} is a manifest list")
    for blob in (image.config, *image.layers):
        if await repository.has_blob(blob.digest) is not None:
            continue
        if not await repository.mount(blob.digest, member.path):
            raise InvalidParameter(f"error mounting {member.name}@{blob.digest} to {target}")
    await repository.put_manifest(member.digest, found.data, found.media_type)
