"""Signed metadata of a store's releases: The Update Framework's four roles, through python-tuf.

Why TUF and not one signed list: expiry against freezing, versions against rollback, a snapshot against mixing, and
keys that can be replaced without touching a device, all with a client that others have audited.

Files are ``<version>.<role>.json`` and ``timestamp.json``; the latter is written last and is what makes the others
count, so a crash at any instant leaves the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError, StorageError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from dsv import DsvError
from protos.files import locked, write_atomically
from protos.transport import METADATA_NAME
from server.signed_releases import Lifetimes, SignedRelease, described, named_targets
from server.signing_keys import ROLES, SigningKeys

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Publication:
    """The metadata in ``folder``, signed with those of ``keys`` that are there."""

    folder: Path
    keys: SigningKeys
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def create(self) -> Path:
        """Make keys and first metadata, and return the root's file: what devices are handed.

        Raises:
            DsvError: there is metadata already, or it cannot be written.
        """
        if self._root_versions():
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

    def update(self, releases: Sequence[SignedRelease]) -> bool:
        """Let the metadata name just ``releases``, oldest first, and sign anew what nears its end.

        Returns:
            Whether anything was written.

        Raises:
            DsvError: a key that is needed is not there, or the folder cannot be written.
        """
        with self._locked():
            root = self.root()
            timestamp = self._current(root, "timestamp.json", Timestamp)
            snapshot = self._at(root, timestamp.snapshot_meta.version if timestamp else None, Snapshot)
            targets = self._at(root, snapshot.meta["targets.json"].version if snapshot else None, Targets)
            versions = {"targets": 0, "snapshot": 0, "timestamp": 0}
            versions.update(self._highest_versions())
            wanted = named_targets(releases, targets)
            if targets is None or wanted != targets.targets or self._ages(root, targets):
                targets = Targets(versions["targets"] + 1, expires=self._expiry("targets"), targets=wanted)
                snapshot = None
                self._sign(root, targets)
            if snapshot is None or self._ages(root, snapshot):
                described = MetaFile.from_data(targets.version, self._bytes(targets), ["sha256"])
                snapshot = Snapshot(
                    versions["snapshot"] + 1, expires=self._expiry("snapshot"), meta={"targets.json": described}
                )
                timestamp = None
                self._sign(root, snapshot)
            if timestamp is not None and not self._ages(root, timestamp):
                return False
            described = MetaFile.from_data(snapshot.version, self._bytes(snapshot), ["sha256"])
            self._sign(
                root,
                Timestamp(versions["timestamp"] + 1, expires=self._expiry("timestamp"), snapshot_meta=described),
            )
            return True

    def rotate(self, role: str) -> None:
        """Replace the key of ``role`` and tell devices through a new root, which the root's key signs.

        Replacing snapshot's and timestamp's keys also makes devices forget versions that an attacker drove up.

        Raises:
            DsvError: the root's key is not in the folder.
        """
        with self._locked():
            root = self.root()
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
            self.update(self.releases())

    def root(self) -> Root:
        """The newest root.

        Raises:
            DsvError: the store is not signed.
        """
        versions = self._root_versions()
        if not versions:
            raise DsvError(f"{self.folder} holds no signed metadata; begin with 'dsv keys init'")
        return self._load(self.folder / f"{max(versions)}.root.json", Root)

    def releases(self) -> list[SignedRelease]:
        """What the metadata names now, oldest first; also when its signature no longer counts."""
        versions = self._highest_versions()
        if "targets" not in versions:
            return []
        targets = self._load(self.folder / f"{versions['targets']}.targets.json", Targets).targets
        ordered = sorted(targets.values(), key=lambda entry: int(entry.custom["sequence"]))
        return [described(entry) for entry in ordered]

    def expiries(self) -> dict[str, datetime]:
        """When each role's metadata ends; a role without valid metadata is left out."""
        root = self.root()
        found: dict[str, Signed | None] = {"root": root}
        timestamp = self._current(root, "timestamp.json", Timestamp)
        found["timestamp"] = timestamp
        snapshot = self._at(root, timestamp.snapshot_meta.version if timestamp else None, Snapshot)
        found["snapshot"] = snapshot
        found["targets"] = self._at(root, snapshot.meta["targets.json"].version if snapshot else None, Targets)
        return {role: signed.expires for role, signed in found.items() if signed is not None}

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
            raise DsvError(f"the {role} key is not in {self.keys.folder}; bring it back, or sign where it is")
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

    def _bytes(self, signed: Signed) -> bytes:
        return (self.folder / f"{signed.version}.{signed.type}.json").read_bytes()

    def _at(self, root: Root, version: int | None, kind: type[S]) -> S | None:
        return self._current(root, f"{version}.{kind.type}.json", kind) if version else None

    def _current(self, root: Root, name: str, kind: type[S]) -> S | None:
        """Metadata that the root's keys vouch for; None when there is none."""
        try:
            metadata = Metadata[S].from_file(str(self.folder / name))
            root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
        except (DeserializationError, UnsignedMetadataError, StorageError):
            return None
        return metadata.signed if isinstance(metadata.signed, kind) else None

    def _load(self, path: Path, kind: type[S]) -> S:
        try:
            signed = Metadata[S].from_file(str(path)).signed
        except (DeserializationError, RepositoryError, StorageError, OSError):
            signed = None
        if not isinstance(signed, kind):
            raise DsvError(f"{path} is not readable metadata; restore the folder from a copy") from None
        return signed

    def _root_versions(self) -> list[int]:
        return [int(path.name.split(".")[0]) for path in self.folder.glob("*.root.json") if _is_metadata(path)]

    def _highest_versions(self) -> dict[str, int]:
        """Versions that devices may have seen, valid or not: nothing is ever signed below them."""
        found: dict[str, int] = {}
        for role in ("targets", "snapshot"):
            numbers = [
                int(path.name.split(".")[0]) for path in self.folder.glob(f"*.{role}.json") if _is_metadata(path)
            ]
            if numbers:
                found[role] = max(numbers)
        if (self.folder / "timestamp.json").exists():
            found["timestamp"] = self._load(self.folder / "timestamp.json", Timestamp).version
        return found

    def _ages(self, root: Root, signed: Signed) -> bool:
        """Whether half of its time is over, and it can be signed anew here."""
        half = self.lifetimes.of(signed.type) / 2
        return signed.expires - self.now() < half and self._find_signer(root, signed.type) is not None

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


def _is_metadata(path: Path) -> bool:
    return METADATA_NAME.fullmatch(path.name) is not None
