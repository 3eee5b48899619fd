"""Signed metadata in its folder: read, and verified with the keys of its root; server/publication.py writes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError, StorageError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from dsv import DsvError
from protos.transport import METADATA_NAME
from server.signed_releases import SignedRelease, described

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class SignedFolder:
    """The metadata in ``folder``."""

    folder: Path

    def root(self) -> Root:
        """The newest root.

        Raises:
            DsvError: the store is not signed, or its newest root is not by its own key: somebody put it there.
        """
        versions = self._versions("root")
        if not versions:
            raise DsvError(f"{self.folder} holds no signed metadata; begin with 'dsv keys init'")
        path = self.folder / f"{max(versions)}.root.json"
        root = self._load(path, Root)
        if self._current(root, path.name, Root) is None:
            raise DsvError(f"{path} is not signed by its own root key; remove it, or restore the folder from a copy")
        return root

    def releases(self) -> list[SignedRelease]:
        """What the newest list that the root's keys vouch for names, oldest first.

        Raises:
            DsvError: there is no such list.
        """
        root = self.root()
        for version in sorted(self._versions("targets"), reverse=True):
            targets = self._at(root, version, Targets)
            if targets and targets.version == version:  # else an older list that was given a newer one's name
                ordered = sorted(targets.targets.values(), key=lambda entry: int(entry.custom["sequence"]))
                return [described(entry) for entry in ordered]
        raise DsvError(f"{self.folder} holds no list of releases that its root vouches for; run 'dsv keys sign'")

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

    def _versions(self, role: str) -> list[int]:
        return [int(path.name.split(".")[0]) for path in self.folder.glob(f"*.{role}.json") if _is_metadata(path)]

    def _highest_versions(self) -> dict[str, int]:
        """Versions that devices may have seen, valid or not: nothing is ever signed below them."""
        found: dict[str, int] = {}
        for role in ("targets", "snapshot"):
            numbers = self._versions(role)
            if numbers:
                found[role] = max(numbers)
        if (self.folder / "timestamp.json").exists():
            found["timestamp"] = self._load(self.folder / "timestamp.json", Timestamp).version
        return found


def _is_metadata(path: Path) -> bool:
    return METADATA_NAME.fullmatch(path.name) is not None
