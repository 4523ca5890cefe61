"""Passwords on the wire and what is stored instead of them.

Owns: the arithmetic of `mysql_native_password` and `caching_sha2_password` for client and server,
the RSA exchange of the latter, and `Verifier`, the stored form of a password. Knows nothing of
connections, of users or of randomness: salts and keys are passed in. Follows the manual's pages
"Caching SHA-2 Pluggable Authentication" and "Native Pluggable Authentication"; RSA is OAEP with
SHA-1, as the protocol has it.

What is stored, and why: a salted, memory-hard scrypt digest, which the full path of
`caching_sha2_password` checks the password against, and SHA1(SHA1(password)), because MySQL 5.6 and
MariaDB replicas know only `mysql_native_password` and that plugin needs exactly this value. The
second is unsalted and quick to guess against; it is what MySQL itself stores for such users, and
`make_verifier(native=False)` leaves it out for users that no such replica needs.
The fast path of `caching_sha2_password` needs SHA256(SHA256(password)); as in MySQL it is kept in
memory only, from the first full login on.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kingbus.errors import KingbusError
from kingbus.mysql.constants import SALT_SIZE

SHA1_SIZE = 20
SHA256_SIZE = 32
PASSWORD_BYTES_MAX = 256
"""As much as MySQL takes (MAX_PLAINTEXT_LENGTH); also bounds what a login can make us hash."""

_SCRYPT_COST = (1 << 14, 8, 1)
"""16 MiB and about 50 ms: paid once per user and process, then the fast path serves."""

_SHA2_VERSION = b"\x01"


class VerifierError(KingbusError):
    """A password that cannot be stored, or bytes that are no stored verifier."""

    hint = "Set the user's password again."


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _sha1(*parts: bytes) -> bytes:
    # The protocol fixes the hash; it is not a choice.
    return hashlib.sha1(b"".join(parts)).digest()  # noqa: S324


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def make_salt(randomness: bytes) -> bytes:
    """20 salt bytes from 20 random ones, each from 1 to 127 as servers send them."""
    assert len(randomness) == SALT_SIZE
    return bytes(byte % 127 + 1 for byte in randomness)


# Scrambles -------------------------------------------------------------------------------------


def native_scramble(password: bytes, salt: bytes) -> bytes:
    """What a client answers for `mysql_native_password`; nothing for an empty password."""
    if not password:
        return b""
    stage1 = _sha1(password)
    return _xor(stage1, _sha1(salt, _sha1(stage1)))


def native_digest(password: bytes) -> bytes:
    """SHA1(SHA1(password)), what the server stores for `mysql_native_password`."""
    return _sha1(_sha1(password))


def check_native(scramble: bytes, salt: bytes, digest: bytes) -> bool:
    """Whether a scramble was made with the password of `digest`."""
    if len(scramble) != SHA1_SIZE:
        return False
    stage1 = _xor(scramble, _sha1(salt, digest))
    return hmac.compare_digest(_sha1(stage1), digest)


def sha2_scramble(password: bytes, salt: bytes) -> bytes:
    """What a client answers for `caching_sha2_password`; nothing for an empty password."""
    if not password:
        return b""
    stage1 = _sha256(password)
    return _xor(stage1, _sha256(_sha256(stage1), salt))


def sha2_fast_digest(password: bytes) -> bytes:
    """SHA256(SHA256(password)), what the fast path needs."""
    return _sha256(_sha256(password))


def check_sha2_fast(scramble: bytes, salt: bytes, fast_digest: bytes) -> bool:
    """Whether a scramble was made with the password of `fast_digest`."""
    if len(scramble) != SHA256_SIZE:
        return False
    stage1 = _xor(scramble, _sha256(fast_digest, salt))
    return hmac.compare_digest(_sha256(stage1), fast_digest)


# The full path ---------------------------------------------------------------------------------


class RsaKey(Protocol):
    """The server's key pair for the full path without TLS."""

    @property
    def public_pem(self) -> bytes:
        """The public key as PEM text."""
        ...

    def decrypt(self, ciphertext: bytes) -> bytes | None:
        """The plain bytes, or None where this key did not encrypt them."""
        ...


class PrivateKey:
    """An RSA key pair. Made by `generate` once per process (takes about 0.1 s), or loaded."""

    __slots__ = ("_key", "public_pem")

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new key of 2048 bits, the size that MySQL makes for itself."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def decrypt(self, ciphertext: bytes) -> bytes | None:
        """The plain bytes, or None where this key did not encrypt them."""
        try:
            return self._key.decrypt(ciphertext, _oaep())
        except ValueError:
            return None


def _oaep() -> padding.OAEP:
    # The protocol fixes SHA-1 here too.
    sha1 = hashes.SHA1()  # noqa: S303
    return padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None)


def _repeated_xor(data: bytes, salt: bytes) -> bytes:
    return bytes(byte ^ salt[index % len(salt)] for index, byte in enumerate(data))


def encrypt_password(password: bytes, salt: bytes, public_pem: bytes) -> bytes:
    """What a client sends after it got the key. Raises ValueError for a key that is none."""
    key = serialization.load_pem_public_key(public_pem)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 - the content is wrong, not its type
    return key.encrypt(_repeated_xor(password + b"\0", salt), _oaep())


def decrypt_password(ciphertext: bytes, salt: bytes, key: RsaKey) -> bytes | None:
    """The password a client sent, or None where the ciphertext or its content is broken."""
    plain = key.decrypt(ciphertext)
    if plain is None:
        return None
    return cleartext_password(_repeated_xor(plain, salt))


def cleartext_password(payload: bytes) -> bytes | None:
    """The password of a NUL-terminated packet, or None where it is no such thing or too long."""
    password, nul, rest = payload.partition(b"\0")
    if not nul or rest or not password or len(password) > PASSWORD_BYTES_MAX:
        return None
    return password


# What is stored --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What is kept instead of a password. `native` is None where that plugin is not allowed."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    native: bytes | None = field(repr=False)

    def check_password(self, password: bytes) -> bool:
        """Whether this is the password; takes about 50 ms, so call it off the event loop."""
        return hmac.compare_digest(_scrypt(password, self.salt), self.digest)

    @property
    def sha2(self) -> bytes:
        """The stored form of the salted part: version 1, 20 bytes of salt, 32 of digest."""
        return _SHA2_VERSION + self.salt + self.digest

    @classmethod
    def stored(cls, *, sha2: bytes, native: bytes) -> "Verifier":
        """A verifier read back: `sha2` as above, `native` 20 bytes or none.

        Raises VerifierError, which shows nothing of either.
        """
        if sha2[:1] != _SHA2_VERSION:
            raise VerifierError("the stored verifier of a password has an unknown version")
        if len(sha2) != 1 + SALT_SIZE + SHA256_SIZE or len(native) not in {0, SHA1_SIZE}:
            raise VerifierError("the stored verifier of a password is damaged")
        return cls(
            salt=sha2[1 : 1 + SALT_SIZE], digest=sha2[1 + SALT_SIZE :], native=native or None
        )


def make_verifier(password: bytes, *, salt: bytes, native: bool = True) -> Verifier:
    """The verifier of a password, with 20 random bytes of salt; takes about 50 ms.

    Raises VerifierError for a password that is empty, too long, or has a NUL in it.
    """
    assert len(salt) == SALT_SIZE
    if not password or b"\0" in password or len(password) > PASSWORD_BYTES_MAX:
        raise VerifierError(
            "the password is empty, has a NUL in it, or is longer than 256 bytes",
            hint="Choose another password.",
        )
    return Verifier(
        salt=salt,
        digest=_scrypt(password, salt),
        native=native_digest(password) if native else None,
    )


def _scrypt(password: bytes, salt: bytes) -> bytes:
    cost, block_size, parallel = _SCRYPT_COST
    return hashlib.scrypt(password, salt=salt, n=cost, r=block_size, p=parallel, dklen=SHA256_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user as authentication sees it.

    `fast_digest` is SHA256(SHA256(password)) where a full login happened before, else None. An
    unknown user gets an account that no password opens, so that the dialog is the same.
    """

    user: str
    verifier: Verifier | None = field(repr=False)
    fast_digest: bytes | None = field(default=None, repr=False)
