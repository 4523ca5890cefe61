"""Texts of errors that tell sets, as a real 9.7 source was seen to write them."""

import pytest

from kingbus.mysql.errors import purged_required

A, B = "00000000-0000-004d-8000-000000000000", "9f63572d-e5fb-11f1-bcbe-02fc00000001"


def test_each_server_of_a_set_is_on_a_line_of_its_own() -> None:
    """What a replica lacks, and what it has."""
    message = purged_required(f"{A}:1-9,{B}:1-2", f"{B}:3-5").message
    assert message.endswith(
        f"The GTID set sent by the replica is '{A}:1-9,\n{B}:1-2', "
        f"and the missing transactions are '{B}:3-5'"
    )


@pytest.mark.parametrize(("length", "is_told"), [(178, True), (179, False), (100_000, False)])
def test_sets_that_do_not_fit_are_left_out(length: int, is_told: bool) -> None:
    """They were told up to 178 characters beside a missing set of 40; the rest stays."""
    had = f"{A}:".ljust(length, "1")
    message = purged_required(had, f"{B}:1-5").message
    assert (had in message) == is_told
    assert message.endswith("GTID_SUBTRACT") != is_told
    assert len(message) <= 512
