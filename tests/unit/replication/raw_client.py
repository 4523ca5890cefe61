"""A client of a few lines that shows every packet, for what PyMySQL hides."""

import ssl
import zlib
from typing import Self

import trio
import zstandard

from kingbus.mysql import auth
from kingbus.mysql.constants import Capability
from kingbus.mysql.errors import MySQLError
from kingbus.mysql.messages import (
    Greeting,
    HandshakeResponse,
    SslRequest,
    decode_err,
    encode_auth_switch,
)
from kingbus.mysql.packet import Packet, PacketReader, encode_payload

FLAGS = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH


class Framed:
    """A stream inside compressed frames, as a client speaks them: by zlib and zstd themselves."""

    def __init__(self, stream: trio.abc.Stream, flags: Capability) -> None:
        self._stream = stream
        self._zlib = bool(flags & Capability.COMPRESS)
        self._buffer = bytearray()
        self._next = 0
        self.frames = 0
        self.compressed = 0

    async def send_all(self, data: bytes) -> None:
        """One frame: the first of a command."""
        body = zlib.compress(data) if self._zlib else zstandard.compress(data)
        header = len(body).to_bytes(3, "little") + b"\0" + len(data).to_bytes(3, "little")
        self._next = 1
        await self._stream.send_all(header + body)

    async def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some()
            if not data:
                assert not self._buffer, "the stream ends inside a frame"
                return b""
            self._buffer += data
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    async def receive_some(self, _max_bytes: int) -> bytes:
        header = await self._read(7)
        if not header:
            return b""
        assert header[3] == self._next & 0xFF, "the number of a frame"
        self._next += 1
        self.frames += 1
        body = await self._read(int.from_bytes(header[:3], "little"))
        size = int.from_bytes(header[4:], "little")
        if not size:
            return body
        self.compressed += 1
        data = zlib.decompress(body) if self._zlib else zstandard.decompress(body)
        assert len(data) == size
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class RawClient:
    """Packets in, packets out. Use as an asynchronous context manager, or close `stream`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: trio.SocketStream | trio.SSLStream | Framed = stream
        self._greeting: Greeting | None = None
        self._login_sequence = 1
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

    async def greeting(self) -> Greeting:
        """The server's first packet; asked for once, kept."""
        if self._greeting is None:
            self._greeting = Greeting.decode(await self.payload())
            self.thread_id = self._greeting.thread_id
        return self._greeting

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Ask for TLS and go on inside; the server is `localhost`."""
        offered = (await self.greeting()).capabilities
        assert offered & Capability.SSL
        request = SslRequest(capabilities=FLAGS | Capability.SSL, max_packet_size=0, charset=45)
        await self._say(request.encode())
        assert isinstance(self.stream, trio.SocketStream)
        self.stream = trio.SSLStream(
            self.stream, context, server_hostname="localhost", https_compatible=True
        )
        await self.stream.do_handshake()

    async def _say(self, payload: bytes) -> None:
        """A packet within the login."""
        data, self._login_sequence = encode_payload(payload, self._login_sequence)
        await self.stream.send_all(data)
        self.reader.expected_sequence = self._login_sequence

    async def _hear(self) -> bytes:
        packet = await self.packet()
        assert packet is not None, "the server closed"
        self._login_sequence = packet.sequence + 1
        return packet.payload

    async def login(
        self, user: str, password: str, *, plugin: str = "native", flags: Capability = FLAGS
    ) -> bytes:
        """Log in; the server's last word. `plugin` says which way, in words."""
        greeting = await self.greeting()
        scramble = auth.native_scramble if "native" in plugin else auth.sha2_scramble
        answer = scramble(password.encode(), greeting.salt)
        response = HandshakeResponse(
            capabilities=flags,
            user=user,
            auth_response=b"" if plugin.startswith("switched") else answer,
            auth_plugin="mysql_native_password" if "native" in plugin else "caching_sha2_password",
        )
        await self._say(response.encode())
        word = await self._hear()
        if plugin == "switched to native":
            assert word == encode_auth_switch("mysql_native_password", greeting.salt)
        elif plugin == "fast sha2":
            assert word == b"\x01\x03"
            return await self._hear()
        elif plugin == "full sha2":
            assert word == b"\x01\x04"
            answer = password.encode() + b"\0"
        else:
            return word
        await self._say(answer)
        return await self._hear()

    def start_frames(self, flags: Capability) -> Framed:
        """Everything behind the login is compressed if it was agreed on."""
        assert not isinstance(self.stream, Framed)
        self.stream = Framed(self.stream, flags)
        return self.stream

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
        with trio.move_on_after(0):
            await self.stream.aclose()
