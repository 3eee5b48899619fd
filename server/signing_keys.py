"""The private keys that sign a store's metadata: Ed25519, one file each, readable by their owner alone."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key

from dsv import DsvError
from protos.files import write_atomically

ROLES = ("root", "targets", "snapshot", "timestamp")
"""Root names the keys of all; targets names releases; snapshot and timestamp say what is newest."""
ONLINE_ROLES = ("snapshot", "timestamp")
"""Whose metadata ends within days, so that a server that signs needs their keys; the others' may be elsewhere."""
_ID_DIGITS = 16


class KeyMissingError(DsvError):
    """A key that is needed is not at hand."""


class SigningKeys:
    """A folder of private keys, ``<role>-<first digits of the key's id>.pem``.

    A key may be moved away (the root's should be): what it signs then stays as it is until it comes back.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, role: str) -> CryptoSigner:
        """Make a key and write it.

        Raises:
            DsvError: it cannot be written.
        """
        signer = CryptoSigner.generate_ed25519()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path(role, signer.public_key.keyid), signer.private_bytes, mode=0o600)
        except OSError as error:
            raise DsvError(f"cannot write keys into {self.folder}: {error.strerror}; choose another --keys") from None
        return signer

    def load(self, role: str, public: Key) -> CryptoSigner | None:
        """The signer of ``role`` that ``public`` belongs to; None when its key is not in the folder.

        Raises:
            DsvError: a key that others may read, or that is none.
        """
        path = self._path(role, public.keyid)
        if not path.exists():
            return None
        if path.stat().st_mode & 0o077:
            raise DsvError(
                f"key {path} can be read by others: run 'chmod 600 {path}', or make a new one with 'dsv keys'"
            )
        try:
            return CryptoSigner(load_pem_private_key(path.read_bytes(), None), public)  # type: ignore[arg-type]
        except (OSError, ValueError, TypeError) as error:
            raise DsvError(f"{path} is no private key that fits its name ({error}); restore it from a copy") from None

    def missing(self, role: str, otherwise: str = "do this where it is") -> KeyMissingError:
        """What to raise where the key of ``role`` is needed and not there; ``otherwise`` is the second remedy."""
        return KeyMissingError(f"the {role} key is not in {self.folder}; bring it back, or {otherwise}")

    def forget(self, role: str, keyid: str) -> None:
        """Remove a key that is no longer trusted."""
        self._path(role, keyid).unlink(missing_ok=True)

    def _path(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:_ID_DIGITS]}.pem"
