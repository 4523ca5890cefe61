"""What can be wrong with an event, and every way in which a source's stream ends.

`SourceError` is what the receiver catches: `fatal` says that an operator is needed (state
`error`), otherwise the receiver connects again.
"""

from typing import ClassVar

from kingbus.binlog.gtid import GtidSet
from kingbus.errors import KingbusError


class MalformedEventError(KingbusError):
    """An event whose bytes contradict themselves."""


class SourceError(KingbusError):
    """The source's stream cannot go on."""

    fatal: ClassVar[bool] = False


class StreamEndedError(SourceError):
    """The source ended the stream with an EOF packet; in a blocking dump a lost connection."""


class SourceErrorPacket(SourceError):  # noqa: N818 - it is the source's packet, not our error
    """The source ended the stream with an ERR packet."""

    def __init__(self, code: int, sqlstate: str, message: str) -> None:
        super().__init__(f"the source answered error {code} ({sqlstate}): {message}")
        self.code = code
        self.sqlstate = sqlstate
        self.message = message


class FatalSourceErrorPacket(SourceErrorPacket):
    """An ERR packet that comes again however often one asks: purged, unknown position, no right."""

    fatal = True


class ReplacedAtSourceError(SourceErrorPacket):
    """Another dump with the cluster's uuid took this one's place at the source."""

    hint = "A newer leader of this cluster pulls, or another server uses its uuid or server id."


class UnknownFileError(SourceErrorPacket):
    """The source does not have the file that the relay goes on from; ask it by GTID set."""


class SourceLostTailError(SourceError):
    """The source no longer has, or has otherwise, what the relay has stored from it."""

    fatal = True
    hint = (
        "The source lost the end of its binary log, by a crash or a restore. Compare "
        "gtid_executed of source and relay before pulling from it again."
    )


class BeginsInsideError(SourceError):
    """The source begins a file that the relay lacks behind its head: where its GTID index led to.

    MariaDB from 11.4 on does so; the head is to be asked for by position first.
    """

    def __init__(self, file_name: str, position: int) -> None:
        super().__init__(f"the source begins {file_name} at position {position}")
        self.file_name = file_name


class HeadReceivedError(SourceError):
    """Only a file's head was wanted, and it is here."""


class DifferentFileError(SourceError):
    """The source shows another file under a name that the relay holds; a new epoch begins."""


class ChecksumMismatchError(SourceError):
    """An event's CRC32 does not fit; nothing of it was taken."""


class GapError(SourceError):
    """The source's next file presupposes transactions that the relay does not have."""

    fatal = True
    hint = (
        "The source has purged them. Pull from a source that still has them, or accept that they "
        "are lost to every replica that lacks them: kingbus source accept-gap."
    )

    def __init__(self, missing: GtidSet) -> None:
        super().__init__(f"the source no longer has transactions that the relay lacks: {missing}")
        self.missing = missing


class AnonymousTransactionError(SourceError):
    """A transaction without a GTID came while the relay follows GTIDs."""

    fatal = True
    hint = "Set gtid_mode=ON at the source, and let every transaction have a GTID."


class MalformedStreamError(SourceError):
    """The stream contradicts itself: framing, sequence, positions or the shape of an event."""


class EventTooLargeError(SourceError):
    """An event of 16 MiB and more of a kind that has to be read whole."""

    fatal = True


class EncryptedStreamError(SourceError):
    """The source sends its binary log encrypted."""

    fatal = True
    hint = "Set encrypt_binlog=OFF at the source and begin a new binary log there."


class InconsistentTransactionError(SourceError):
    """Transactions do not begin and end where the events say; asking again would not help."""

    fatal = True


_SAME_REPLICA = 4052  # of MariaDB, which goes by server ids

_FATAL_CODES = frozenset(
    (
        1045,  # access denied
        1227,  # no REPLICATION SLAVE privilege
        1236,  # the source cannot serve what was asked for
        1773,  # malformed GTID set
        1862,  # password expired
        3118,  # account locked
    )
)


def error_packet(code: int, sqlstate: str, message: str) -> SourceError:
    """The error that an ERR packet in a dump means."""
    if code == 1236:
        lowered = message.lower()
        if "same server_uuid" in lowered:
            return ReplacedAtSourceError(code, sqlstate, message)
        if "position > file size" in lowered or "from impossible position" in lowered:
            return SourceLostTailError(
                "the relay has more of the source's file than the source itself: "
                f"error {code} ({sqlstate}): {message}"
            )
        if "could not find first log file name" in lowered:
            return UnknownFileError(code, sqlstate, message)
    if code == _SAME_REPLICA:
        return ReplacedAtSourceError(code, sqlstate, message)
    kind = FatalSourceErrorPacket if code in _FATAL_CODES else SourceErrorPacket
    return kind(code, sqlstate, message)
