"""A relay that pulls from a relay: what is served can be ingested, whatever was cut off where."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.command import encode
from kingbus.binlog.ingest import IngestStream
from kingbus.replication.dump import DumpRequest
from tests.support.relay_feed import Feed, history, steps
from tests.support.relay_logs import UUID_A, batch_command
from tests.support.relay_node import RelayNode, Replica, by_position

RELAY_UUID = bytes(range(16))


def visible_bytes(node: RelayNode) -> list[tuple[str, bytes]]:
    """Name and content of every file, as served from the start but for the names in ROTATEs."""
    replica = trio.run(node.dump, by_position())
    files: list[tuple[str, bytes]] = []
    for kind, event in zip(replica.kinds, replica.events, strict=True):
        if kind.startswith("rotate*"):
            files.append((kind.split()[1].rsplit(":", 1)[0], b""))
        elif kind.isdecimal():
            name, content = files[-1]
            files[-1] = (name, content + event)
    return files


def pull(upstream: RelayNode, relay: RelayNode, data: st.DataObject, *, whole: bool) -> None:
    """One session, which a cut connection or a lost leadership ends anywhere."""
    relay.session(uuid=RELAY_UUID)
    point = relay.relay.state.resume_point()
    if point.by_position:
        request = by_position(point.file_name, point.dump_position)
    else:
        request = DumpRequest(
            kind="gtid", gtid_set=point.executed.copy(), non_blocking=True, checksum="CRC32"
        )
    replica: Replica = trio.run(upstream.dump, request)
    assert replica.refusal is None
    raw = bytes(replica.raw)
    stream = IngestStream(point, batch_bytes=data.draw(st.sampled_from((64, 300, 1 << 20))))
    end = len(raw) if whole else data.draw(st.integers(0, len(raw)))
    lost_after = None if whole else data.draw(st.none() | st.integers(0, 5))
    at, proposed = 0, 0
    while at < end:
        step = end if whole else data.draw(st.integers(1, 600))
        stream.receive(raw[at : min(at + step, end)])
        at += step
        for batch in stream.take(idle=whole or data.draw(st.booleans())):
            if proposed != lost_after:
                before = relay.relay.state.next_sequence
                relay.command(batch_command(batch.meta), batch.packets)
                assert relay.relay.state.next_sequence == before + 1, "accepted"
                proposed += 1
            else:
                return


@given(actions=steps, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_relay_of_a_relay_holds_the_same(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """Every file byte for byte, after sessions that ended anywhere while the log grew.

    A pull by GTID set may begin behind files without anything new, as at a real source, and leave
    the end of a file that repeats transactions of another one; no transaction is lost by it.
    """
    feed: Feed = history(actions)
    relay = RelayNode()
    for _ in range(data.draw(st.integers(0, 4))):
        pull(feed.node, relay, data, whole=False)
        if data.draw(st.booleans()):
            feed.commit(3, 30)
            feed.send(20)
    feed.commit(1)
    feed.send_all()
    pull(feed.node, relay, data, whole=True)

    held, upstream = visible_bytes(relay), visible_bytes(feed.node)
    assert relay.relay.state.executed == feed.node.relay.state.executed
    if not any(kind == "failover" and copied for kind, copied in actions):
        assert held == upstream[len(upstream) - len(held) :]
    else:
        whole = dict(upstream)
        assert all(whole[name].startswith(content) for name, content in held)
        assert held[-1] == upstream[-1]
    relay.restart()
    assert visible_bytes(relay) == held


def test_an_upstream_batch_command_is_what_the_receiver_proposes() -> None:
    """The entry holds the packets behind the meta, so that what was ingested is what is served."""
    feed = history([("commit", [5]), ("send", 100)])
    relay = RelayNode()
    relay.session(uuid=UUID_A)
    point = relay.relay.state.resume_point()
    request = DumpRequest(
        kind="gtid", gtid_set=point.executed.copy(), non_blocking=True, checksum="CRC32"
    )
    stream = IngestStream(point)
    stream.receive(bytes(trio.run(feed.node.dump, request).raw))
    (batch,) = stream.take(idle=True)

    relay.commit(encode(batch_command(batch.meta), batch.packets))

    assert relay.relay.state.visible.position == feed.node.relay.state.visible.position
