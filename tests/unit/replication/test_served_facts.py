"""What a node says of itself to replicas, from the applied state."""

import pytest

from kingbus.binlog.command import encode
from kingbus.pb.command_pb2 import Command, ReceiverSession, SourceConfig
from kingbus.replication.receiver import ReceiverStatus
from kingbus.replication.served_facts import ServedFacts
from tests.support.relay_node import RelayNode
from tests.unit.replication.served_facts import MemoryAdministration


async def purge(*, to: str, before: float | None) -> None:
    raise AssertionError((to, before))


async def receiver() -> ReceiverStatus:
    return ReceiverStatus(status="stopped")


def facts_of(node: RelayNode) -> ServedFacts:
    return ServedFacts(
        cluster_id=1234,
        relay=node.relay,
        receiver=receiver,
        listening=lambda: None,
        hostname="relay-1",
        purge=purge,
        administration=MemoryAdministration(),
        until_purge=lambda _index: 0,
    )


@pytest.mark.parametrize(
    ("mode", "said", "answered"),
    [
        ("gtid", "ON", "ON"),
        ("", "", "ON"),
        ("position", "OFF", "OFF"),
        ("position", "", "OFF"),
        ("position", "OFF_PERMISSIVE", "OFF_PERMISSIVE"),
        ("position", "ON_PERMISSIVE", "ON_PERMISSIVE"),
        ("position", "ON", "ON_PERMISSIVE"),
    ],
)
async def test_replicas_are_told_a_gtid_mode_that_fits(mode: str, said: str, answered: str) -> None:
    """A replica compares it with its own, and ON promises dumps by set, which a relay that goes by
    positions does not give."""
    node = RelayNode()
    facts = facts_of(node)
    assert facts.gtid_mode == "ON"
    config = SourceConfig(addresses=["h:1"], mode=mode, started=True)
    node.commit(encode(Command(source_config=config)))
    assert facts.gtid_mode == ("OFF" if mode == "position" else "ON")
    told = await facts.receiver()
    assert told is not None
    assert told.auto_position == (mode != "position")
    begun = ReceiverSession(epoch=1, source_uuid="u", mode=mode, gtid_mode=said)
    node.commit(encode(Command(receiver_session=begun)))
    assert facts.gtid_mode == answered
