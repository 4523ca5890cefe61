"""A TCP proxy that can slow down, hold or cut what a server sends to a client."""

import contextlib
import socket
import threading
import time
from typing import Self

_BLOCK_BYTES = 64 * 1024


class Proxy:
    """Passes every connection on to one address; `rate` limits bytes per second from there."""

    def __init__(self, host: str, port: int, *, rate: float | None = None) -> None:
        """Listen on a free port at once."""
        self._target = (host, port)
        self.rate = rate
        self.passed = 0
        """Bytes that came from the server, over all connections."""
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def __enter__(self) -> Self:
        """It listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and cut all connections."""
        self._closed = True
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def aim(self, host: str, port: int) -> None:
        """Pass connections that begin from now on to another address."""
        self._target = (host, port)

    def hold(self) -> None:
        """Let nothing more through from the server until `release`; connections stay."""
        self._flowing.clear()

    def release(self) -> None:
        """Go on after `hold`."""
        self._flowing.set()

    def cut(self) -> None:
        """Break every connection that is open now."""
        with self._lock:
            victims = list(self._open)
        for victim in victims:
            with contextlib.suppress(OSError):
                victim.shutdown(socket.SHUT_RDWR)

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            # A small buffer, so that what was let through is not far ahead of what was read.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _BLOCK_BYTES)
            with self._lock:
                self._open |= {client, server}
            done = threading.Event()
            self._spawn(self._pump, client, server, False, done)
            self._spawn(self._pump, server, client, True, done)

    def _pump(
        self, one: socket.socket, other: socket.socket, limited: bool, done: threading.Event
    ) -> None:
        try:
            while data := one.recv(_BLOCK_BYTES):
                if limited:
                    self._flowing.wait()
                other.sendall(data)
                if limited:
                    self.passed += len(data)
                if limited and self.rate is not None:
                    time.sleep(len(data) / self.rate)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        with self._lock:
            is_last = done.is_set()
            done.set()
            if is_last:
                self._open -= {one, other}
        if is_last:
            one.close()
            other.close()
