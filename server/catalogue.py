"""What a server knows of its store's releases. Each file is read and checked once, and again when it was written to."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dsv import GIVEN_IMAGES, DsvError, SupportSet
from protos import artefact, release_pb2
from protos.transport import MAX_LISTED_BYTES
from server.log import log_event
from server.signed_releases import SignedRelease
from server.store import ReleaseStore, StoredRelease, UnknownReleaseError


class UnusableReleaseError(DsvError):
    """The file is there, but is not the release that its name says, or is too large to be served."""


class UnreadableReleaseError(DsvError):
    """The file is there, but the system does not give it now."""


@dataclass(frozen=True)
class Entry:
    """A release that was checked."""

    manifest: release_pb2.GetReleaseManifestResponse
    classes: int

    @property
    def release(self) -> release_pb2.Release:
        """As it is listed."""
        return self.manifest.release

    def to_signed(self) -> SignedRelease:
        """What signed metadata says of it."""
        r = self.release
        return SignedRelease(r.digest, r.size_bytes, r.images, self.classes, r.teacher_architecture)


class Catalogue:
    """Descriptions of a store's releases; safe to use from several threads."""

    def __init__(self, store: ReleaseStore, *, max_release_bytes: int) -> None:
        self._store = store
        self._max_release_bytes = max_release_bytes
        self._known: dict[StoredRelease, Entry | str] = {}
        self._told: set[StoredRelease] = set()
        # One at a time: a thousand first calls must not read a thousand files into memory.
        self._reading = threading.Lock()
        # Of its own, so that calls that wait for a slow disk take none of the threads that others are answered in.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="catalogue")

    def look(self) -> tuple[list[Entry], set[str]]:
        """Every release that can be used, newest first, and the digests of those that cannot be read now."""
        stored = self._store.list()
        with self._reading:
            found = {release: self._look_at(release) for release in stored}
            self._known = {release: self._known[release] for release in stored if release in self._known}
        entries = [entry for entry in found.values() if isinstance(entry, Entry)]
        return entries, {release.digest for release, entry in found.items() if isinstance(entry, OSError)}

    async def look_aside(self) -> tuple[list[Entry], set[str]]:
        """``look`` without holding up an event loop, or a thread that its other calls need."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self.look)

    def list(self) -> list[Entry]:
        """Every release that can be used, newest first."""
        return self.look()[0]

    def get(self, digest: str) -> Entry:
        """One release.

        Raises:
            UnknownReleaseError: there is none of that digest.
            UnusableReleaseError: its file was altered, is too large, or was made of given pictures.
            UnreadableReleaseError: its file cannot be read now.
        """
        found = self._stored(digest)
        # What is known waits for the reading of no other one.
        return self._usable(found, self._known.get(found) or self._looked_at(found))

    async def get_aside(self, digest: str) -> Entry:
        """``get`` likewise."""
        found = await asyncio.to_thread(self._stored, digest)
        entry: Entry | str | OSError | None = self._known.get(found)
        if entry is None:
            entry = await asyncio.get_running_loop().run_in_executor(self._reader, self._looked_at, found)
        return self._usable(found, entry)

    def close(self) -> None:
        """End the thread of the methods ``..._aside``, once it has read what it is at."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _stored(self, digest: str) -> StoredRelease:
        found = next((release for release in self._store.list() if release.digest == digest), None)
        if found is None:
            raise UnknownReleaseError(f"no release {digest}")
        return found

    def _looked_at(self, stored: StoredRelease) -> Entry | str | OSError:
        with self._reading:
            return self._look_at(stored)

    @staticmethod
    def _usable(stored: StoredRelease, entry: Entry | str | OSError) -> Entry:
        if isinstance(entry, OSError):
            raise UnreadableReleaseError(
                f"release {stored.digest} cannot be read now: {entry.strerror}; try again later"
            )
        if isinstance(entry, str):
            raise UnusableReleaseError(entry)
        return entry

    def _look_at(self, stored: StoredRelease) -> Entry | str | OSError:
        """What is known of it, or the fault of the moment, which is not remembered."""
        if stored not in self._known:
            try:
                self._known[stored] = self._read(stored)
            except OSError as error:
                if stored not in self._told:  # it is looked at every second
                    log_event(logging.ERROR, "cannot read", release=stored.digest, reason=str(error))
                    self._told.add(stored)
                return error
            except UnknownReleaseError:
                return f"release {stored.digest} was withdrawn"
        return self._known[stored]

    def _read(self, stored: StoredRelease) -> Entry | str:
        if stored.size_bytes > self._max_release_bytes:
            return f"release {stored.digest} is above this server's limit of {self._max_release_bytes} bytes"
        content = self._store.read(stored.digest)
        try:
            altered = artefact.digest(content) != stored.digest
            support_set = None if altered else artefact.decode(content)
        except Exception as error:  # one file must not end the looking at all others, whatever a stranger made of it
            if not isinstance(error, DsvError):
                log_event(logging.ERROR, "cannot decode", release=stored.digest, reason=repr(error)[:200])
            support_set = None
        if support_set is None:
            return f"release {stored.digest} was altered in the store"
        if support_set.provenance.start == GIVEN_IMAGES:
            return f"release {stored.digest} was made of given pictures and may still show them; it is not served"
        entry = Entry(_manifest(stored, support_set), support_set.task.classes)
        if entry.manifest.ByteSize() > MAX_LISTED_BYTES:
            return f"the class names of release {stored.digest} are too long for a message"
        return entry


def _manifest(stored: StoredRelease, support_set: SupportSet) -> release_pb2.GetReleaseManifestResponse:
    task, origin = support_set.task, support_set.provenance
    release = release_pb2.Release(
        digest=stored.digest,
        size_bytes=stored.size_bytes,
        published_unix_s=stored.published_unix_s,
        images=len(support_set),
        class_names=task.class_names,
        channels=task.channels,
        image_size_px=task.image_size_px,
        teacher_architecture=origin.teacher_architecture,
    )
    return release_pb2.GetReleaseManifestResponse(
        release=release, teacher_sha256=origin.teacher_sha256, start=origin.start, versions=dict(origin.versions)
    )
