"""Secrets at rest: what the database and ZooKeeper keep of a password is ciphertext.

A key file has one Fernet key a line (44 characters, as `Secrets.make_key` makes them). The first
encrypts, all decrypt: to change the key put a new one in front, and drop the old one when nothing is
left of it. All engines and API processes of a cluster need the same keys. A text that was kept before
there was a key is not ciphertext, and stands for itself. Used by whoever writes secrets, and by
`service` and `api`, which read the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from engine.errors import Conflict, InvalidInput

_MARK = "fernet:"
_OPTION = "[database] secrets_key_file"


class Secrets:
    """The keys of one file; or none, and then only plain texts can be read."""

    def __init__(self, keys: MultiFernet | None = None, origin: str = "") -> None:
        self._keys = keys
        self._origin = origin

    @classmethod
    def from_file(cls, path: Path | str) -> Secrets:
        """Raises `InvalidInput` naming the file and what is wrong with it."""
        file = Path(path)
        try:
            if file.stat().st_mode & 0o077:
                raise InvalidInput(f"{_OPTION}: {file} can be read by others: chmod 600 {file}")
            lines = [line.strip() for line in file.read_text(encoding="ascii").splitlines()]
        except OSError as error:
            raise InvalidInput(f"{_OPTION}: {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{_OPTION}: {file} is not a file of keys") from error
        keys = []
        for number, line in enumerate(lines, start=1):
            if line and not line.startswith("#"):
                try:
                    keys.append(Fernet(line))
                except ValueError as error:
                    raise InvalidInput(f"{_OPTION}: {file}, line {number}: not a key") from error
        if not keys:
            raise InvalidInput(f"{_OPTION}: {file} has no key in it")
        return cls(MultiFernet(keys), str(file))

    @classmethod
    def given(cls, path: Path | str | None) -> Secrets:
        """Those of the file, or none where no file was named."""
        return cls.from_file(path) if path else cls()

    def encrypt(self, plain: str) -> str:
        """Raises `Conflict` where there is no key."""
        if self._keys is None:
            raise Conflict(f"secrets are only kept encrypted, and there is no key: set {_OPTION}")
        return _MARK + self._keys.encrypt(plain.encode()).decode()

    def decrypt(self, kept: str) -> str:
        """What `encrypt` was given. Raises `Conflict` where no key fits."""
        if not is_encrypted(kept):
            return kept
        if self._keys is None:
            raise Conflict(f"a secret is encrypted, and there is no key: set {_OPTION}")
        try:
            return self._keys.decrypt(kept.removeprefix(_MARK)).decode()
        except InvalidToken as error:
            raise Conflict(f"a secret was encrypted with a key that {self._origin} does not have") from error

    def rotate(self, kept: str) -> str:
        """The same secret under the first key."""
        return self.encrypt(self.decrypt(kept))

    @staticmethod
    def make_key(path: Path | str) -> None:
        """Put a new key in front of those in the file, which is made where it is missing."""
        file = Path(path)
        before = file.read_text(encoding="ascii") if file.exists() else ""
        draft = file.with_name(file.name + ".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as out:
            out.write(Fernet.generate_key().decode() + "\n" + before)
        draft.replace(file)


def is_encrypted(text: str) -> bool:
    return text.startswith(_MARK)
