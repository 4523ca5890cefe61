"""Passwords: both plugins, both sides, and what is stored."""

import pymysql._auth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.mysql import auth

passwords = st.binary(min_size=1, max_size=40).filter(lambda data: b"\0" not in data)
salts = st.binary(min_size=20, max_size=20).map(auth.make_salt)
KEY = auth.PrivateKey.generate()
SALT = auth.make_salt(bytes(range(20)))


@given(passwords, passwords, salts)
def test_native_passwords(password: bytes, other: bytes, salt: bytes) -> None:
    """A scramble opens exactly the digest of its password, and is what clients compute."""
    scramble = auth.native_scramble(password, salt)
    digest = auth.native_digest(password)

    assert scramble == pymysql._auth.scramble_native_password(password, salt)
    assert auth.check_native(scramble, salt, digest)
    assert auth.check_native(auth.native_scramble(other, salt), salt, digest) == (other == password)
    assert not auth.check_native(scramble[:-1], salt, digest)


@given(passwords, passwords, salts)
def test_sha2_fast_path(password: bytes, other: bytes, salt: bytes) -> None:
    """A scramble opens exactly the cached digest of its password."""
    scramble = auth.sha2_scramble(password, salt)
    digest = auth.sha2_fast_digest(password)

    assert scramble == pymysql._auth.scramble_caching_sha2(password, salt)
    assert auth.check_sha2_fast(scramble, salt, digest)
    assert auth.check_sha2_fast(auth.sha2_scramble(other, salt), salt, digest) == (
        other == password
    )
    assert not auth.check_sha2_fast(b"", salt, digest)


def test_empty_passwords_have_no_scramble() -> None:
    """Clients send nothing for an empty password, and nothing opens nothing."""
    assert auth.native_scramble(b"", SALT) == auth.sha2_scramble(b"", SALT) == b""
    assert not auth.check_native(b"", SALT, auth.native_digest(b""))


@settings(max_examples=20)
@given(passwords, salts)
def test_rsa_exchange(password: bytes, salt: bytes) -> None:
    """What a client encrypts with the public key and the salt is decrypted."""
    ciphertext = auth.encrypt_password(password, salt, KEY.public_pem)

    assert password == auth.decrypt_password(ciphertext, salt, KEY)


@given(st.binary(max_size=300))
def test_garbage_is_no_password(ciphertext: bytes) -> None:
    """Bytes that our key did not encrypt give None, nothing is raised."""
    assert auth.decrypt_password(ciphertext, SALT, KEY) is None


@pytest.mark.parametrize("payload", [b"", b"\0", b"abc", b"abc\0d", b"x" * 257 + b"\0"])
def test_cleartext_must_be_one_string(payload: bytes) -> None:
    """Empty, unterminated, trailing and overlong packets are no password."""
    assert auth.cleartext_password(payload) is None


def test_verifiers_are_stored_and_read_back() -> None:
    """The stored bytes bring back a verifier that opens with its password only."""
    verifier = auth.make_verifier(b"hunter2", salt=SALT)

    assert auth.Verifier.stored(sha2=verifier.sha2, native=verifier.native) == verifier
    assert b"hunter2" not in verifier.sha2
    assert repr(verifier) == "Verifier()"
    assert verifier.native == auth.native_digest(b"hunter2")
    assert verifier.check_password(b"hunter2")
    assert not verifier.check_password(b"hunter3")


def test_a_verifier_without_native_stays_so() -> None:
    """Users that no old replica needs have no unsalted hash stored."""
    verifier = auth.make_verifier(b"hunter2", salt=SALT, native=False)

    assert auth.Verifier.stored(sha2=verifier.sha2, native=b"").native is None


@pytest.mark.parametrize(
    ("sha2", "native"),
    [(b"", b""), (b"hunter2", b""), (b"\x02" + bytes(52), b""), (b"\x01" + bytes(52), b"hunter2")],
)
def test_damaged_verifiers_are_refused_without_showing_them(sha2: bytes, native: bytes) -> None:
    """The error names no part of what was stored."""
    with pytest.raises(auth.VerifierError) as caught:
        auth.Verifier.stored(sha2=sha2, native=native)

    assert "hunter2" not in caught.value.explain()


@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 257])
def test_impossible_passwords_are_refused(password: bytes) -> None:
    """What no client could send is not stored."""
    with pytest.raises(auth.VerifierError):
        auth.make_verifier(password, salt=SALT)


@given(st.binary(min_size=20, max_size=20))
def test_salts_have_no_nul(randomness: bytes) -> None:
    """The salt travels NUL-terminated in 7-bit bytes."""
    assert all(1 <= byte <= 127 for byte in auth.make_salt(randomness))
