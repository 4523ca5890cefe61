"""Listening: one clear error for a taken port, metrics, and a clean stop."""

import socket

import httpx
import pytest
import trio

from kingbus import metrics
from kingbus.addresses import Address
from kingbus.admin.serving import ListenError, bind, bound_address, listen, metrics_app, serve_http

LOOPBACK = Address(host="127.0.0.1", port=0)


def test_a_taken_port_is_one_line() -> None:
    """It names the key and the address."""
    with listen(LOOPBACK, what="admin-url") as opened:
        address = bound_address(opened)
        with pytest.raises(ListenError) as caught:
            listen(address, what="metrics-addr").close()
    assert str(caught.value) == f"metrics-addr: listen on {address}: address already in use"


def test_an_impossible_host_is_one_line() -> None:
    """A name that does not resolve is told with the address."""
    with pytest.raises(ListenError, match=r"admin-url: listen on nowhere\.invalid:80"):
        listen(Address(host="nowhere.invalid", port=80), what="admin-url")


def test_a_bound_socket_refuses_at_once() -> None:
    """Who dials a node that is only starting is not left waiting."""
    with bind(LOOPBACK, what="peer-url") as opened, socket.socket() as dialler:
        address = bound_address(opened)
        with pytest.raises(ConnectionRefusedError):
            dialler.connect((address.host, address.port))


async def test_metrics_are_served_and_refreshed() -> None:
    """Every scrape sets the gauges first; other paths are 404; stop ends the server."""
    refreshed = 0

    def refresh() -> None:
        nonlocal refreshed
        refreshed += 1
        metrics.STORAGE_RESERVE_BYTES.set(4711)

    opened = listen(LOOPBACK, what="metrics-addr")
    url = f"http://{bound_address(opened)}"
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, metrics_app(refresh), opened, stop)
            async with httpx.AsyncClient(trust_env=False) as client:
                found = await client.get(f"{url}/metrics")
                missing = await client.get(f"{url}/")
            stop.set()
    assert found.status_code == 200
    assert "kingbus_storage_reserve_bytes 4711.0" in found.text
    assert missing.status_code == 404
    assert refreshed == 1
