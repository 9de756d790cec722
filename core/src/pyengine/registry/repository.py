"""One repository on its endpoints: for pulls the mirrors first, then the registry itself."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import urlencode

import aiohttp

from pyengine.errors import InvalidParameter, Unavailable
from pyengine.oci.image import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from pyengine.oci.reference import Reference
from pyengine.registry import failures
from pyengine.registry.auth import Scopes, repository_scope
from pyengine.registry.download import Download, Ingest
from pyengine.registry.failures import Failure
from pyengine.registry.models import Credentials, RemoteManifest, parse_json
from pyengine.registry.session import Session, origin, read, reading, retrying
from pyengine.registry.upload import Upload, upload_location

if TYPE_CHECKING:
    from pyengine.registry.client import Registries

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Longest manifest or index, in bytes: what the specification asks registries to take at least.
MAX_MANIFEST = 4 << 20
#: Longest page of tags, in bytes, and most pages.
MAX_TAGS = 16 << 20
MAX_PAGES = 10_000
PAGE = 1000

_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_ACCEPT = ", ".join([*sorted(MANIFEST_TYPES), *sorted(INDEX_TYPES), "*/*;q=0.1"])
#: What a server says that does not know the type of what it sends.
_NO_TYPE = {"", "text/plain", "application/octet-stream", "application/json"}


class Repository:
    """``name`` on its registry. Methods raise the errors of :mod:`pyengine.errors` in Docker's
    words; ``host`` is that of the endpoint that was used last."""

    def __init__(
        self,
        registries: Registries,
        name: Reference,
        credentials: Credentials | None,
        *,
        push: bool,
    ) -> None:
        self._registries = registries
        self._name = name
        self._credentials = credentials
        self._push = push
        self._attempts = registries.config.limits.attempts
        self._scopes: Scopes = frozenset(
            {repository_scope(name.path, *(("pull", "push") if push else ("pull",)))}
        )
        self._sessions: list[Session] | None = None
        self._lock = asyncio.Lock()
        self._fetched: dict[str, list[Session]] = {}
        self._uploads: dict[str, tuple[Session, str]] = {}
        self.host = name.domain

    # -- manifests ---------------------------------------------------------------------------------

    async def manifest(self, ref: str) -> RemoteManifest:
        """The manifest or index at a tag or digest, verified. ``InvalidParameter`` if it is longer
        than :data:`MAX_MANIFEST`."""
        return await self._anywhere(lambda session: self._manifest(session, ref), ref)

    async def resolve(self, ref: str) -> Descriptor:
        """What a tag or digest stands for now, without its content if the registry can do that."""

        async def ask(session: Session) -> Descriptor:
            try:
                async with session.request(
                    "HEAD", self._manifest_path(ref), self._scopes, headers={"Accept": _ACCEPT}
                ) as response:
                    digest = response.headers.get("Docker-Content-Digest", "")
                    size = response.content_length or 0
                    if _DIGEST.fullmatch(digest) and size and _type(response) not in _NO_TYPE:
                        return Descriptor(media_type=_type(response), digest=digest, size=size)
            except Failure as failure:
                # An answer to HEAD has no text: GET's says more.
                if not 400 <= failure.status < 500 or failure.status == 429:
                    raise
            manifest = await self._manifest(session, ref)
            return Descriptor(
                media_type=manifest.media_type, digest=manifest.digest, size=len(manifest.data)
            )

        return await self._anywhere(ask, ref)

    async def put_manifest(self, ref: str, data: bytes, media_type: str) -> str:
        """Store ``data`` at a tag or digest; its digest."""
        digest = _digest(data)

        async def put(session: Session) -> str:
            async with session.request(
                "PUT",
                self._manifest_path(ref),
                self._scopes,
                headers={"Content-Type": media_type},
                body=data,
            ) as response:
                stored = response.headers.get("Docker-Content-Digest", digest)
                if stored != digest and stored.startswith("sha256:"):
                    raise Failure(f"the registry has stored {stored}, not the manifest {digest}")
                return digest

        return await self._anywhere(put, ref)

    async def _manifest(self, session: Session, ref: str) -> RemoteManifest:
        async with session.request(
            "GET",
            self._manifest_path(ref),
            self._scopes,
            headers={"Accept": _ACCEPT},
            missing="MANIFEST_UNKNOWN",
        ) as response:
            if (response.content_length or 0) > MAX_MANIFEST:
                raise _too_large(ref, f"{response.content_length} bytes")
            chunks = bytearray()
            while True:
                with reading(response):
                    chunk = await response.content.readany()
                if not chunk:
                    break
                chunks += chunk
                if len(chunks) > MAX_MANIFEST:
                    response.close()
                    raise _too_large(ref, "it goes on and on")
            data = bytes(chunks)
            named = response.headers.get("Docker-Content-Digest", "")
            media_type = _type(response)
        wanted = ref if ":" in ref else named
        if wanted and _digest(data, wanted.partition(":")[0]) != wanted:
            raise Failure(f"manifest verification failed for digest {wanted}")
        return RemoteManifest(data, _media_type(data, media_type), wanted or _digest(data))

    def _manifest_path(self, ref: str) -> str:
        return f"/v2/{self._name.path}/manifests/{_checked(ref) if ':' in ref else ref}"

    # -- blobs -------------------------------------------------------------------------------------

    async def fetch(
        self,
        descriptor: Descriptor,
        ingest: Ingest,
        progress: Callable[[int], None],
        waiting: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Bring what ``ingest`` lacks of a blob; the caller commits.

        If the commit finds the wrong digest: ``ingest.reset()`` and call again, which asks another
        endpoint first if there is one; after ``max-download-attempts`` calls this is
        ``Unavailable``. ``progress`` is told how many bytes are there, ``waiting`` how many seconds
        are left until the next try (once a second, at last 0). Never more than
        ``descriptor.size`` bytes are written; what has come stays in ``ingest`` whatever happens.
        """
        used = self._fetched.setdefault(descriptor.digest, [])
        if len(used) >= self._attempts:
            raise Unavailable(
                f"filesystem layer verification failed for digest {descriptor.digest}",
                f"{self.host} has sent something else {len(used)} times",
            )
        path = self._blob_path(descriptor.digest)

        async def get(session: Session, attempts: int) -> None:
            download = Download(session, path, self._scopes, descriptor, ingest, progress, waiting)
            # One cut is no reason to leave a mirror.
            await download.run(max(attempts, 2))
            used.append(session)

        await self._each(get, avoid=used)

    def _blob_path(self, digest: str) -> str:
        return f"/v2/{self._name.path}/blobs/{_checked(digest)}"

    async def has_blob(self, digest: str) -> Descriptor | None:
        """The blob if this repository has it."""

        async def ask(session: Session) -> Descriptor | None:
            path = self._blob_path(digest)
            async with session.request("HEAD", path, self._scopes, accept=(404,)) as response:
                if response.status == 404:
                    return None
                size = response.content_length or 0
                return Descriptor(media_type=_type(response), digest=digest, size=size)

        return await self._anywhere(ask)

    async def mount(self, digest: str, source_repository: str) -> bool:
        """Take a blob over from another repository of this registry. False if that is not to be
        had; the upload that the registry then began is used by :meth:`upload`."""
        scopes = self._scopes | {repository_scope(source_repository, "pull")}

        async def ask(session: Session) -> bool:
            query = urlencode({"mount": digest, "from": source_repository})
            path = f"/v2/{self._name.path}/blobs/uploads/?{query}"
            async with session.request("POST", path, scopes, body=b"") as response:
                if response.status == 201:
                    return True
                self._uploads[digest] = (session, upload_location(session, response))
                return False

        return await self._anywhere(ask)

    async def upload(
        self,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        progress: Callable[[int], None],
    ) -> None:
        """Store a blob; ``open`` gives its bytes, from a thread and maybe several times."""

        async def put(session: Session, attempts: int) -> None:
            begun, location = self._uploads.pop(descriptor.digest, (None, ""))
            upload = Upload(
                session,
                self._name.path,
                self._scopes,
                descriptor,
                open,
                progress,
                location if begun is session else "",
            )
            await upload.run(attempts)

        await self._each(put)

    # -- tags --------------------------------------------------------------------------------------

    async def tags(self) -> list[str]:
        """All of them."""
        return await self._anywhere(self._all_tags)

    async def _all_tags(self, session: Session) -> list[str]:
        found: dict[str, None] = {}
        page = f"/v2/{self._name.path}/tags/list?n={PAGE}"
        seen: set[str] = set()
        while page:
            if page in seen or len(seen) == MAX_PAGES:
                raise Failure(f"the tags of {self._name.familiar_name} never end at {self.host}")
            seen.add(page)
            async with session.request(
                "GET", page, self._scopes, missing="NAME_UNKNOWN"
            ) as response:
                data = await read(response, MAX_TAGS)
            try:
                following = response.links.get("next")
                page = str(following["url"]) if following else ""
                body = parse_json(data)
                if page and origin(page) != origin(str(response.url)):
                    raise ValueError(f"it goes on at {page}")
                found.update(dict.fromkeys(str(tag) for tag in body.get("tags") or []))
            except (ValueError, AttributeError, TypeError) as error:
                raise Failure(f"{self.host} sent no list of tags: {error}") from error
        return list(found)

    # -- endpoints ---------------------------------------------------------------------------------

    async def _anywhere(self, operation: Callable[[Session], Awaitable[T]], ref: str = "") -> T:
        """The result of the first endpoint that has one. Failures that may pass are repeated."""
        return await self._each(
            lambda session, attempts: retrying(lambda: operation(session), attempts), ref
        )

    async def _each(
        self,
        operation: Callable[[Session, int], Awaitable[T]],
        ref: str = "",
        avoid: list[Session] | None = None,
    ) -> T:
        """Call with an endpoint and how often it may be tried, until one succeeds.

        A mirror's failure is never the end. The registry's own answer is, while one of its two
        schemes may be the wrong one.
        """
        sessions = await self._endpoints()
        order = sorted(sessions, key=(avoid or []).count)
        failed: Failure | None = None
        for number, session in enumerate(order):
            mirror = session.endpoint.mirror
            if not mirror and any(s.answered for s in order if s is not session and _is_own(s)):
                continue  # the other scheme is the right one
            last = number == len(order) - 1
            self.host = session.endpoint.host
            try:
                # Where somebody else can be asked there is no point in waiting.
                patient = last if mirror or not session.answered else True
                result = await operation(session, self._attempts if patient else 1)
            except Failure as failure:
                log.info("%s from %s: %s", self._name.familiar, session.endpoint.url, failure.text)
                if failure.unreachable:
                    session.forget()
                if failed is None or not mirror:
                    failed = failure
                if not mirror and 400 <= failure.status < 500:
                    break
            else:
                self._prefer(session)
                return result
        assert failed is not None
        raise failures.translate(failed, self._about(ref), push=self._push) from failed

    def _prefer(self, session: Session) -> None:
        """What comes next is best asked where this came from."""
        if self._sessions and self._sessions[0] is not session:
            self._sessions.remove(session)
            self._sessions.insert(0, session)

    async def _endpoints(self) -> list[Session]:
        async with self._lock:
            if self._sessions is None:
                self._sessions = await self._registries.sessions(
                    self._name.domain, self._credentials, mirrors=not self._push
                )
            return list(self._sessions)

    def _about(self, ref: str) -> Reference:
        """What a message is about."""
        if not ref:
            return self._name
        bare = self._name._replace(tag="", digest="")
        return bare._replace(digest=ref) if ":" in ref else bare._replace(tag=ref)


def _checked(digest: str) -> str:
    """``InvalidParameter`` for what is no digest: it may come from a manifest, and becomes part of
    an address."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidParameter(f"invalid digest {digest!r}")
    return digest


def _is_own(session: Session) -> bool:
    return not session.endpoint.mirror


def _type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _media_type(data: bytes, said: str) -> str:
    """The type that the manifest itself names, where the server did not know better."""
    if said not in _NO_TYPE:
        return said
    try:
        body = parse_json(data)
    except ValueError:
        return said
    named = body.get("mediaType") if isinstance(body, dict) else None
    return named if isinstance(named, str) and named else said


def _digest(data: bytes, algorithm: str = "sha256") -> str:
    if algorithm not in ("sha256", "sha512"):
        raise Failure(f"unsupported digest algorithm {algorithm!r}")
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _too_large(ref: str, size: str) -> Failure:
    text = f"manifest {ref} is too large: {size}, where {MAX_MANIFEST} bytes are allowed"
    return Failure(text, status=413)
