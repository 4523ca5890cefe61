"""What can go wrong between two members."""

from kingbus.errors import KingbusError


class TransportError(KingbusError):
    """The root of the errors that the transport raises."""


class FrameError(TransportError):
    """Bytes that are no frame of ours, or a frame that says what it must not say."""


class HelloRefusedError(TransportError):
    """The other side does not talk to this member; `code` is one of hello.Refusal's."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"refused ({code}): {reason}")
        self.code = code


class PeerUnreachableError(TransportError):
    """No connection, or one that broke or stayed silent.

    Whether a call arrived is unknown if it `was_sent`; otherwise it certainly did not.
    """

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class CallRefusedError(TransportError):
    """A handler's way to answer a call with a status other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AddressInUseError(TransportError):
    """Another process listens there already."""

    hint = "Stop the other process, or choose another address."
