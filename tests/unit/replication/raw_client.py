"""A client of a few lines that shows every packet, for what PyMySQL hides."""

from typing import Self

import trio

from kingbus.mysql import auth
from kingbus.mysql.constants import Capability
from kingbus.mysql.errors import MySQLError
from kingbus.mysql.messages import Greeting, HandshakeResponse, decode_err
from kingbus.mysql.packet import Packet, PacketReader, encode_payload

FLAGS = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH


class RawClient:
    """Packets in, packets out. Use as an asynchronous context manager, or close `stream`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.reader = PacketReader(payload_bytes_max=1 << 26)
        self.thread_id = 0

    async def packet(self) -> Packet | None:
        """The next packet, its sequence number checked; None at the end of the stream."""
        while (packet := self.reader.next_packet()) is None:
            data = await self.stream.receive_some(1 << 16)
            if not data:
                assert not self.reader.mid_payload, "the stream ends inside a packet"
                return None
            self.reader.feed(data)
        return packet

    async def payload(self) -> bytes:
        packet = await self.packet()
        assert packet is not None, "the server closed"
        return packet.payload

    async def error(self) -> MySQLError:
        payload = await self.payload()
        assert payload[:1] == b"\xff", payload
        return decode_err(payload)

    async def login(self, user: str, password: str) -> bytes:
        """Log in with the native plugin; the server's last word."""
        greeting = Greeting.decode(await self.payload())
        self.thread_id = greeting.thread_id
        response = HandshakeResponse(
            capabilities=FLAGS,
            user=user,
            auth_response=auth.native_scramble(password.encode(), greeting.salt),
            auth_plugin="mysql_native_password",
        )
        await self.stream.send_all(encode_payload(response.encode(), 1)[0])
        self.reader.expected_sequence = 2
        return await self.payload()

    async def send(self, payload: bytes) -> None:
        """Send a command; answers begin with number 1."""
        await self.stream.send_all(encode_payload(payload, 0)[0])
        self.reader.expected_sequence = 1

    async def execute(self, sql: str) -> bytes:
        """Send a query and give the first packet of its answer."""
        await self.send(b"\x03" + sql.encode())
        return await self.payload()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)
