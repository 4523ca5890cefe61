"""A real client logs in and asks, over a loopback socket, by every way of authentication."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pymysql
import pytest
import trio

from kingbus.mysql import auth
from kingbus.mysql.commands import Ping, Query, Quit
from kingbus.mysql.errors import access_denied, not_supported
from kingbus.mysql.resultset import Column, ResultSet
from kingbus.mysql.server import (
    CheckPassword,
    LoginAccepted,
    LoginRefused,
    LoginRequest,
    Send,
    ServerConnection,
    Wait,
)

PASSWORD = "hunter2"
KEY = auth.PrivateKey.generate()
VERIFIER = auth.make_verifier(PASSWORD.encode(), salt=auth.make_salt(os.urandom(20)))


async def serve_one(stream: trio.SocketStream, *, plugin: str, cached: bool) -> None:
    """The thinnest loop that can drive a ServerConnection: one client, one known user."""
    conn = ServerConnection(
        server_version="9.7.4-kingbus",
        thread_id=1,
        salt=auth.make_salt(os.urandom(20)),
        rsa_key=KEY,
        auth_plugin=plugin,
    )
    fast = auth.sha2_fast_digest(PASSWORD.encode()) if cached else None
    data = conn.greeting()
    while True:
        if data:
            await stream.send_all(data)
            data = b""
        match conn.next_event():
            case Wait():
                received = await stream.receive_some(65536)
                if not received:
                    return
                conn.receive_data(received)
            case LoginRequest(user=user):
                known = VERIFIER if user == "repl" else None
                conn.set_account(auth.Account(user=user, verifier=known, fast_digest=fast))
            case CheckPassword(password=password):
                conn.password_checked(matches=VERIFIER.check_password(password))
            case Send(data=data):
                pass
            case LoginAccepted():
                data = conn.accept_login()
            case LoginRefused(user=user, using_password=using):
                error = access_denied(user, "localhost", using_password=using)
                await stream.send_all(conn.send_error(error))
                return
            case Query(sql=sql):
                if sql.startswith("SELECT"):
                    rows = [[sql], [None]]
                    data = conn.send_result_set(ResultSet(columns=[Column(name="q")], rows=rows))
                elif sql.startswith("SET"):
                    data = conn.send_ok()
                else:
                    data = conn.send_error(not_supported(sql))
            case Ping():
                data = conn.send_ok()
            case Quit():
                return
            case other:
                raise AssertionError(other)


@contextmanager
def client(port: int, user: str = "repl", password: str = PASSWORD) -> Iterator[pymysql.Connection]:
    connection = pymysql.connect(
        host="127.0.0.1", port=port, user=user, password=password, read_timeout=10
    )
    with connection:
        yield connection


def ask(port: int) -> tuple[object, int]:
    """What a client gets for a query, after an error that must not end its connection."""
    with client(port) as connection, connection.cursor() as cursor:
        connection.ping(reconnect=False)
        with pytest.raises(pymysql.MySQLError) as caught:
            cursor.execute("DO SOMETHING")
        cursor.execute("SELECT 'ä'")
        return cursor.fetchall(), caught.value.args[0]


async def serve_while(function, *, plugin: str, cached: bool) -> object:
    """The result of `function(port)` in a worker thread, with a server listening there."""
    async with trio.open_nursery() as nursery:
        handler = partial(serve_one, plugin=plugin, cached=cached)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        try:
            with trio.fail_after(20):
                return await trio.to_thread.run_sync(function, port)
        finally:
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("plugin", "cached"),
    [
        ("caching_sha2_password", True),
        ("caching_sha2_password", False),
        ("mysql_native_password", False),
    ],
)
async def test_a_client_logs_in_and_asks(plugin: str, cached: bool) -> None:
    """Fast path, full path with the key and the native plugin; then queries and errors."""
    got = await serve_while(ask, plugin=plugin, cached=cached)

    assert got == ((("SELECT 'ä'",), (None,)), 1235)


@pytest.mark.parametrize("plugin", ["caching_sha2_password", "mysql_native_password"])
@pytest.mark.parametrize(("user", "password"), [("repl", "wrong"), ("nobody", PASSWORD)])
async def test_a_client_is_refused(plugin: str, user: str, password: str) -> None:
    """A wrong password and an unknown user are error 1045."""

    def refused(port: int) -> int:
        with pytest.raises(pymysql.OperationalError) as caught, client(port, user, password):
            pass
        return caught.value.args[0]

    assert await serve_while(refused, plugin=plugin, cached=True) == 1045
