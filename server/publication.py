"""Signed metadata of a store's releases: The Update Framework's four roles, through python-tuf.

Why TUF and not one signed list: expiry against freezing, versions against rollback, a snapshot against mixing, and
keys that can be replaced without touching a device, all with a client that others have audited.

Files are ``<version>.<role>.json`` and ``timestamp.json``; the latter is written last and is what makes the others
count, so a crash at any instant leaves the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from dsv import DsvError
from protos.files import locked, write_atomically
from server.signed_folder import S, SignedFolder
from server.signed_releases import Lifetimes, SignedRelease, named_targets
from server.signing_keys import ONLINE_ROLES, ROLES, SigningKeys

_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True)
class Publication(SignedFolder):
    """The metadata in ``folder``, signed with those of ``keys`` that are there."""

    keys: SigningKeys
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def create(self) -> Path:
        """Make keys and first metadata, and return the root's file: what devices are handed.

        Raises:
            DsvError: there is metadata already, or it cannot be written.
        """
        if self._versions("root"):
            raise DsvError(f"{self.folder} is signed already; replace its keys with 'dsv keys rotate'")
        root = Root(expires=self._expiry("root"), consistent_snapshot=True)
        signers = {role: self.keys.create(role) for role in ROLES}
        for role, signer in signers.items():
            root.add_key(signer.public_key, role)
        self._make_folder()
        with self._locked():
            path = self._write("1.root.json", Metadata(root), [signers["root"]])
        self.update([])
        return path

    def update(self, releases: Sequence[SignedRelease], unreadable: Collection[str] = ()) -> bool:
        """Let the metadata name just ``releases``, oldest first, and sign anew what nears its end.

        Args:
            unreadable: digests of files that are there and cannot be read now; those that are named stay so.

        Returns:
            Whether anything was written.

        Raises:
            KeyMissingError: a key that is needed is not there. What can be signed anew without it is, all the same, so
                that devices go on trusting the list as it was.
            DsvError: the folder cannot be written.
        """
        with self._locked():
            root = self.root()
            timestamp = self._current(root, "timestamp.json", Timestamp)
            snapshot = self._at(root, timestamp.snapshot_meta.version if timestamp else None, Snapshot)
            targets = self._at(root, snapshot.meta["targets.json"].version if snapshot else None, Targets)
            wanted = named_targets(releases, targets, unreadable)
            listed = targets is not None and wanted == targets.targets
            if targets is not None and not listed and self._find_signer(root, "targets") is None:
                wanted = targets.targets
            wrote = self._sign_anew(root, timestamp, snapshot, targets, wanted)
        if not listed:
            self._signer(root, "targets")
        for role in self.overdue():
            if role in ONLINE_ROLES:
                self._signer(root, role)
        return wrote

    def _sign_anew(
        self,
        root: Root,
        timestamp: Timestamp | None,
        snapshot: Snapshot | None,
        targets: Targets | None,
        wanted: dict[str, TargetFile],
    ) -> bool:
        """From what is there now (None: nothing valid); returns whether anything was written."""
        versions = {"targets": 0, "snapshot": 0, "timestamp": 0, **self._highest_versions()}
        if targets is None or wanted != targets.targets or self._ages(root, targets):
            targets = Targets(versions["targets"] + 1, expires=self._expiry("targets"), targets=wanted)
            snapshot = None
            self._sign(root, targets)
        if snapshot is None or self._ages(root, snapshot):
            described = MetaFile.from_data(targets.version, self._bytes(targets), ["sha256"])
            expires = self._expiry("snapshot")
            snapshot = Snapshot(versions["snapshot"] + 1, expires=expires, meta={"targets.json": described})
            timestamp = None
            self._sign(root, snapshot)
        if timestamp is not None and not self._ages(root, timestamp):
            return False
        described = MetaFile.from_data(snapshot.version, self._bytes(snapshot), ["sha256"])
        expires = self._expiry("timestamp")
        self._sign(root, Timestamp(versions["timestamp"] + 1, expires=expires, snapshot_meta=described))
        return True

    def rotate(self, role: str) -> None:
        """Replace the key of ``role`` and tell devices through a new root, which the root's key signs.

        Replacing snapshot's and timestamp's keys also makes devices forget versions that an attacker drove up.

        Raises:
            DsvError: the root's key is not in the folder, or nothing that the new key could go on from is signed.
        """
        with self._locked():
            root = self.root()
            # While the old keys count: whoever can write into the folder could else have new keys sign their list.
            releases = [] if role == "root" else self.releases()
            signers = [self._signer(root, "root")]
            old = list(root.roles[role].keyids)
            new = self.keys.create(role)
            for keyid in old:
                root.revoke_key(keyid, role)
            root.add_key(new.public_key, role)
            root.version += 1
            root.expires = self._expiry("root")
            if role == "root":
                signers.append(new)
            self._write(f"{root.version}.root.json", Metadata(root), signers)
            for keyid in old:
                self.keys.forget(role, keyid)
        if role != "root":
            self.update(releases)

    def overdue(self) -> list[str]:
        """The roles but the root over half of whose time is over: after ``update``, those whose keys are elsewhere."""
        found = self.expiries()
        return [role for role, ends in found.items() if role != "root" and self._nears(role, ends)]

    def check_online_keys(self) -> None:
        """See that a server can keep the metadata fresh, before devices depend on it.

        Raises:
            DsvError: the store is not signed, or a key of ``ONLINE_ROLES`` is not there.
        """
        at_hand = self.signing_roles()
        for role in ONLINE_ROLES:
            if role not in at_hand:
                raise self.keys.missing(role, "serve without --keys")

    def signing_roles(self) -> set[str]:
        """The roles whose keys are at hand."""
        root = self.root()
        return {role for role in ROLES if self._find_signer(root, role)}

    def _sign(self, root: Root, signed: S) -> None:
        role = signed.type
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self._write(name, Metadata(signed), [self._signer(root, role)])

    def _signer(self, root: Root, role: str) -> CryptoSigner:
        found = self._find_signer(root, role)
        if found is None:
            raise self.keys.missing(role)
        return found

    def _find_signer(self, root: Root, role: str) -> CryptoSigner | None:
        found = (self.keys.load(role, root.keys[keyid]) for keyid in root.roles[role].keyids)
        return next((signer for signer in found if signer), None)

    def _write(self, name: str, metadata: Metadata[S], signers: list[CryptoSigner]) -> Path:
        for signer in signers:
            metadata.sign(signer, append=True)
        path = self.folder / name
        try:
            write_atomically(path, metadata.to_bytes())
        except OSError as error:
            raise DsvError(f"cannot sign into {self.folder}: {error.strerror}; free space or rights") from None
        return path

    def _ages(self, root: Root, signed: Signed) -> bool:
        """Whether half of its time is over, and it can be signed anew here."""
        return self._nears(signed.type, signed.expires) and self._find_signer(root, signed.type) is not None

    def _nears(self, role: str, ends: datetime) -> bool:
        left, lifetime = ends - self.now(), self.lifetimes.of(role)
        return left < lifetime / 2 or left > lifetime + _CLOCKS_DIFFER  # signed while a clock was ahead

    def _expiry(self, role: str) -> datetime:
        return (self.now() + self.lifetimes.of(role)).replace(microsecond=0)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DsvError(f"cannot make {self.folder}: {error.strerror}; choose another store") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.folder.is_dir():
            self.root()  # says what is missing
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / ".lock"))
            except OSError as error:
                raise DsvError(f"cannot write into {self.folder}: {error.strerror}; see to its rights") from None
            yield
