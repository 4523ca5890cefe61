"""The Prometheus metrics of a node: every name is declared here, drivers import and set them.

They live in a registry of their own, so that nothing but kingbus's facts (and those of its
process) is exported, and so that a test can read one value with `value`. A name is
`kingbus_<layer>_<what>_<unit>`; counters end in `_total`, as Prometheus asks. This module knows
no layer; it must not import one.
"""

import contextlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


# The node itself.
BUILD_INFO = _gauge("kingbus_build_info", "1, labelled with the program's version.", ("version",))
READY = _gauge("kingbus_ready", "1 while /ready answers 200.")

LOOP_TURN_SECONDS = Histogram(
    "kingbus_loop_turn_seconds",
    "Turns of the event loop that took 5 ms or more: nobody else is heard meanwhile.",
    buckets=(0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1),
    registry=REGISTRY,
)
LOOP_TURN_LONGEST_SECONDS = _gauge(
    "kingbus_loop_turn_longest_seconds", "The longest turn of the event loop since the start."
)

# receiver: pulls from the source, on the leader only.
RECEIVER_EVENTS = _counter("kingbus_receiver_events_total", "Events read from the source.")
RECEIVER_BYTES = _counter("kingbus_receiver_bytes_total", "Bytes read from the source.")
RECEIVER_BATCHES = _counter("kingbus_receiver_batches_total", "Batches proposed.")
RECEIVER_SESSIONS = _counter("kingbus_receiver_sessions_total", "Sessions begun.")
RECEIVER_CHECKSUM_MISMATCHES = _counter(
    "kingbus_receiver_checksum_mismatches_total", "Events whose CRC32 was wrong on arrival."
)
RECEIVER_OPEN_TRANSACTION_BYTES = _gauge(
    "kingbus_receiver_open_transaction_bytes", "Bytes of the transaction still arriving."
)
RECEIVER_STATUS = _gauge(
    "kingbus_receiver_status",
    "1 for the state that the receiver is in, 0 for the others.",
    ("status",),
)
RECEIVER_STATES = ("stopped", "connecting", "running", "error")
RECEIVER_LAST_EVENT_TIME = _gauge(
    "kingbus_receiver_last_event_timestamp_seconds", "Timestamp of the newest event read."
)
RECEIVER_SEMI_SYNC_ACTIVE = _gauge(
    "kingbus_receiver_semi_sync_active",
    "1 while the source sends semi-sync's form, so that it is acknowledged what is committed.",
)
RECEIVER_SEMI_SYNC_ASKED = _counter(
    "kingbus_receiver_semi_sync_asked_total",
    "Transactions for which the source asked for an acknowledgement.",
)
RECEIVER_SEMI_SYNC_ACKS = _counter(
    "kingbus_receiver_semi_sync_acks_total",
    "Acknowledgements sent to the source; one tells of everything before it.",
)

# the receivers of named channels; those of the default channel are the ones above.
CHANNEL_RECEIVER_STATUS = _gauge(
    "kingbus_channel_receiver_status",
    "1 for the state that the receiver of a named channel is in, 0 for the others.",
    ("channel", "status"),
)
CHANNEL_RECEIVER_EVENTS = _counter(
    "kingbus_channel_receiver_events_total",
    "Events read from the source of a named channel.",
    ("channel",),
)
CHANNEL_RECEIVER_BYTES = _counter(
    "kingbus_channel_receiver_bytes_total",
    "Bytes read from the source of a named channel.",
    ("channel",),
)
CHANNEL_RECEIVER_BATCHES = _counter(
    "kingbus_channel_receiver_batches_total", "Batches of a named channel proposed.", ("channel",)
)
CHANNEL_RECEIVER_SESSIONS = _counter(
    "kingbus_channel_receiver_sessions_total", "Sessions of a named channel begun.", ("channel",)
)
CHANNEL_RECEIVER_CHECKSUM_MISMATCHES = _counter(
    "kingbus_channel_receiver_checksum_mismatches_total",
    "Events of a named channel whose CRC32 was wrong on arrival.",
    ("channel",),
)
CHANNEL_RECEIVER_OPEN_TRANSACTION_BYTES = _gauge(
    "kingbus_channel_receiver_open_transaction_bytes",
    "Bytes of the transaction of a named channel that is still arriving.",
    ("channel",),
)
CHANNEL_RECEIVER_LAST_EVENT_TIME = _gauge(
    "kingbus_channel_receiver_last_event_timestamp_seconds",
    "Timestamp of the newest event of a named channel read.",
    ("channel",),
)
CHANNEL_RECEIVER_SEMI_SYNC_ACTIVE = _gauge(
    "kingbus_channel_receiver_semi_sync_active",
    "1 while the source of a named channel sends semi-sync's form.",
    ("channel",),
)

CHANNEL_RECEIVER_SEMI_SYNC_ASKED = _counter(
    "kingbus_channel_receiver_semi_sync_asked_total",
    "Transactions for which the source of a named channel asked for an acknowledgement.",
    ("channel",),
)
CHANNEL_RECEIVER_SEMI_SYNC_ACKS = _counter(
    "kingbus_channel_receiver_semi_sync_acks_total",
    "Acknowledgements sent to the source of a named channel.",
    ("channel",),
)

# raft: what node/ sees.
RAFT_TERM = _gauge("kingbus_raft_term", "Current term.")
RAFT_IS_LEADER = _gauge("kingbus_raft_is_leader", "1 on the leader.")
RAFT_HAS_LEADER = _gauge("kingbus_raft_has_leader", "1 while a leader is known.")
RAFT_COMMITTED_INDEX = _gauge("kingbus_raft_committed_index", "Last committed log index.")
RAFT_APPLIED_INDEX = _gauge("kingbus_raft_applied_index", "Last applied log index.")
RAFT_UNCOMMITTED_BYTES = _gauge(
    "kingbus_raft_uncommitted_bytes", "Bytes proposed and not committed yet."
)
RAFT_PROPOSALS_DROPPED = _counter(
    "kingbus_raft_proposals_dropped_total", "Proposals refused for want of room or leader."
)

# storage: log segments and the database.
STORAGE_BYTES = _gauge("kingbus_storage_bytes", "Bytes held by log segments.")
STORAGE_RESERVE_BYTES = _gauge("kingbus_storage_reserve_bytes", "Configured reserve-data-size.")
STORAGE_DISK_FULL = _gauge(
    "kingbus_storage_disk_full", "1 while the disk has no room and this node takes nothing new."
)
STORAGE_FSYNC_SECONDS = Histogram(
    "kingbus_storage_fsync_seconds",
    "Time of one gathered write with its fdatasync.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=REGISTRY,
)

STORAGE_INDEX_BYTES = _gauge(
    "kingbus_storage_index_bytes",
    "What of the reserve is the index's: what it takes, or its share if that is more.",
)

# purger: what is kept, and for how long yet.
BINLOG_FILES = _gauge("kingbus_binlog_files", "Binlog files held.")
BINLOG_FIRST_FILE = _gauge(
    "kingbus_binlog_first_file", "1, labelled with the oldest file held.", ("file",)
)
BINLOG_FIRST_INDEX = _gauge("kingbus_binlog_first_index", "Log index of the oldest file held.")
BINLOG_OLDEST_FILE_AGE_SECONDS = _gauge(
    "kingbus_binlog_oldest_file_age_seconds", "How long ago the oldest event held was written."
)
BINLOG_BYTES_UNTIL_PURGE = _gauge(
    "kingbus_binlog_bytes_until_purge",
    "What the log takes yet before the reserve makes the oldest file go.",
)
BINLOG_PURGES = _counter(
    "kingbus_binlog_purges_total", "Purges proposed by this node.", ("reason",)
)
REPLICA_BYTES_UNTIL_CUT_OFF = _gauge(
    "kingbus_replica_bytes_until_cut_off",
    "What the log takes yet before the reserve makes the file go that a replica needs next.",
    ("replica",),
)
REPLICA_UNACKNOWLEDGED_BYTES = _gauge(
    "kingbus_replica_unacknowledged_bytes",
    "What of the log a semi-sync replica that is attached here has not acknowledged.",
    ("replica",),
)

CHANNEL_BINLOG_FILES = _gauge(
    "kingbus_channel_binlog_files", "Binlog files of a named channel held.", ("channel",)
)
CHANNEL_REPLICA_BYTES_UNTIL_CUT_OFF = _gauge(
    "kingbus_channel_replica_bytes_until_cut_off",
    "kingbus_replica_bytes_until_cut_off for a replica of a named channel.",
    ("channel", "replica"),
)
CHANNEL_REPLICA_UNACKNOWLEDGED_BYTES = _gauge(
    "kingbus_channel_replica_unacknowledged_bytes",
    "kingbus_replica_unacknowledged_bytes for a replica of a named channel.",
    ("channel", "replica"),
)

# relay: what the applied log says.
RELAY_VISIBLE_BYTES = _counter("kingbus_relay_bytes_total", "Bytes of batches applied.")

# dump: what replicas are sent.
DUMP_CLIENTS = _gauge("kingbus_dump_clients", "Binlog dumps running.")
DUMP_BYTES = _counter("kingbus_dump_bytes_total", "Bytes sent by binlog dumps.")
DUMP_FILE_BYTES = _counter(
    "kingbus_dump_file_bytes_total",
    "Of kingbus_dump_bytes_total, those that went from the log's files to the sockets unread.",
)
DUMP_SEMI_SYNC_CLIENTS = _gauge(
    "kingbus_dump_semi_sync_clients",
    "Replicas that acknowledge what they have, of all channels together.",
)
DUMP_SEMI_SYNC_ACKS = _counter(
    "kingbus_dump_semi_sync_acks_total", "Acknowledgements that came from replicas."
)
DUMP_REFUSED = _counter("kingbus_dump_refused_total", "Dumps refused with an error packet.")
DUMP_WORKERS = _gauge("kingbus_dump_workers", "Worker processes that perform binlog dumps.")
DUMP_WORKER_ENDS = _counter(
    "kingbus_dump_worker_ends_total", "Worker processes that ended and were started again."
)
SERVER_CONNECTIONS = _gauge("kingbus_server_connections", "Open replica-facing connections.")
SERVER_LOGIN_FAILURES = _counter("kingbus_server_login_failures_total", "Refused logins.")

# peers: what transport/ sees, per member name or id.
PEER_RTT_SECONDS = _gauge("kingbus_peer_rtt_seconds", "Round trip to a peer.", ("peer",))
PEER_DROPPED = _counter(
    "kingbus_peer_dropped_total", "Messages dropped, the queue being full.", ("peer",)
)
PEER_CLOCK_DIFFERENCE_SECONDS = _gauge(
    "kingbus_peer_clock_difference_seconds", "A peer's wall clock minus this node's.", ("peer",)
)
PEER_CONNECTED = _gauge("kingbus_peer_connected", "1 while a peer is connected.", ("peer",))

# archive: closed files in a store outside the cluster.
ARCHIVE_FILES_BEHIND = _gauge(
    "kingbus_archive_files_behind", "Closed files held and not archived yet."
)
ARCHIVE_LAST_SUCCESS = _gauge(
    "kingbus_archive_last_success_timestamp_seconds", "When this node archived a file last."
)
ARCHIVE_ERRORS = _counter("kingbus_archive_errors_total", "Tries to use the archive that failed.")
ARCHIVE_BYTES = _counter("kingbus_archive_bytes_total", "Bytes sent to the archive.")
ARCHIVE_READ_BYTES = _counter(
    "kingbus_archive_read_bytes_total", "Bytes of files read from the archive for dumps."
)

# admin: the HTTP API.
ADMIN_REQUESTS = _counter(
    "kingbus_admin_requests_total", "Admin requests answered.", ("method", "status")
)


class ReceiverMetrics:
    """Those of one channel's receiver: without a label where the channel has no name."""

    def __init__(self, channel: str = "") -> None:
        self._channel = channel
        if not channel:
            self.events, self.bytes = RECEIVER_EVENTS, RECEIVER_BYTES
            self.batches, self.sessions = RECEIVER_BATCHES, RECEIVER_SESSIONS
            self.checksum_mismatches = RECEIVER_CHECKSUM_MISMATCHES
            self.open_transaction_bytes = RECEIVER_OPEN_TRANSACTION_BYTES
            self.last_event_time = RECEIVER_LAST_EVENT_TIME
            self.semi_sync_active = RECEIVER_SEMI_SYNC_ACTIVE
            self.semi_sync_asked = RECEIVER_SEMI_SYNC_ASKED
            self.semi_sync_acks = RECEIVER_SEMI_SYNC_ACKS
            return
        self.events = CHANNEL_RECEIVER_EVENTS.labels(channel)
        self.bytes = CHANNEL_RECEIVER_BYTES.labels(channel)
        self.batches = CHANNEL_RECEIVER_BATCHES.labels(channel)
        self.sessions = CHANNEL_RECEIVER_SESSIONS.labels(channel)
        self.checksum_mismatches = CHANNEL_RECEIVER_CHECKSUM_MISMATCHES.labels(channel)
        self.open_transaction_bytes = CHANNEL_RECEIVER_OPEN_TRANSACTION_BYTES.labels(channel)
        self.last_event_time = CHANNEL_RECEIVER_LAST_EVENT_TIME.labels(channel)
        self.semi_sync_active = CHANNEL_RECEIVER_SEMI_SYNC_ACTIVE.labels(channel)
        self.semi_sync_asked = CHANNEL_RECEIVER_SEMI_SYNC_ASKED.labels(channel)
        self.semi_sync_acks = CHANNEL_RECEIVER_SEMI_SYNC_ACKS.labels(channel)

    def status(self, status: str) -> Gauge:
        """1 while the receiver is in that state."""
        if not self._channel:
            return RECEIVER_STATUS.labels(status)
        return CHANNEL_RECEIVER_STATUS.labels(self._channel, status)


class SemiSyncMetrics:
    """Of the replicas that acknowledge to one channel; each channel has its own, and its listener.

    A replica of several channels has one uuid, and is measured at each of them.
    """

    def __init__(self, channel: str = "") -> None:
        self._labels = (channel,) if channel else ()
        self._bytes = (
            CHANNEL_REPLICA_UNACKNOWLEDGED_BYTES if channel else REPLICA_UNACKNOWLEDGED_BYTES
        )
        self._clients = 0

    def clients(self, count: int) -> None:
        """So many are there now."""
        DUMP_SEMI_SYNC_CLIENTS.inc(count - self._clients)
        self._clients = count

    def measure(self, replica: str, unacknowledged: Callable[[], float]) -> None:
        """`unacknowledged` gives the bytes whenever somebody looks."""
        self._bytes.labels(*self._labels, replica).set_function(unacknowledged)

    def forget(self, replica: str) -> None:
        """It is gone."""
        with contextlib.suppress(KeyError):
            self._bytes.remove(*self._labels, replica)


def semi_sync_is_active(channel: str = "") -> bool:
    """Whether this node acknowledges to the source of that channel."""
    if not channel:
        return bool(value("kingbus_receiver_semi_sync_active"))
    return bool(value("kingbus_channel_receiver_semi_sync_active", channel=channel))


def exposition() -> bytes:
    """Everything in Prometheus's text format, as `CONTENT_TYPE` says."""
    return generate_latest(REGISTRY)


def value(name: str, **labels: str) -> float:
    """The present value of one sample, 0.0 where nothing was recorded yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def names() -> list[str]:
    """The exported names of kingbus's own metrics, in order, counters with their `_total`."""
    return [
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("kingbus_")
    ]
