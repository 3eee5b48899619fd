"""Looks at the store for new releases, has them signed, and tells those who wait."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from dsv import DsvError
from server.catalogue import Catalogue, Entry
from server.log import log_event
from server.metrics import Metrics
from server.publication import Publication
from server.serve_options import ServeOptions
from server.signing_keys import KeyMissingError, SigningKeys
from server.store import ReleaseStore


class StoreWatcher:
    """A task that keeps the releases, newest first, and their metadata fresh."""

    def __init__(self, store: ReleaseStore, catalogue: Catalogue, options: ServeOptions, metrics: Metrics) -> None:
        self._catalogue, self._options, self._metrics = catalogue, options, metrics
        self._publication: Publication | None = None
        if options.keys and store.metadata_folder:
            self._publication = Publication(store.metadata_folder, SigningKeys(options.keys), options.lifetimes)
        # A tenth of the shortest life: metadata is signed anew once half of it is over.
        self._sign_interval_s = min(60.0, options.lifetimes.timestamp.total_seconds() / 10)
        self._signed_s = -self._sign_interval_s
        self._signed: list[str] = []  # digests when signing was last tried
        self._changed = asyncio.Condition()
        self.releases: list[Entry] = []
        self.look = 0
        """Rises whenever the releases change."""
        self.stopping = False

    async def start(self) -> None:
        """Look once, and go on looking.

        Raises:
            DsvError: the store cannot be signed, or kept fresh, with the keys given.
        """
        self.releases, unreadable = await self._catalogue.look_aside()
        if self._publication:
            await asyncio.to_thread(self._publication.check_online_keys)
            try:
                await asyncio.to_thread(self._sign, self._publication, self.releases, unreadable)
            except KeyMissingError as error:  # the targets key is elsewhere: what it has signed can be had
                self._fail(str(error))
                named = {release.digest for release in await asyncio.to_thread(self._publication.releases)}
                self.releases = [entry for entry in self.releases if entry.release.digest in named]
        self._metrics.releases.set(len(self.releases))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop looking and wake everybody who waits."""
        self.stopping = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, known: int) -> None:
        """Return once there are other releases than when ``look`` was ``known``, or the server stops."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.stopping or self.look != known)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._options.look_interval_s)
            try:
                await self._look()
            except Exception as error:  # nothing in a store may end the looking for good
                log_event(logging.ERROR, "cannot look at the store", reason=repr(error))

    async def _look(self) -> None:
        found, unreadable = await self._catalogue.look_aside()
        changed = _digests(found) != _digests(self.releases)
        due = _digests(found) != self._signed or time.monotonic() - self._signed_s >= self._sign_interval_s
        if self._publication and due:
            try:
                await asyncio.to_thread(self._sign, self._publication, found, unreadable)
            except (DsvError, OSError) as error:
                if not isinstance(error, KeyMissingError):  # which nobody brings back within a second
                    self._signed = []
                self._fail(str(error))
                return  # who is told of a release must find it signed
        if changed:
            self.releases = found
            self.look += 1
            self._metrics.releases.set(len(found))
            log_event(logging.INFO, "releases", count=len(found))
            async with self._changed:
                self._changed.notify_all()

    def _sign(self, publication: Publication, entries: list[Entry], unreadable: set[str]) -> None:
        self._signed, self._signed_s = _digests(entries), time.monotonic()
        try:
            if publication.update([entry.to_signed() for entry in reversed(entries)], unreadable):
                log_event(logging.INFO, "signed", releases=len(entries))
        finally:
            for role, expires in publication.expiries().items():
                self._metrics.expires.labels(role).set(expires.timestamp())
        for role in publication.overdue():
            self._fail(str(publication.keys.missing(role)))

    def _fail(self, reason: str) -> None:
        self._metrics.signing_failures.inc()
        log_event(logging.ERROR, "cannot sign", reason=reason)


def _digests(entries: list[Entry]) -> list[str]:
    return [entry.release.digest for entry in entries]
