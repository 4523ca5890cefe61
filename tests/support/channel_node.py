"""A named channel of a relay node, with a receiver's hand on it."""

from kingbus.binlog.command import encode
from kingbus.pb.command_pb2 import Channel, Command, Purge
from tests.support.relay_node import RELAY_ID, RelayNode

_OF_A_CHANNEL = ("event_batch", "receiver_session", "source_config", "server_config", "purge")


class ChannelNode(RelayNode):
    """The channel of that number; its entries are those of the node that it is a part of."""

    def __init__(self, node: RelayNode, number: int) -> None:
        self.node = node
        self.channel = number
        self.database = node.database
        self.log = node.log
        self.server_id = RELAY_ID
        self.cutter = None
        self.relay = node.relay.channels[number]

    def restart(self) -> None:
        """Of the whole node; other channels of it are to be taken anew."""
        self.node.restart()
        self.relay = self.node.relay.channels[self.channel]

    def commit(self, *data: bytes) -> None:
        self.node.commit(*data)

    def command(self, command: Command, packets: bytes = b"") -> None:
        self.commit(encode(of_channel(command, self.channel), packets))


def of_channel(command: Command, channel: int) -> Command:
    """The same command for a channel."""
    kind = command.WhichOneof("kind")
    assert kind in _OF_A_CHANNEL, kind
    getattr(command, kind).channel = channel
    return command


def add_channel(node: RelayNode, name: str) -> ChannelNode:
    """The next channel of a node."""
    number = len(node.relay.state.channels) + 1
    node.command(Command(channel=Channel(number=number, name=name)))
    return ChannelNode(node, number)


def cut(
    node: RelayNode, *, first_index: int = 0, description: bytes = b"", mark: bool = False
) -> None:
    """What the purger proposes for a channel whose open file is to give way, now or later."""
    index = first_index or len(node.log.entries) + 1
    described = description or b"described"
    purge = Purge(channel=node.channel, first_index=index, description=described, mark=mark)
    node.command(Command(purge=purge))
