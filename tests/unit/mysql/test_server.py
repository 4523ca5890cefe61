"""One connection from greeting to dump, event by event, without any socket."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.mysql import auth
from kingbus.mysql.commands import (
    BinlogDumpGtid,
    Ping,
    Query,
    Quit,
    encode_dump_gtid,
    encode_query,
)
from kingbus.mysql.compression import ZlibCodec, ZstdCodec
from kingbus.mysql.constants import Capability, DumpFlag
from kingbus.mysql.errors import (
    BadHandshakeError,
    MySQLError,
    PacketsOutOfOrderError,
    PacketTooLargeError,
    ProtocolError,
    access_denied,
)
from kingbus.mysql.messages import Greeting, HandshakeResponse, SslRequest
from kingbus.mysql.packet import encode_payload
from kingbus.mysql.resultset import Column, ResultSet
from kingbus.mysql.server import (
    NEED_DATA,
    PAUSED,
    CheckPassword,
    DumpInput,
    LoginAccepted,
    LoginRefused,
    LoginRequest,
    Phase,
    Send,
    ServerConnection,
    TlsRequested,
    Wait,
)

PASSWORD = b"hunter2"
SALT = auth.make_salt(bytes(range(100, 120)))
KEY = auth.PrivateKey.generate()
VERIFIER = auth.make_verifier(PASSWORD, salt=SALT)
KNOWN = auth.Account(user="repl", verifier=VERIFIER)
CACHED = auth.Account(user="repl", verifier=VERIFIER, fast_digest=auth.sha2_fast_digest(PASSWORD))
UNKNOWN = auth.Account(user="nobody", verifier=None)
FLAGS = (
    Capability.PROTOCOL_41
    | Capability.SECURE_CONNECTION
    | Capability.PLUGIN_AUTH
    | Capability.DEPRECATE_EOF
)
SHA2, NATIVE = "caching_sha2_password", "mysql_native_password"


def connection(**options: object) -> ServerConnection:
    arguments = {"server_version": "9.7.4", "thread_id": 7, "salt": SALT, "rsa_key": KEY}
    conn = ServerConnection(**(arguments | options))
    conn.greeting()
    return conn


def answer(scramble: bytes, plugin: str = SHA2, flags: Capability = FLAGS) -> bytes:
    return HandshakeResponse(
        capabilities=flags, user="repl", auth_response=scramble, auth_plugin=plugin
    ).encode()


def packet(payload: bytes, sequence: int = 0) -> bytes:
    return encode_payload(payload, sequence)[0]


def login(conn: ServerConnection, account: auth.Account, *payloads: bytes) -> tuple[list, list]:
    """Play a client that sends these payloads; what came out as events, and what was sent."""
    events, sent, sequence, pending = [], [], 1, list(payloads)
    while True:
        event = conn.next_event()
        match event:
            case Wait.NEED_DATA if pending and conn.phase is not Phase.COMMAND:
                conn.receive_data(packet(pending.pop(0), sequence))
                continue
            case Wait():
                return events, sent
            case LoginRequest():
                conn.set_account(account)
            case CheckPassword(password=password):
                verifier = account.verifier or VERIFIER
                conn.password_checked(matches=verifier.check_password(password))
            case LoginAccepted():
                sent.append(conn.accept_login())
            case LoginRefused(using_password=using):
                sent.append(conn.send_error(access_denied("repl", "h", using_password=using)))
            case Send(data=data):
                sent.append(data)
                sequence = data[3] + 1
        events.append(type(event))


def logged_in(flags: Capability = FLAGS) -> ServerConnection:
    conn = connection()
    login(conn, CACHED, answer(auth.sha2_scramble(PASSWORD, SALT), flags=flags))
    assert conn.phase is Phase.COMMAND
    return conn


OK = "00000002000000"


def test_sha2_fast_path() -> None:
    """With the digest cached: fast-auth success and OK, numbered on."""
    conn = connection()
    events, sent = login(conn, CACHED, answer(auth.sha2_scramble(PASSWORD, SALT)))

    assert events == [LoginRequest, LoginAccepted]
    assert sent == [bytes.fromhex("02000002" + "0103" + "07000003" + OK)]


def test_sha2_full_path_with_the_key() -> None:
    """Without a cached digest: full authentication, key, encrypted password, OK."""
    conn = connection()
    encrypted = auth.encrypt_password(PASSWORD, SALT, KEY.public_pem)
    events, sent = login(
        conn, KNOWN, answer(auth.sha2_scramble(PASSWORD, SALT)), b"\x02", encrypted
    )

    assert events == [LoginRequest, Send, Send, CheckPassword, LoginAccepted]
    assert sent[0] == bytes.fromhex("020000020104")
    assert sent[1][4:] == b"\x01" + KEY.public_pem
    assert sent[2] == bytes.fromhex("07000006" + OK)


def test_sha2_full_path_in_clear_over_tls() -> None:
    """Through TLS the password itself is sent, and the key is not."""
    conn = connection(offer_tls=True)
    flags = FLAGS | Capability.SSL
    request = SslRequest(capabilities=flags, max_packet_size=0, charset=255)
    conn.receive_data(packet(request.encode(), 1) + b"\x16\x03\x01")
    assert conn.next_event() == TlsRequested(unread=b"\x16\x03\x01")
    assert conn.next_event() is PAUSED
    conn.tls_started()
    conn.receive_data(packet(answer(auth.sha2_scramble(PASSWORD, SALT), flags=flags), 2))
    events, sent = login(conn, KNOWN)
    assert events == [LoginRequest, Send]
    conn.receive_data(packet(PASSWORD + b"\0", 4))
    events, sent = login(conn, KNOWN)

    assert events == [CheckPassword, LoginAccepted]
    assert sent == [bytes.fromhex("07000005" + OK)]


@pytest.mark.parametrize("account", [KNOWN, CACHED, UNKNOWN])
def test_wrong_password_and_unknown_user_look_alike(account: auth.Account) -> None:
    """The dialog does not tell whether a user exists or is cached."""
    conn = connection()
    encrypted = auth.encrypt_password(b"wrong", SALT, KEY.public_pem)
    events, sent = login(
        conn, account, answer(auth.sha2_scramble(b"wrong", SALT)), b"\x02", encrypted
    )

    assert events == [LoginRequest, Send, Send, CheckPassword, LoginRefused]
    assert b"using password: YES" in sent[-1]
    assert conn.phase is Phase.CLOSED


def test_an_unknown_user_is_refused_even_with_a_password_that_opens_something() -> None:
    """An account without a verifier lets nobody in, whatever the check said."""
    conn = connection()
    encrypted = auth.encrypt_password(PASSWORD, SALT, KEY.public_pem)
    events, _ = login(conn, UNKNOWN, answer(auth.sha2_scramble(PASSWORD, SALT)), b"\x02", encrypted)

    assert events[-1] is LoginRefused


@pytest.mark.parametrize("account", [CACHED, UNKNOWN])
def test_an_empty_password_is_refused_at_once(account: auth.Account) -> None:
    """No scramble, no dialog; the error says that no password was used."""
    events, sent = login(connection(), account, answer(b""))

    assert events == [LoginRequest, LoginRefused]
    assert b"using password: NO" in sent[-1]


def test_old_replicas_are_switched_to_native_with_the_same_salt() -> None:
    """A client that names the native plugin and sends no scramble is asked for one."""
    conn = connection()
    scramble = auth.native_scramble(PASSWORD, SALT)
    events, sent = login(conn, KNOWN, answer(b"", NATIVE), scramble)

    assert events == [LoginRequest, Send, LoginAccepted]
    assert sent[0][4:] == b"\xfe" + NATIVE.encode() + b"\0" + SALT + b"\0"
    assert sent[1] == bytes.fromhex("07000004" + OK)


@pytest.mark.parametrize(
    ("account", "password"), [(KNOWN, b"wrong"), (UNKNOWN, PASSWORD), (UNKNOWN, b"wrong")]
)
def test_native_refuses_what_does_not_match(account: auth.Account, password: bytes) -> None:
    """The native plugin lets in only the right password of a known user."""
    scramble = auth.native_scramble(password, SALT)
    events, _ = login(connection(), account, answer(b"", NATIVE), scramble)

    assert events == [LoginRequest, Send, LoginRefused]


def test_native_is_refused_where_it_is_not_stored() -> None:
    """A user without the native verifier cannot use that plugin, with its password neither."""
    verifier = auth.make_verifier(PASSWORD, salt=SALT, native=False)
    account = auth.Account(user="repl", verifier=verifier)
    scramble = auth.native_scramble(PASSWORD, SALT)
    events, _ = login(connection(), account, answer(b"", NATIVE), scramble)

    assert events == [LoginRequest, Send, LoginRefused]


def test_a_greeting_may_name_the_native_plugin() -> None:
    """Then a client answers with its scramble at once."""
    conn = connection(auth_plugin=NATIVE)
    events, _ = login(conn, KNOWN, answer(auth.native_scramble(PASSWORD, SALT), NATIVE))

    assert events == [LoginRequest, LoginAccepted]


def test_other_plugins_are_switched_to_ours() -> None:
    """A client that begins with a plugin that we lack is asked for the one of the greeting."""
    scramble = auth.sha2_scramble(PASSWORD, SALT)
    events, sent = login(connection(), CACHED, answer(b"xx", "dialog"), scramble)

    assert events == [LoginRequest, Send, LoginAccepted]
    assert sent[0][4:] == b"\xfe" + SHA2.encode() + b"\0" + SALT + b"\0"


def test_clients_without_plugins() -> None:
    """With the native scramble they are let in; without any they get error 1251."""
    flags = FLAGS & ~Capability.PLUGIN_AUTH
    scramble = auth.native_scramble(PASSWORD, SALT)
    events, _ = login(connection(), KNOWN, answer(scramble, flags=flags))
    assert events == [LoginRequest, LoginAccepted]

    conn = connection()
    conn.receive_data(packet(answer(b"x", flags=flags & ~Capability.SECURE_CONNECTION), 1))
    conn.next_event()
    conn.set_account(KNOWN)
    event = conn.next_event()
    assert isinstance(event, LoginRefused)
    assert event.error.code == 1251


def test_tls_is_refused_where_it_was_not_offered() -> None:
    """A client that asks for what was not offered gets a bad handshake."""
    request = SslRequest(capabilities=FLAGS | Capability.SSL, max_packet_size=0, charset=255)
    conn = connection()
    conn.receive_data(packet(request.encode(), 1))

    with pytest.raises(BadHandshakeError, match="TLS"):
        conn.next_event()


def test_passwords_are_in_no_repr() -> None:
    """Neither events nor accounts show what they carry."""
    shown = repr([CheckPassword(password=PASSWORD), CACHED, VERIFIER, Send(data=PASSWORD)])

    assert "hunter2" not in shown


def test_each_error_kind_ends_the_connection_with_one_error() -> None:
    """Oversize, disorder and garbage: one ERR with its number, then nothing more."""
    cases = [
        (connection(), b"\x01\x00\x01\x01", PacketTooLargeError, 1153),
        (connection(), packet(b"x", 0), PacketsOutOfOrderError, 1156),
        (connection(), packet(b"garbage", 1), BadHandshakeError, 1043),
        (logged_in(), packet(b"\x03SELECT 1", 1), PacketsOutOfOrderError, 1156),
        (logged_in(), packet(b"\xff\xff\xff")[:3] + b"\x01", PacketsOutOfOrderError, 1156),
        (logged_in(), packet(b"\x12\x00"), ProtocolError, 1835),
    ]
    for conn, data, kind, code in cases:
        conn.receive_data(data)
        with pytest.raises(kind) as caught:
            conn.next_event()
        assert caught.value.code == code
        assert conn.next_event() is PAUSED
        sent = conn.send_error(caught.value)
        assert sent[4:7] == b"\xff" + code.to_bytes(2, "little")
        assert conn.phase is Phase.CLOSED
        assert conn.next_event() is NEED_DATA


def test_after_login_a_command_may_have_16_mib() -> None:
    """The small limit ends with the login; the large one holds."""
    conn = logged_in()
    conn.receive_data(packet(b"\x03" + b" " * (2**20)))
    assert isinstance(conn.next_event(), Query)
    conn.send_ok()
    conn.receive_data(b"\xff\xff\xff\x00" + bytes(0xFFFFFF) + b"\x02\x00\x00\x01")

    with pytest.raises(PacketTooLargeError):
        conn.next_event()


def test_commands_are_answered_one_at_a_time() -> None:
    """A second command waits until the first is answered, and each numbers from 1."""
    conn = logged_in()
    conn.receive_data(packet(b"\x0e") + packet(b"\x01"))

    assert conn.next_event() == Ping()
    assert conn.next_event() is PAUSED
    assert conn.send_ok() == bytes.fromhex("07000001" + OK)
    assert conn.next_event() == Quit()


def test_an_error_to_a_command_keeps_the_connection() -> None:
    """Only errors outside of commands are the end."""
    conn = logged_in()
    conn.receive_data(packet(b"\x03nonsense"))
    conn.next_event()
    conn.send_error(MySQLError(1064, "42000", "You have an error"))

    assert conn.phase is Phase.COMMAND


def test_result_sets_end_as_the_client_expects() -> None:
    """DEPRECATE_EOF only if both sides have it; NULL, numbers and text in a row."""
    result = ResultSet(columns=[Column(name="a")], rows=[["x"], [None], [5]])
    modern, old = logged_in(), logged_in(FLAGS & ~Capability.DEPRECATE_EOF)
    ends = []
    for conn in (modern, old):
        conn.receive_data(packet(encode_query("SELECT 1")))
        conn.next_event()
        ends.append(conn.send_result_set(result))

    rows = bytes.fromhex("0178"), b"\xfb", b"\x015"
    assert ends[0].startswith(bytes.fromhex("0100000101"))
    assert ends[0].endswith(
        b"".join(packet(row, 3 + i) for i, row in enumerate(rows))
        + bytes.fromhex("07000006fe000002000000")
    )
    assert ends[1].endswith(
        bytes.fromhex("05000003fe00000200")
        + b"".join(packet(row, 4 + i) for i, row in enumerate(rows))
        + bytes.fromhex("05000007fe00000200")
    )


def test_flags_that_were_not_offered_are_not_in_force() -> None:
    """Clients set them all the same; what counts is what both sides have."""
    conn = logged_in(FLAGS | Capability.SESSION_TRACK | Capability.LOCAL_FILES)

    assert conn.capabilities == FLAGS
    assert conn.compression() is None


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (Capability.COMPRESS, ZlibCodec),
        (Capability.ZSTD_COMPRESSION_ALGORITHM, ZstdCodec),
        (Capability.COMPRESS | Capability.ZSTD_COMPRESSION_ALGORITHM, ZlibCodec),
    ],
)
def test_compression_begins_behind_the_login(flags: Capability, kind: type) -> None:
    """The login itself, its last OK included, is as it is without."""
    conn = connection()
    _, sent = login(conn, CACHED, answer(auth.sha2_scramble(PASSWORD, SALT), flags=FLAGS | flags))

    assert sent == [bytes.fromhex("02000002" + "0103" + "07000003" + OK)]
    assert isinstance(conn.compression(), kind)


DUMP = BinlogDumpGtid(file="", position=4, flags=DumpFlag(2), server_id=9, gtid_set=bytes(8))


def dumping(*, read_input: bool = False) -> ServerConnection:
    conn = logged_in()
    conn.receive_data(packet(encode_dump_gtid(DUMP)))
    command = conn.next_event()
    assert command == DUMP
    conn.begin_dump(command, read_input=read_input)
    return conn


def test_a_dump_numbers_its_packets_on() -> None:
    """From 1, over packets sent outside, into the error that ends it."""
    conn = dumping()
    assert conn.send_event(b"event") == b"\x06\x00\x00\x01\x00event"
    assert conn.next_sequence == 2
    conn.continue_at(256)
    error = conn.send_error(MySQLError(1236, "HY000", "gone"))

    assert error[3] == 0
    assert conn.phase is Phase.CLOSED


def test_a_dump_may_end_in_eof() -> None:
    """The end of a non-blocking dump, five bytes whatever the client's flags."""
    conn = dumping()

    assert conn.end_dump() == bytes.fromhex("05000001fe00000200")
    assert conn.phase is Phase.CLOSED


def test_input_during_a_dump_is_dropped_or_read() -> None:
    """Without semi-sync nothing a client says is kept; with it each acknowledgement is an event."""
    deaf, listening = dumping(), dumping(read_input=True)
    for conn in (deaf, listening):
        conn.receive_data(packet(b"\xefone") + packet(b"\xeftwo"))

    assert deaf.next_event() is NEED_DATA
    assert not deaf.mid_payload
    assert listening.next_event() == DumpInput(payload=b"\xefone")
    assert listening.next_event() == DumpInput(payload=b"\xeftwo")


def conversation(chunks: list[bytes]) -> list[object]:
    """All events of a connection whose client sends these chunks, whatever is answered."""
    conn, events = connection(), []
    for chunk in chunks:
        conn.receive_data(chunk)
        while True:
            try:
                event = conn.next_event()
            except ProtocolError as error:
                events.append(str(error))
                conn.send_error(error)
                return events
            if isinstance(event, Wait):
                break
            events.append(event)
            match event:
                case LoginRequest():
                    conn.set_account(CACHED)
                case LoginAccepted():
                    conn.accept_login()
                case LoginRefused() | CheckPassword():
                    return events
                case Send() | DumpInput():
                    pass
                case BinlogDumpGtid():
                    conn.begin_dump(event, read_input=True)
                case _:
                    conn.send_ok()
    return events


SCRIPT = (
    packet(answer(b"", NATIVE), 1)
    + packet(auth.native_scramble(PASSWORD, SALT), 3)
    + packet(encode_query("SELECT @@GLOBAL.SERVER_ID"))
    + packet(b"\x0e")
    + packet(encode_dump_gtid(DUMP))
    + packet(b"\xef" + bytes(8) + b"binlog.000001")
)


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=30))
def test_events_do_not_depend_on_how_bytes_arrive(cuts: list[int]) -> None:
    """A whole conversation in any pieces gives the same events."""
    bounds = sorted({0, len(SCRIPT), *cuts})
    chunks = [SCRIPT[a:b] for a, b in itertools.pairwise(bounds)]

    whole = conversation([SCRIPT])
    assert len(whole) == 7
    assert whole == conversation(chunks)


@settings(max_examples=200)
@given(st.data())
def test_garbage_is_answered_by_one_error_at_most(data: st.DataObject) -> None:
    """Bytes changed, cut and added anywhere raise nothing but the protocol's own error."""
    script = bytearray(SCRIPT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(script) - 1))
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            script[at] = data.draw(st.integers(0, 255))
        elif kind == 1:
            script[at:at] = data.draw(st.binary(max_size=9))
        else:
            del script[at : at + data.draw(st.integers(1, 9))]
        if not script:
            break

    conversation([bytes(script)])


@given(st.binary(max_size=80), st.integers(0, 3))
def test_random_packets_raise_nothing_else(payload: bytes, sequence: int) -> None:
    """Well-framed garbage too."""
    conversation([packet(payload, 1) + packet(payload, sequence)])


def test_a_greeting_can_be_read_by_a_client() -> None:
    """What the connection greets with decodes to what it was given."""
    arguments = {"server_version": "9.7.4", "thread_id": 7, "salt": SALT, "rsa_key": KEY}
    data = ServerConnection(**arguments).greeting()

    greeting = Greeting.decode(data[4:])
    assert (greeting.server_version, greeting.thread_id) == ("9.7.4", 7)
    assert greeting.salt == SALT
