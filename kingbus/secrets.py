"""Secrets: values that never print, and the cluster key that seals passwords in the log.

Owns `Secret` (a string whose repr hides it) and `ClusterSecret` (AES-GCM with one key per
cluster). The key itself is never in the log; a `ClusterKey` command announces its id and a known
text sealed with it, so that a node with another key notices at start and not at a failover. The
purpose of each sealed text is bound to it as associated data: a sealed password cannot be moved
to another place in the log.

AES-GCM as in NIST SP 800-38D: 256-bit key, a fresh random 96-bit nonce for each text.
"""

import hashlib
import os
import secrets as random_source
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kingbus.errors import KingbusError
from kingbus.pb import command_pb2

KEY_BYTES = 32
NONCE_BYTES = 12
TEXT_BYTES_MAX = 4096  # no password that MySQL accepts is longer than a few hundred bytes
FILE_BYTES_MAX = 4096

SOURCE_PASSWORD = "source-password"
_CHECK_PURPOSE = "cluster-key-check"
_CHECK_TEXT = "kingbus cluster key"


class SecretError(KingbusError):
    """A secret that cannot be read or opened."""


class WrongKeyError(SecretError):
    """The text was sealed with another key, for another purpose, or was changed."""

    hint = "every member must have the cluster's key: the same cluster-key-file, or none at all"


class Secret:
    """A text that shows in no repr, format or log; `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that must send it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return random_source.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSecret:
    """The key of a cluster. `key_id` names it without telling anything about it."""

    key_id: str
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> Self:
        """The secret of a key of exactly 32 bytes; raises SecretError for another length."""
        if len(key) != KEY_BYTES:
            raise SecretError(f"a cluster key has {KEY_BYTES} bytes, this one has {len(key)}")
        return cls(key_id=hashlib.sha256(b"kingbus key id" + key).hexdigest()[:16], key=key)

    @classmethod
    def generate(cls) -> Self:
        """A new random key."""
        return cls.of(random_source.token_bytes(KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file: 64 hexadecimal digits, as `store` and `openssl rand -hex 32` write it.

        Raises SecretError naming the file when it is missing, malformed, or readable by others.
        """
        try:
            status = path.stat()
            text = path.read_bytes()[: FILE_BYTES_MAX + 1]
        except OSError as error:
            raise SecretError(f"cluster key file {path}: {error.strerror}") from error
        if status.st_mode & 0o077:
            raise SecretError(
                f"cluster key file {path} is readable by other users", hint=f"chmod 600 {path}"
            )
        try:
            key = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            raise SecretError(
                f"cluster key file {path} is not a line of {2 * KEY_BYTES} hexadecimal digits",
                hint="make one with: openssl rand -hex 32",
            ) from None
        try:
            return cls.of(key)
        except SecretError as error:
            raise SecretError(f"cluster key file {path}: {error}") from None

    def store(self, path: Path) -> None:
        """Write the key to `path` with mode 0600, atomically and synced. Raises OSError."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self.key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def seal(self, text: str, purpose: str) -> command_pb2.Sealed:
        """Encrypt `text`; only `open` with the same purpose gives it back."""
        plain = text.encode()
        if len(plain) > TEXT_BYTES_MAX:
            raise SecretError(f"a secret text has at most {TEXT_BYTES_MAX} bytes")
        nonce = random_source.token_bytes(NONCE_BYTES)
        ciphertext = AESGCM(self.key).encrypt(nonce, plain, purpose.encode())
        return command_pb2.Sealed(key_id=self.key_id, nonce=nonce, ciphertext=ciphertext)

    def open(self, sealed: command_pb2.Sealed, purpose: str) -> str:
        """The text that was sealed. Raises WrongKeyError."""
        if sealed.key_id != self.key_id:
            raise WrongKeyError(
                f"sealed with cluster key {sealed.key_id or '(none)'}, this node has {self.key_id}"
            )
        try:
            plain = AESGCM(self.key).decrypt(sealed.nonce, sealed.ciphertext, purpose.encode())
        except (InvalidTag, ValueError):
            raise WrongKeyError(
                f"the sealed {purpose} does not open with cluster key {self.key_id}"
            ) from None
        return plain.decode()

    def announce(self) -> command_pb2.ClusterKey:
        """What the log says of this key: its id, and a known text sealed with it."""
        return command_pb2.ClusterKey(
            key_id=self.key_id, check=self.seal(_CHECK_TEXT, _CHECK_PURPOSE)
        )

    def verify(self, announced: command_pb2.ClusterKey) -> None:
        """Raise WrongKeyError unless the announced check opens with this key."""
        if self.open(announced.check, _CHECK_PURPOSE) != _CHECK_TEXT:
            raise WrongKeyError(f"cluster key {self.key_id} opens the check to another text")


def read_secret_file(path: Path) -> Secret:
    """The first line of a password or token file. Raises SecretError naming the file."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error
    if len(text) > FILE_BYTES_MAX:
        raise SecretError(f"{path} is larger than {FILE_BYTES_MAX} bytes; is it the right file?")
    try:
        return Secret(text.decode().split("\n", 1)[0].rstrip("\r"))
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not text in UTF-8") from None
