"""Whether a relay's packet is the captured server's.

Owns the short list of what is left out of a comparison, in one place and with the reason; all other
bytes of every packet are compared.
"""

import re
from collections.abc import Callable
from enum import Enum

from kingbus.mysql.messages import Greeting
from tests.wire.capture import Line


class Answer(Enum):
    """To what a packet of the server is an answer."""

    GREETING = "the connection"
    LOGIN = "a packet of the login"
    COMMAND = "a command"
    DUMP = "a dump command"


def difference(captured: Line, payload: bytes, answer: Answer) -> str:
    """What of the relay's packet is not as captured; "" when all is."""
    expected, got = captured.payload, payload
    if captured.is_cut:
        # The capture has only the begin of a packet of 16 MiB, and its length.
        if captured.length != len(payload):
            return f"{len(payload)} bytes where {captured.length} are due"
        got = payload[: len(expected)]
    for change in _LEFT_OUT[answer]:
        expected, got = change(expected), change(got)
    return "" if expected == got else f"{got!r} where {expected!r} is due"


def _greeting(payload: bytes) -> bytes:
    """Salt and thread id are new for every connection."""
    greeting = Greeting.decode(payload)
    said = (
        greeting.server_version,
        hex(greeting.capabilities),
        greeting.charset,
        greeting.status,
        greeting.auth_plugin,
    )
    return repr(said).encode()


def _key(payload: bytes) -> bytes:
    """Each server has an RSA key of its own; its form and length are the same."""
    if b"-----BEGIN PUBLIC KEY-----" not in payload:
        return payload
    return re.sub(rb"[A-Za-z0-9+/]{4,}", lambda text: b"x" * len(text[0]), payload)


def _switch(payload: bytes) -> bytes:
    """A request for another plugin repeats the greeting's salt."""
    if payload[:1] != b"\xfe" or len(payload) < 22:
        return payload
    return payload[:-21]


def _host(payload: bytes) -> bytes:
    """The captured server looked up the client's name; a relay has addresses only."""
    return re.sub(rb"(?<='@')[^']*(?=')", b"HOST", payload)


def _column(payload: bytes) -> bytes:
    """Of a column its name, whether it holds numbers or text, and whether that is binary.

    Servers of different versions describe the same value with other lengths, character sets, flags
    and origins; no client of these dialogs looks at them.
    """
    if payload[:4] != b"\x03def":
        return payload
    fields, at = [], 0
    while len(fields) < 6:
        size = payload[at]
        fields.append(payload[at + 1 : at + 1 + size])
        at += 1 + size
    is_number, is_binary = payload[at + 7] in {3, 8}, payload[at + 1] == 63
    return repr((fields[4], is_number, is_binary)).encode()


def _no_index_used(payload: bytes) -> bytes:
    """EOF with the flags of MySQL's optimizer: a server says that no index was of use."""
    if payload[:1] != b"\xfe" or len(payload) not in {5, 7}:
        return payload
    return payload[:3] + bytes((payload[3] & ~0x30,)) + payload[4:]


_LEFT_OUT: dict[Answer, tuple[Callable[[bytes], bytes], ...]] = {
    Answer.GREETING: (_greeting,),
    Answer.LOGIN: (_key, _switch, _host),
    Answer.COMMAND: (_host, _column, _no_index_used),
    Answer.DUMP: (),
}
