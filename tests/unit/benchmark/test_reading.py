"""Where the reader that only counts bytes takes a dump to have ended."""

import socket
from contextlib import closing

import pytest

from tests.support.raw_reader import read_to_the_end

EOF_PACKET = b"\x05\0\0\x07\xfe\0\0\x02\0"


def test_a_dump_that_ends_is_read_up_to_its_eof_packet():
    """Also where the packet itself arrives in pieces."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(bytes(1000) + EOF_PACKET[:4])
        theirs.sendall(EOF_PACKET[4:])
        total, _ = read_to_the_end(ours, seconds=10)
    assert total == 1009


def test_a_dump_that_stays_open_ends_with_the_silence_after_what_is_expected():
    """Bytes that look like an end do not end it; what follows at once still counts."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(EOF_PACKET + bytes(1000) + EOF_PACKET)
        total, ended = read_to_the_end(ours, seconds=10, at_least=500)
    assert total == 1018
    assert ended > 0


def test_a_dump_that_stops_too_early_is_no_result():
    """Silent, or closed."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(bytes(100))
        with pytest.raises(TimeoutError):
            read_to_the_end(ours, seconds=0.05, at_least=101)
        theirs.close()
        with pytest.raises(AssertionError, match="cut after 0 bytes"):
            read_to_the_end(ours, seconds=10, at_least=101)
