"""Greeting, handshake answer and the generic answers, against captured bytes and themselves."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.constants import SERVER_CAPABILITIES, Capability, ServerStatus
from kingbus.mysql.errors import BadHandshakeError, MySQLError, ProtocolError
from kingbus.mysql.messages import (
    Greeting,
    HandshakeResponse,
    SslRequest,
    decode_err,
    decode_handshake_response,
    encode_eof,
    encode_err,
    encode_ok,
    encode_result_end,
)

GREETING = bytes.fromhex(
    "0a392e372e342d3200120000005b586153405b6b3100ffffff0200ffdf1500000000000000000000"
    "2f6f06031b214a0d57445f670063616368696e675f736861325f70617373776f726400"
)


def test_the_greeting_of_a_real_server_is_read_and_written_alike() -> None:
    """A captured greeting of MySQL 9.7 decodes to its fields and encodes to the same bytes."""
    greeting = Greeting.decode(GREETING)

    assert greeting.server_version == "9.7.4-2"
    assert greeting.thread_id == 18
    assert greeting.capabilities == 0xDFFFFFFF
    assert greeting.auth_plugin == "caching_sha2_password"
    assert greeting.salt == b"[XaS@[k1/o\x06\x03\x1b!J\rWD_g"
    assert greeting.encode() == GREETING


def test_our_greeting_offers_only_what_is_served() -> None:
    """Neither session tracking nor TLS is promised by default."""
    refused = (
        Capability.SSL
        | Capability.SESSION_TRACK
        | Capability.MULTI_STATEMENTS
        | Capability.LOCAL_FILES
    )

    assert not SERVER_CAPABILITIES & refused


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    user=texts,
    scramble=st.binary(max_size=32).filter(lambda data: b"\0" not in data),
    database=texts,
    plugin=texts,
    attributes=st.dictionaries(texts, texts, max_size=4),
    lenenc=st.booleans(),
    secure=st.booleans(),
)
def test_handshake_answers_round_trip(user, scramble, database, plugin, attributes, lenenc, secure):
    """The form follows the client's own flags, whichever they are."""
    flags = Capability.PROTOCOL_41 | Capability.CONNECT_WITH_DB | Capability.PLUGIN_AUTH
    flags |= Capability.CONNECT_ATTRS
    if lenenc:
        flags |= Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA
    if secure:
        flags |= Capability.SECURE_CONNECTION
    response = HandshakeResponse(
        capabilities=flags,
        user=user,
        auth_response=scramble,
        database=database,
        auth_plugin=plugin,
        attributes=attributes,
    )

    assert response == decode_handshake_response(response.encode())


def test_trailing_parts_may_be_missing() -> None:
    """Clients set flags for parts that they then leave out: nothing is required of them."""
    flags = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION
    bare = HandshakeResponse(capabilities=flags, user="repl", auth_response=b"x" * 20).encode()
    flags |= Capability.CONNECT_WITH_DB | Capability.PLUGIN_AUTH | Capability.CONNECT_ATTRS
    response = decode_handshake_response(flags.to_bytes(4, "little") + bare[4:])

    assert isinstance(response, HandshakeResponse)
    assert (response.user, response.database, response.auth_plugin) == ("repl", "", "")
    assert response.attributes == {}


def test_a_request_for_tls_is_told_from_an_answer() -> None:
    """32 bytes with the SSL flag are a request; the same flag in a longer packet is not."""
    flags = Capability.PROTOCOL_41 | Capability.SSL | Capability.SECURE_CONNECTION
    request = SslRequest(capabilities=flags, max_packet_size=1, charset=255)

    assert request == decode_handshake_response(request.encode())
    response = HandshakeResponse(capabilities=flags, user="u", auth_response=b"")
    assert response == decode_handshake_response(response.encode())


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00\x82", b"\x00\x00\x00\x00" + bytes(40), b"\x00\x82\x00\x00" + bytes(27) + b"abc"],
)
def test_broken_answers_are_a_bad_handshake(payload: bytes) -> None:
    """Cut, pre-4.1 and unterminated answers are one error, number 1043."""
    with pytest.raises(BadHandshakeError) as caught:
        decode_handshake_response(payload)

    assert (caught.value.code, caught.value.sqlstate) == (1043, "08S01")


@given(st.binary(max_size=120))
def test_random_answers_never_raise_anything_else(payload: bytes) -> None:
    """Garbage in place of an answer gives an answer or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        decode_handshake_response(payload)
    with contextlib.suppress(ProtocolError):
        Greeting.decode(payload)
    with contextlib.suppress(ProtocolError):
        decode_err(payload)


def test_generic_answers_are_the_captured_ones() -> None:
    """OK, EOF and the end of a result set, byte for byte."""
    assert encode_ok() == bytes.fromhex("00000002000000")
    assert encode_eof() == bytes.fromhex("fe00000200")
    assert encode_eof(ServerStatus(0)) == bytes.fromhex("fe00000000")
    assert encode_result_end() == bytes.fromhex("fe000002000000")


def test_error_text_is_cut_at_511_bytes_between_characters() -> None:
    """No more is sent than clients keep, and no character is cut in two."""
    error = MySQLError(1236, "HY000", "ä" * 300)
    payload = encode_err(error)

    assert payload[:9] == b"\xff\xd4\x04#HY000"
    assert payload[9:].decode() == "ä" * 255
    assert decode_err(payload).message == "ä" * 255


def test_an_error_before_the_greeting_has_no_sqlstate() -> None:
    """A client cannot yet know the form with one and would show it as text."""
    error = MySQLError(1040, "08004", "Too many connections")

    assert encode_err(error, with_sqlstate=False) == b"\xff\x10\x04Too many connections"
