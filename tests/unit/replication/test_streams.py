"""Sends that leave packets whole, and end in time all the same."""

import pytest
import trio
import trio.testing

from kingbus.replication.streams import FINISH_SECONDS_MAX, SEND_SECONDS_MAX, SendingSink


async def test_a_cancelled_send_is_finished_first(autojump_clock) -> None:
    """What is under way when the dump is cancelled still goes out, and nothing after it."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.send, b"whole")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await theirs.receive_some() == b"whole"

    assert scope.cancelled_caught
    assert not sink.is_broken


async def test_a_send_that_is_not_taken_breaks_the_sink(autojump_clock) -> None:
    """It ends after its limit; half a packet may be out, which is said."""
    ours, _theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)
    before = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await sink.send(b"never taken")

    assert trio.current_time() - before == pytest.approx(SEND_SECONDS_MAX)
    assert sink.is_broken


async def test_both_parts_of_a_packet_are_hurried(autojump_clock) -> None:
    """A packet in two parts, shielded, has no more time for the second than for the first."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    sink = SendingSink(ours)

    async def send_packet() -> None:
        with trio.CancelScope(shield=True):
            await sink.send(b"head")
            with pytest.raises(trio.BrokenResourceError):
                await sink.send(b"body")

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_packet)
        await trio.testing.wait_all_tasks_blocked()
        sink.hurry()
        assert await theirs.receive_some() == b"head"

    assert trio.current_time() - before == pytest.approx(FINISH_SECONDS_MAX)
    assert sink.is_broken
