"""What signed metadata says of releases, and for how long it says it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tuf.api.metadata import TargetFile, Targets

from protos.transport import RELEASE_SUFFIX


@dataclass(frozen=True)
class Lifetimes:
    """How long each role's metadata is believed. What expires is signed anew once half of it has passed."""

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=90)
    snapshot: timedelta = timedelta(days=7)
    timestamp: timedelta = timedelta(days=3)
    """Half of it is more than a day, by which a device's clock may be wrong."""

    def of(self, role: str) -> timedelta:
        """Lifetime of ``role``."""
        return {"root": self.root, "targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp}[
            role
        ]


@dataclass(frozen=True)
class SignedRelease:
    """What the metadata says of a release, beside its digest and size."""

    digest: str
    size_bytes: int
    images: int
    classes: int
    teacher_architecture: str


def named_targets(
    releases: Sequence[SignedRelease], targets: Targets | None, unreadable: Collection[str] = ()
) -> dict[str, TargetFile]:
    """What targets metadata holds of ``releases``, oldest first; those that ``targets`` names keep their number.

    Of ``unreadable`` digests it holds what ``targets`` does: left out, they would be the newest when they come back.
    """
    before = targets.targets if targets else {}
    sequence = max((int(entry.custom["sequence"]) for entry in before.values()), default=0)
    named = {path: entry for path, entry in before.items() if path.removesuffix(RELEASE_SUFFIX) in unreadable}
    for release in releases:
        path = release.digest + RELEASE_SUFFIX
        if path not in before:
            sequence += 1
        number = int(before[path].custom["sequence"]) if path in before else sequence
        custom = {
            "classes": release.classes,
            "images": release.images,
            "sequence": number,
            "teacher_architecture": release.teacher_architecture,
        }
        named[path] = TargetFile(release.size_bytes, {"sha256": release.digest}, path, {"custom": custom})
    return named


def described(entry: TargetFile) -> SignedRelease:
    """The release that ``named_targets`` wrote."""
    custom = entry.custom
    digest = entry.path.removesuffix(RELEASE_SUFFIX)
    return SignedRelease(
        digest, entry.length, int(custom["images"]), int(custom["classes"]), str(custom["teacher_architecture"])
    )
