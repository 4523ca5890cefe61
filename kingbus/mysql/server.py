"""The server's side of one MySQL connection: bytes in, events out, bytes to send back.

Owns: the phases of a connection (greeting, login, commands, binlog dump), packet order, what may
be sent when, and how an authentication proceeds. Knows nothing of sockets, time, randomness, of
who the users are or what is answered to a command. Follows the manual's "Connection Lifecycle";
where clients differ from it, it follows what they were seen to send.

How to drive it: send `greeting()`. Then feed what arrives to `receive_data` and call `next_event`
until it says NEED_DATA (feed more) or PAUSED (an answer is owed). `Send` carries bytes to be sent
at once. A `ProtocolError` out of `next_event` ends the connection: send `send_error(error)`, close.

The login, event by event: `LoginRequest` is answered with `set_account`; then come `Send` events,
perhaps a `CheckPassword` answered with `password_checked`, at last `LoginAccepted`, answered with
`accept_login`, or `LoginRefused`, answered with `send_error`. An unknown user takes the same way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal

from kingbus.mysql import auth
from kingbus.mysql.commands import (
    AnyCommand,
    BinlogDump,
    BinlogDumpGtid,
    decode_command,
)
from kingbus.mysql.compression import ZSTD_LEVEL_DEFAULT, Codec, algorithm_of, codec
from kingbus.mysql.constants import (
    CACHING_SHA2_PASSWORD,
    COMMAND_PAYLOAD_BYTES_MAX,
    LOGIN_PAYLOAD_BYTES_MAX,
    MYSQL_NATIVE_PASSWORD,
    SERVER_CAPABILITIES,
    Capability,
    ServerStatus,
)
from kingbus.mysql.errors import (
    BadHandshakeError,
    MySQLError,
    ProtocolError,
    insecure_transport,
    old_client,
)
from kingbus.mysql.messages import (
    Greeting,
    HandshakeResponse,
    SslRequest,
    decode_handshake_response,
    encode_auth_more_data,
    encode_auth_switch,
    encode_eof,
    encode_err,
    encode_ok,
    encode_prepared,
)
from kingbus.mysql.packet import PacketReader, encode_payload
from kingbus.mysql.resultset import ResultSet

_FAST_AUTH_SUCCESS = b"\x03"
_PERFORM_FULL_AUTHENTICATION = b"\x04"
_REQUEST_PUBLIC_KEY = b"\x02"


class Phase(Enum):
    """Where a connection is. Those marked * wait for the driver, not for the client."""

    GREETING = auto()  # *
    LOGIN = auto()
    TLS = auto()  # *
    ACCOUNT = auto()  # *
    AUTH_SWITCH = auto()
    FULL_AUTH = auto()
    CHECK_PASSWORD = auto()  # *
    VERDICT = auto()  # *
    COMMAND = auto()
    ANSWER = auto()  # *
    DUMP = auto()
    FAILED = auto()  # *
    CLOSED = auto()


class Wait(Enum):
    """Why there is no event."""

    NEED_DATA = auto()
    PAUSED = auto()


NEED_DATA: Final = Wait.NEED_DATA
PAUSED: Final = Wait.PAUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Bytes to send to the client now."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRequested:
    """The client wants TLS: start it, handing `unread` to it first, then call `tls_started`."""

    unread: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """Who the client says it is; answered with `set_account`."""

    user: str
    database: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPassword:
    """A password to check against the account's verifier; answered with `password_checked`."""

    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAccepted:
    """The client is who it says. Answered with `accept_login`, or refused for another reason."""

    user: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRefused:
    """The client is not let in; answered with `send_error`.

    `error` is None for a wrong password or unknown user: the driver knows the host for the text.
    """

    user: str
    using_password: bool
    error: MySQLError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpInput:
    """A packet from a client in the middle of a dump (a semi-sync acknowledgement)."""

    payload: bytes


Event = (
    Send
    | TlsRequested
    | LoginRequest
    | CheckPassword
    | LoginAccepted
    | LoginRefused
    | DumpInput
    | AnyCommand
)


class ServerConnection:
    """One connection of a client to this source.

    `salt` is 20 random bytes without NUL, new for every connection; `rsa_key` serves the full path
    of caching_sha2_password without TLS; `offer_tls` is set only where a certificate is configured,
    `require_tls` refuses whoever does not take the offer, before any password is spoken of.
    """

    def __init__(
        self,
        *,
        server_version: str,
        thread_id: int,
        salt: bytes,
        rsa_key: auth.RsaKey,
        auth_plugin: str = CACHING_SHA2_PASSWORD,
        offer_tls: bool = False,
        require_tls: bool = False,
    ) -> None:
        assert auth_plugin in {CACHING_SHA2_PASSWORD, MYSQL_NATIVE_PASSWORD}
        offered = SERVER_CAPABILITIES
        if offer_tls:
            offered |= Capability.SSL
        self._greeting = Greeting(
            server_version=server_version,
            thread_id=thread_id,
            salt=salt,
            capabilities=offered,
            auth_plugin=auth_plugin,
        )
        assert offer_tls or not require_tls
        self._require_tls = require_tls
        self._rsa_key = rsa_key
        self._reader = PacketReader(payload_bytes_max=LOGIN_PAYLOAD_BYTES_MAX)
        self._sequence = 0
        self._tls = False
        self._response: HandshakeResponse | None = None
        self._account: auth.Account | None = None
        self._plugin = auth_plugin
        self._fast_path = False
        self._key_sent = False
        self._events: list[Event] = []
        self._read_dump_input = False
        self.phase = Phase.GREETING
        self.capabilities = Capability(0)
        self.status = ServerStatus.AUTOCOMMIT
        """What OK and EOF say of the session; the driver changes it with the session."""

    # Input -------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived. In a dump whose input nobody wants, it is dropped at once."""
        if self.phase is Phase.DUMP and not self._read_dump_input:
            return
        self._reader.feed(data)

    @property
    def mid_payload(self) -> bool:
        """Whether the client has begun a packet and not finished it."""
        return self._reader.mid_payload

    def next_event(self) -> Event | Wait:
        """The next event, NEED_DATA, or PAUSED while an answer is owed.

        Raises ProtocolError for bytes that no correct client sends; only `send_error` may follow.
        """
        if self._events:
            return self._events.pop(0)
        if self.phase is Phase.CLOSED:
            return NEED_DATA
        if self.phase in _WAITS_FOR_DRIVER:
            return PAUSED
        try:
            packet = self._reader.next_packet()
            if packet is None:
                return NEED_DATA
            self._sequence = (packet.sequence + 1) & 0xFF
            return self._packet(packet.payload)
        except ProtocolError:
            self.phase = Phase.FAILED
            raise

    def _packet(self, payload: bytes) -> Event | Wait:
        match self.phase:
            case Phase.LOGIN:
                return self._login(payload)
            case Phase.AUTH_SWITCH:
                self._check_scramble(payload)
            case Phase.FULL_AUTH:
                self._full_auth(payload)
            case Phase.COMMAND:
                self.phase = Phase.ANSWER
                self._reader.expected_sequence = 0
                return self._command(payload)
            case Phase.DUMP:
                self._reader.expected_sequence = 0
                return DumpInput(payload=payload)
            case _:
                raise AssertionError(self.phase)
        return self.next_event()

    def _command(self, payload: bytes) -> AnyCommand:
        assert self._response is not None
        return decode_command(
            payload, capabilities=self.capabilities, charset=self._response.charset
        )

    # Login -------------------------------------------------------------------------------------

    def greeting(self) -> bytes:
        """The first packet of the connection."""
        self._expect(Phase.GREETING)
        self.phase = Phase.LOGIN
        self._reader.expected_sequence = 1
        return self._frame(self._greeting.encode())

    def tls_started(self) -> None:
        """TLS is up; everything from here on came through it."""
        self._expect(Phase.TLS)
        self._tls = True
        self.phase = Phase.LOGIN

    def _login(self, payload: bytes) -> Event:
        response = decode_handshake_response(payload)
        if isinstance(response, SslRequest):
            if self._tls or not self._greeting.capabilities & Capability.SSL:
                raise BadHandshakeError("TLS was asked for but not offered")
            self.phase = Phase.TLS
            return TlsRequested(unread=self._reader.take_unread())
        self._response = response
        # Clients send flags that were never offered: only what both sides have is in force.
        self.capabilities = response.capabilities & self._greeting.capabilities
        if self._require_tls and not self._tls:
            self._refuse(insecure_transport())
            return self._events.pop(0)
        self.phase = Phase.ACCOUNT
        return LoginRequest(
            user=response.user, database=response.database, attributes=response.attributes
        )

    def set_account(self, account: auth.Account) -> None:
        """Go on with the login, against this account (one without verifier for an unknown user)."""
        self._expect(Phase.ACCOUNT)
        assert self._response is not None
        self._account = account
        response = self._response
        if not response.capabilities & Capability.PLUGIN_AUTH:
            # Such a client knows the native scramble only and cannot be asked to switch.
            if not response.capabilities & Capability.SECURE_CONNECTION:
                self._refuse(old_client())
                return
            self._plugin = MYSQL_NATIVE_PASSWORD
            self._check_scramble(response.auth_response)
        elif response.auth_plugin == MYSQL_NATIVE_PASSWORD:
            self._plugin = MYSQL_NATIVE_PASSWORD
            if response.auth_response:
                self._check_scramble(response.auth_response)
            elif self._greeting.auth_plugin == MYSQL_NATIVE_PASSWORD:
                self._refuse()
            else:
                # 5.6 and MariaDB replicas answer a greeting that names another plugin with no
                # scramble at all and wait to be asked.
                self._switch()
        elif response.auth_plugin == CACHING_SHA2_PASSWORD:
            self._plugin = CACHING_SHA2_PASSWORD
            self._check_scramble(response.auth_response)
        else:
            self._plugin = self._greeting.auth_plugin
            self._switch()

    def _switch(self) -> None:
        # The same salt as in the greeting: clients may have kept only that one.
        switch = encode_auth_switch(self._plugin, self._greeting.salt)
        self._reply(switch, then=Phase.AUTH_SWITCH)

    def _check_scramble(self, scramble: bytes) -> None:
        assert self._account is not None
        salt, account = self._greeting.salt, self._account
        if not scramble:
            self._refuse()
            return
        if self._plugin == MYSQL_NATIVE_PASSWORD:
            native = account.verifier.native if account.verifier is not None else None
            # An unknown user costs the same arithmetic as a known one.
            matches = auth.check_native(scramble, salt, native or bytes(auth.SHA1_SIZE))
            self._decide(accepted=matches and native is not None)
            return
        fast = account.fast_digest if account.verifier is not None else None
        matches = auth.check_sha2_fast(scramble, salt, fast or bytes(auth.SHA256_SIZE))
        if matches and fast is not None:
            self._fast_path = True
            self._decide(accepted=True)
            return
        # A wrong password, an unknown user and a user not yet cached all go the same way.
        request = encode_auth_more_data(_PERFORM_FULL_AUTHENTICATION)
        self._reply(request, then=Phase.FULL_AUTH)

    def _full_auth(self, payload: bytes) -> None:
        if self._tls:
            password = auth.cleartext_password(payload)
        elif payload == _REQUEST_PUBLIC_KEY and not self._key_sent:
            # Once: a client that asks again and again would never be done.
            self._key_sent = True
            self._reply(encode_auth_more_data(self._rsa_key.public_pem), then=Phase.FULL_AUTH)
            return
        else:
            password = auth.decrypt_password(payload, self._greeting.salt, self._rsa_key)
        if password is None:
            self._decide(accepted=False)
            return
        self.phase = Phase.CHECK_PASSWORD
        self._events.append(CheckPassword(password=password))

    def password_checked(self, *, matches: bool) -> None:
        """The verdict on a CheckPassword."""
        self._expect(Phase.CHECK_PASSWORD)
        assert self._account is not None
        self._decide(accepted=matches and self._account.verifier is not None)

    def _decide(self, *, accepted: bool) -> None:
        assert self._response is not None
        if not accepted:
            self._refuse(using_password=True)
            return
        self.phase = Phase.VERDICT
        self._events.append(
            LoginAccepted(user=self._response.user, database=self._response.database)
        )

    def _refuse(self, error: MySQLError | None = None, *, using_password: bool = False) -> None:
        assert self._response is not None
        self.phase = Phase.FAILED
        self._events.append(
            LoginRefused(user=self._response.user, using_password=using_password, error=error)
        )

    def compression(self) -> Codec | None:
        """What everything behind the login's last packet is compressed with, both ways."""
        assert self._response is not None
        algorithm = algorithm_of(self.capabilities)
        if algorithm is None:
            return None
        return codec(algorithm, zstd_level=self._response.zstd_level or ZSTD_LEVEL_DEFAULT)

    def accept_login(self) -> bytes:
        """Let the client in. Commands follow, in frames if there is `compression`."""
        self._expect(Phase.VERDICT)
        data = b""
        if self._fast_path:
            data = self._frame(encode_auth_more_data(_FAST_AUTH_SUCCESS))
        data += self._frame(encode_ok())
        self.phase = Phase.COMMAND
        self._reader.payload_bytes_max = COMMAND_PAYLOAD_BYTES_MAX
        self._reader.expected_sequence = 0
        return data

    # Answers -----------------------------------------------------------------------------------

    def send_ok(self, *, affected_rows: int = 0, warnings: int = 0, info: str = "") -> bytes:
        """OK to a command; `warnings` says how many rows SHOW WARNINGS would have."""
        ok = encode_ok(
            affected_rows=affected_rows, status=self.status, warnings=warnings, info=info
        )
        return self._answer([ok])

    def send_eof(self) -> bytes:
        """EOF to a command (COM_SET_OPTION)."""
        return self._answer([encode_eof(self.status)])

    def send_text(self, text: str) -> bytes:
        """A packet of bare text (COM_STATISTICS)."""
        return self._answer([text.encode()])

    def send_result_set(self, result: ResultSet, *, binary: bool = False) -> bytes:
        """A result set to a query, ended as this client expects it; `binary` to an execute."""
        deprecate_eof = bool(self.capabilities & Capability.DEPRECATE_EOF)
        payloads = result.encode(deprecate_eof=deprecate_eof, status=self.status, binary=binary)
        return self._answer(payloads)

    def send_prepared(self, statement_id: int) -> bytes:
        """The number of a prepared statement."""
        return self._answer([encode_prepared(statement_id)])

    def send_nothing(self) -> bytes:
        """To a command that is not answered (COM_STMT_CLOSE)."""
        return self._answer([])

    def send_error(self, error: MySQLError) -> bytes:
        """ERR. After a command the connection goes on; in every other phase it must be closed."""
        assert self.phase is not Phase.CLOSED, "nothing may follow the end of a connection"
        before_greeting = self.phase is Phase.GREETING
        data = self._frame(encode_err(error, with_sqlstate=not before_greeting))
        self.phase = Phase.COMMAND if self.phase is Phase.ANSWER else Phase.CLOSED
        return data

    def _answer(self, payloads: Iterable[bytes]) -> bytes:
        self._expect(Phase.ANSWER)
        self.phase = Phase.COMMAND
        return b"".join(self._frame(payload) for payload in payloads)

    # Binlog dump -------------------------------------------------------------------------------

    def begin_dump(self, command: BinlogDump | BinlogDumpGtid, *, read_input: bool = False) -> None:
        """Turn a dump command into the stream of its events.

        `read_input` is for semi-sync: the client's packets come as DumpInput. Otherwise they are
        dropped, as a source does.
        """
        self._expect(Phase.ANSWER)
        assert isinstance(command, (BinlogDump, BinlogDumpGtid))
        self.phase = Phase.DUMP
        self._read_dump_input = read_input
        # An acknowledgement is a position and a file name; nothing else is expected now.
        self._reader.payload_bytes_max = 1024
        if not read_input:
            self._reader.take_unread()

    @property
    def next_sequence(self) -> int:
        """The sequence number of the next packet sent; a batch of events is numbered from it."""
        return self._sequence

    def continue_at(self, sequence: int) -> None:
        """Packets were numbered and sent outside this object; the next one has this number."""
        self._expect(Phase.DUMP)
        self._sequence = sequence & 0xFF

    def send_event(self, event: bytes, *, prefix: bytes = b"") -> bytes:
        """One event of a dump, split where it is 16 MiB and more; `prefix` is that of semi-sync."""
        self._expect(Phase.DUMP)
        return self._frame(b"\x00" + prefix + event)

    def end_dump(self) -> bytes:
        """EOF at the end of a non-blocking dump; close the connection after it."""
        self._expect(Phase.DUMP)
        data = self._frame(encode_eof(self.status))
        self.phase = Phase.CLOSED
        return data

    # Helpers -----------------------------------------------------------------------------------

    def _reply(self, payload: bytes, *, then: Literal[Phase.AUTH_SWITCH, Phase.FULL_AUTH]) -> None:
        """Answer within the login and wait for the client's next packet."""
        self._events.append(Send(data=self._frame(payload)))
        self._reader.expected_sequence = self._sequence
        self.phase = then

    def _frame(self, payload: bytes) -> bytes:
        data, self._sequence = encode_payload(payload, self._sequence)
        return data

    def _expect(self, phase: Phase) -> None:
        assert self.phase is phase, f"in phase {self.phase}, not {phase}"


_WAITS_FOR_DRIVER = frozenset(
    {
        Phase.GREETING,
        Phase.TLS,
        Phase.ACCOUNT,
        Phase.CHECK_PASSWORD,
        Phase.VERDICT,
        Phase.ANSWER,
        Phase.FAILED,
    }
)
