"""The loop's turns are measured, the short ones not counted."""

from collections.abc import Iterator

from kingbus import metrics
from kingbus.daemon.turns import TurnWatch


def test_long_turns_are_counted_and_the_longest_is_kept() -> None:
    """From the end of one wait to the beginning of the next; time spent waiting is none."""
    times = iter([0.0, 10.0, 10.004, 20.0, 20.006, 30.0, 30.002, 40.0, 40.2, 50.0, 50.1])

    def clock(left: Iterator[float] = times) -> float:
        return next(left)

    counted = metrics.value("kingbus_loop_turn_seconds_count")
    slow = metrics.value("kingbus_loop_turn_seconds_bucket", le="0.05")
    watch = TurnWatch(clock)
    longest = []
    for _ in range(5):
        watch.after_io_wait(1.0)
        watch.before_io_wait(1.0)
        longest.append(round(metrics.value("kingbus_loop_turn_longest_seconds"), 3))
    assert longest == [0.004, 0.006, 0.006, 0.2, 0.2]
    assert metrics.value("kingbus_loop_turn_seconds_count") == counted + 3
    assert metrics.value("kingbus_loop_turn_seconds_bucket", le="0.05") == slow + 1
