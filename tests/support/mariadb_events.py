"""Binlog files as MariaDB 10.11 and 11.8 write them, for the tests that need no server."""

from dataclasses import replace

from kingbus.binlog import artificial
from kingbus.binlog.checksum import CRC_BYTES
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.mariadb import STANDALONE, fake_gtid_list
from kingbus.binlog.mariadb_gtid import Position, key_of, split_key
from kingbus.crc import crc32
from tests.support.events import BinlogFile, Stored, query

MARIADB = "10.11.19-MariaDB-log"
EVENT_TYPES = 171
TRANSACTIONAL = 0x0C
DDL = 0x29
ANNOTATE = (EventType.ANNOTATE_ROWS, b"INSERT INTO t VALUES (1)")
TABLE_MAP = (EventType.TABLE_MAP, b"t" * 30)
ROWS = (EventType.WRITE_ROWS_V1, b"r" * 40)
XID = (EventType.XID, bytes(8))


class MariaDBFile(BinlogFile):
    """FORMAT_DESCRIPTION, GTID_LIST, BINLOG_CHECKPOINT, then what is added.

    `gathered`: as 11.8 does, of a group's events only the first and the last say where they end.
    """

    def __init__(self, name="mdb-bin.000001", *, crc=True, created=1_700_000_000, gathered=False):
        super().__init__(name, version=MARIADB, crc=crc, created=created)
        self.gathered = gathered

    def format_description(self):
        body = b"\4\0" + self.version.encode().ljust(50, b"\0") + self.created.to_bytes(4, "little")
        body += b"\x13" + bytes(EVENT_TYPES) + bytes((self.crc,))
        size = 19 + len(body) + 4
        event = artificial.build_event(
            EventType.FORMAT_DESCRIPTION,
            body,
            server_id=1,
            crc=True,
            timestamp=self.created,
            log_pos=self.position + size,
        )
        self.events.append(Stored(event, self.position, self.position + size))
        self.position += size
        return self

    def gtid_list(self, gtids=None):
        """The last number of each domain and server; an empty one is padded, as MariaDB does."""
        entries = [
            domain.to_bytes(4, "little") + server.to_bytes(4, "little") + last.to_bytes(8, "little")
            for key, _, _, last in (gtids or GtidSet()).runs()
            for domain, server in [split_key(key)]
        ]
        return self.add(
            EventType.GTID_LIST, len(entries).to_bytes(4, "little") + (b"".join(entries) or b"\0\0")
        )

    def checkpoint(self):
        name = self.name.encode()
        return self.add(EventType.BINLOG_CHECKPOINT, len(name).to_bytes(4, "little") + name)

    def begin(self, gtids=None):
        return self.format_description().gtid_list(gtids).checkpoint()

    def group(self, domain, server, number, parts, *, flags=TRANSACTIONAL, closed=True):
        """A GTID event and what belongs to it."""
        body = number.to_bytes(8, "little") + domain.to_bytes(4, "little") + bytes((flags,))
        body += bytes(8) if flags & 2 else bytes(6)
        which, self.transactions = self.transactions, self.transactions + 1
        self.time += 1
        size = 19 + len(body) + self.crc_bytes
        event = artificial.build_event(
            EventType.GTID_MARIADB,
            body,
            server_id=server,
            crc=self.crc,
            timestamp=self.time,
            log_pos=self.position + size,
            flags=8,
        )
        self.events.append(
            Stored(
                event,
                self.position,
                self.position + size,
                transaction=which,
                begins=True,
                gtid=(key_of(domain, server), "", number),
            )
        )
        self.position += size
        for at, (type_, part) in enumerate(parts, 1):
            self.add(type_, part, transaction=which, ends=closed and at == len(parts))
            if self.gathered and at < len(parts):
                self._leave_position_out()
        return self

    def _leave_position_out(self):
        last = self.events[-1]
        event = bytearray(last.event)
        event[13:17] = bytes(4)
        if self.crc:
            event[-CRC_BYTES:] = crc32(event[:-CRC_BYTES]).to_bytes(CRC_BYTES, "little")
        self.events[-1] = replace(last, event=bytes(event))

    def begun_inside(self, position, had):
        """A dump by GTID that the source's index lets begin there, for who has `had`."""
        rotate, description = list(self.sent_from(position))[:2]
        told = fake_gtid_list(Position.of(had), position, server_id=1, crc=self.crc)
        return [rotate, description, told, *(e.event for e in self.events if e.start >= position)]

    def insert(self, number, *, domain=0, server=1, annotate=True):
        """One row in a transaction."""
        parts = [*([ANNOTATE] if annotate else []), TABLE_MAP, ROWS, XID]
        return self.group(domain, server, number, parts)

    def ddl(self, number, *, domain=0, server=1):
        """A statement by itself."""
        parts = [(EventType.QUERY, query(b"CREATE TABLE t (a INT)"))]
        return self.group(domain, server, number, parts, flags=DDL)


def some_of_everything(name="mdb-bin.000001", *, first=1, gtids=None, crc=True, gathered=False):
    """Seven transactions, each of a kind of its own, and a checkpoint between two of them."""
    file = MariaDBFile(name, crc=crc, gathered=gathered).begin(gtids)
    file.ddl(first)
    file.insert(first + 1)
    file.checkpoint()
    file.insert(first + 2, annotate=False)
    # Not transactional: it ends in a statement. With a commit id: two bytes longer.
    commit = (EventType.QUERY, query(b"COMMIT"))
    file.group(0, 1, first + 3, [TABLE_MAP, ROWS, commit], flags=0)
    compressed = (EventType.QUERY_COMPRESSED, b"z" * 40)
    parts = [compressed, TABLE_MAP, (EventType.WRITE_ROWS_COMPRESSED_V1, b"c" * 30), XID]
    file.group(0, 1, first + 4, parts, flags=TRANSACTIONAL | 2)
    # An XA transaction is prepared in one group and committed by a statement in another.
    xa_end = (EventType.QUERY, query(b"XA END X'31',X'',1"))
    xa_parts = [TABLE_MAP, ROWS, xa_end, (EventType.XA_PREPARE, bytes(14))]
    file.group(0, 1, first + 5, xa_parts, flags=0x44)
    xa_commit = (EventType.QUERY, query(b"XA COMMIT X'31',X'',1"))
    return file.group(0, 1, first + 6, [xa_commit], flags=0x84 | STANDALONE)
