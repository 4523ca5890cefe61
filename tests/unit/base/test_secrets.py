"""The cluster key and the values that never print."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.pb import command_pb2
from kingbus.secrets import (
    ClusterSecret,
    Secret,
    SecretError,
    WrongKeyError,
    read_secret_file,
)


@given(st.text(max_size=200), st.sampled_from(["a", "source-password"]))
def test_what_is_sealed_opens_with_the_same_key_and_purpose_only(text: str, purpose: str) -> None:
    """Seal and open are inverse; another key or another purpose is refused."""
    secret = ClusterSecret.generate()
    sealed = secret.seal(text, purpose)

    assert secret.open(sealed, purpose) == text
    with pytest.raises(WrongKeyError):
        secret.open(sealed, purpose + "x")
    with pytest.raises(WrongKeyError):
        ClusterSecret.generate().open(sealed, purpose)


def test_a_changed_sealed_text_is_refused() -> None:
    """A flipped bit of the ciphertext, or a nonce of the wrong size, is a wrong key error."""
    secret = ClusterSecret.generate()
    sealed = secret.seal("hello", "p")
    for changed in (
        command_pb2.Sealed(
            key_id=sealed.key_id,
            nonce=sealed.nonce,
            ciphertext=bytes([sealed.ciphertext[0] ^ 1]) + sealed.ciphertext[1:],
        ),
        command_pb2.Sealed(key_id=sealed.key_id, nonce=b"", ciphertext=sealed.ciphertext),
    ):
        with pytest.raises(WrongKeyError):
            secret.open(changed, "p")


def test_a_stored_key_is_private_and_reads_back(tmp_path: Path) -> None:
    """The key file has mode 0600, holds the key, and a wider mode is refused."""
    path = tmp_path / "cluster.key"
    secret = ClusterSecret.generate()
    secret.store(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert ClusterSecret.load(path) == secret
    path.chmod(0o640)
    with pytest.raises(SecretError, match="readable by other users"):
        ClusterSecret.load(path)


@pytest.mark.parametrize("content", [b"", b"zz", b"00" * 31, b"\xff" * 10])
def test_a_malformed_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    """Whatever is not a key gives one error that names the file."""
    path = tmp_path / "cluster.key"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(SecretError, match=r"cluster\.key"):
        ClusterSecret.load(path)


def test_the_announced_check_tells_the_right_key_from_others() -> None:
    """The announced check verifies with its key and no other, even under a forged id."""
    secret = ClusterSecret.generate()
    announced = secret.announce()
    secret.verify(announced)

    other = ClusterSecret(key_id=secret.key_id, key=ClusterSecret.generate().key)
    with pytest.raises(WrongKeyError):
        other.verify(announced)


def test_secrets_do_not_print() -> None:
    """Neither the text of a Secret nor the key shows in repr, str or format."""
    secret = Secret("hunter2")
    key = ClusterSecret.generate()

    for text in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert "hunter2" not in text
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)


def test_a_password_file_is_its_first_line(tmp_path: Path) -> None:
    """The line end is not part of the password; spaces are."""
    path = tmp_path / "password"
    path.write_bytes(b" pass word \r\nsecond")

    assert read_secret_file(path).reveal() == " pass word "
    with pytest.raises(SecretError, match="No such file"):
        read_secret_file(tmp_path / "none")
