"""When what serves a channel on a node comes into being."""

from pathlib import Path

from kingbus.daemon.watched import Watched
from kingbus.storage.state_store import StateStore
from tests.support.channel_node import add_channel
from tests.support.relay_logs import binlog
from tests.support.relay_node import Applied
from tests.unit.replication.test_channels import Inert, transferred


async def test_a_channel_is_noticed_behind_a_snapshot_that_had_its_state(tmp_path: Path) -> None:
    """The log begins before the channel was added, the channel's state in it is of later: who
    waits for changes is woken when the log comes to the channel, as on any other member."""
    old, new = Inert(tmp_path / "old"), Inert(tmp_path / "new")
    old.node.hold(binlog(1, range(1, 3)))
    one = add_channel(old.node, "one")
    one.hold(binlog(1, range(1, 3)))
    index = await transferred(old, new)
    relay = new.node.relay
    watched = Watched(relay, 1)
    assert not relay.named
    assert relay.channels
    waits_for = watched.changed
    for entry in old.node.log.entries[index:]:
        was_there = bool(relay.named)
        watched.apply(Applied(entries=[entry]))
        if relay.named and not was_there:
            assert waits_for.is_set()
        elif not relay.named:
            assert not waits_for.is_set()
    assert list(relay.named) == ["one"]
    for each in (old, new):
        assert isinstance(each.node.database, StateStore)
        each.node.database.close()
