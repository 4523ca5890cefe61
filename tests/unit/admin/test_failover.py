"""Taking another source, and accepting a gap, as requests of the admin API."""

from dataclasses import replace
from typing import Any

import pytest
import trio.testing

from kingbus.admin.failover import SourceFailover
from kingbus.binlog.gtid import GtidSet
from kingbus.node.errors import ProposalLostError
from kingbus.pb.command_pb2 import Command, SourceConfig
from kingbus.transport.errors import PeerUnreachableError
from tests.unit.admin.fakes import Pair
from tests.unit.admin.test_app import SOURCE, Browser

A = "50b5308f-e4f4-11f1-a9f2-02fc00000001"
FIRST, SECOND, THIRD = "10.0.0.9:3306", "10.0.0.10:3306", "10.0.0.11:3306"
CANDIDATES = {**SOURCE, "mysql_addrs": [FIRST, SECOND, THIRD]}
FAILOVER = "/binlog/syncer/failover"
ACCEPT_GAP = "/binlog/syncer/accept-gap"


@pytest.fixture
def pair() -> Pair:
    return Pair()


def stored(pair: Pair) -> SourceConfig:
    config = pair.shared.state.source_config
    assert config is not None
    return config


async def started(pair: Pair) -> Browser:
    """A cluster that pulls from the first of three candidates."""
    browser = Browser(pair.n1)
    await browser.data("PUT", "/binlog/syncer/start", CANDIDATES)
    pair.n1.receiver.now.status = "running"
    pair.n1.receiver.now.address = FIRST
    return browser


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_the_next_candidate_or_any_address_becomes_the_source(pair: Pair, asked: str) -> None:
    """It comes first; the others stay behind it, in their order, and so does everything else."""
    await started(pair)
    before = stored(pair)
    browser = Browser(getattr(pair, asked))

    found = await browser.data("PUT", FAILOVER, {})
    assert found == {"mysql_addr": SECOND, "notes": []}
    assert list(stored(pair).addresses) == [SECOND, FIRST, THIRD]
    assert pair.n1.receiver.checked[1] == (SECOND, "hunter2")

    await browser.data("PUT", FAILOVER, {"to": "10.0.0.99:3306"})
    assert list(stored(pair).addresses) == ["10.0.0.99:3306", SECOND, FIRST, THIRD]
    assert stored(pair).started and stored(pair).password == before.password
    assert stored(pair).server_id == before.server_id


async def test_a_read_only_source_is_to_be_promoted(pair: Pair) -> None:
    """That is for the operator to do; the answer says how."""
    browser = await started(pair)
    pair.n1.receiver.facts = replace(pair.n1.receiver.facts, read_only=True)
    found = await browser.data("PUT", FAILOVER, {"to": THIRD})
    assert THIRD in found["notes"][0] and "RESET REPLICA ALL" in found["notes"][0]


async def test_what_the_old_source_alone_has_is_told(pair: Pair) -> None:
    """It was not waited for: who writes there while the source is changed loses that."""
    browser = await started(pair)
    pair.n1.receiver.facts = replace(
        pair.n1.receiver.facts, gtid_executed=GtidSet.parse(f"{A}:1-7")
    )
    pair.shared.state.executed = GtidSet.parse(f"{A}:1-4")
    found = await browser.data("PUT", FAILOVER, {"to": SECOND})
    assert f"{A}:5-7" in found["notes"][0]
    assert pair.n1.receiver.checked[-1] == (FIRST, "hunter2")


async def test_a_source_that_lags_is_waited_for(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """With the receiver stopped: what the relay has does not grow meanwhile."""
    browser = await started(pair)
    pair.n1.receiver.lags = 3
    await browser.data("PUT", FAILOVER, {"to": SECOND})
    assert stored(pair).started and stored(pair).addresses[0] == SECOND
    assert pair.n1.receiver.takes_first and not pair.n1.receiver.holds


async def test_a_source_that_stays_behind_is_not_taken(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """502 with the set; the receiver is told to go on where it pulled before."""
    browser = await started(pair)
    pair.n1.receiver.lags = 1000
    status, message = await browser.refused("PUT", FAILOVER, {"to": SECOND})
    assert (status, "x:1-5" in message) == (502, True)
    assert list(stored(pair).addresses) == [FIRST, SECOND, THIRD]
    assert stored(pair).started


class Steps:
    """A failover whose every step is noted, and that is cut short before or behind one of them."""

    def __init__(self, pair: Pair, cut: int) -> None:
        self.pair, self.cut, self.at = pair, cut, 0
        self.logged: list[SourceConfig] = []
        self.held_at: list[tuple[str, bool]] = []
        self.scope = trio.CancelScope()
        receiver = pair.n1.receiver
        self._check, receiver.halts = receiver.check_source, lambda: self.step("halt")
        receiver.check_source = self.check  # type: ignore[method-assign]

    async def step(self, what: str) -> None:
        self.held_at.append((what, self.pair.n1.receiver.holds > 0))
        self.reach()
        await trio.lowlevel.checkpoint()

    def reach(self) -> None:
        self.at += 1
        if self.at == self.cut:
            self.end()

    def end(self) -> None:
        raise ProposalLostError("leadership was lost")

    async def check(self, config: SourceConfig, password: str) -> Any:
        await self.step("check")
        try:
            return await self._check(config, password)
        finally:
            self.reach()

    async def propose(self, command: Command) -> None:
        await self.step("propose")
        self.pair.shared.index += 1
        self.pair.shared.state.apply(self.pair.shared.index, command)
        self.logged.append(command.source_config)
        self.reach()

    async def run(self) -> None:
        pair = self.pair
        failover = SourceFailover(
            relay=pair.n1.node, receiver=pair.n1.receiver, propose=self.propose
        )
        with self.scope:
            await failover.fail_over(stored(pair), "hunter2", present=FIRST, to=SECOND)


class GivenUp(Steps):
    """It ends as who asked for it goes away."""

    def end(self) -> None:
        self.scope.cancel()


@pytest.mark.parametrize("kind", [Steps, GivenUp])
async def test_a_failover_that_is_cut_short_anywhere_leaves_a_receiver_that_pulls(
    kind: type[Steps], autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever leads next finds in the log, at each moment, that it is to pull, from the old source
    or from the new one. What holds the receiver meanwhile is gone with who asked for it."""
    cut, is_whole = 1, False
    while not is_whole:
        pair = Pair()
        await started(pair)
        pair.n1.receiver.lags = 3
        steps = kind(pair, cut)
        is_whole = False
        try:
            await steps.run()
            is_whole = not steps.scope.cancelled_caught and steps.at < cut
        except ProposalLostError:
            pass
        assert all(config.started for config in [*steps.logged, stored(pair)])
        assert list(stored(pair).addresses) in ([FIRST, SECOND, THIRD], [SECOND, FIRST, THIRD])
        assert not pair.n1.receiver.holds
        cut += 1
    assert cut > 10, "all of them were there"
    assert stored(pair).addresses[0] == SECOND
    # The first look at the candidate changes nothing; the last at the old source is for show.
    assert steps.held_at[0] == ("check", False) and steps.held_at[-1] == ("check", False)
    assert all(is_held for _, is_held in steps.held_at[1:-1])
    assert steps.held_at[1][0] == "halt" and steps.held_at[2][0] == "propose"


async def test_a_failover_gives_way_to_what_another_leader_was_told(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """It waits for a candidate, loses the lead and gets it back: the receiver was stopped."""
    browser = await started(pair)
    receiver = pair.n1.receiver
    receiver.lags = 3
    async with trio.open_nursery() as nursery:

        async def told() -> None:
            while len(receiver.checked) < 3:  # noqa: ASYNC110 - on the mock clock
                await trio.sleep(0.01)
            stopped = SourceConfig()
            stopped.CopyFrom(stored(pair))
            stopped.started = False
            pair.shared.index += 1
            pair.shared.state.apply(pair.shared.index, Command(source_config=stopped))

        nursery.start_soon(told)
        status, message = await browser.refused("PUT", FAILOVER, {"to": SECOND})
    assert (status, "changed meanwhile" in message) == (409, True)
    assert not stored(pair).started and stored(pair).addresses[0] == FIRST
    assert not receiver.takes_first


async def test_a_source_that_refuses_disturbs_nothing(pair: Pair) -> None:
    """Before the receiver is stopped."""
    browser = await started(pair)
    index = pair.shared.index
    pair.n1.receiver.refusal = f"the source has purged transactions that the relay lacks: {A}:1-2"
    found = await browser.refused("PUT", FAILOVER, {"to": SECOND})
    assert found == (502, pair.n1.receiver.refusal)
    assert pair.shared.index == index


async def test_what_cannot_be_a_failover_is_refused(pair: Pair) -> None:
    """Nothing stored, nobody else to take, and the source that it is."""
    browser = Browser(pair.n1)
    assert (await browser.refused("PUT", FAILOVER, {}))[0] == 409
    await browser.data("PUT", "/binlog/syncer/start", SOURCE)
    pair.n1.receiver.now.address = FIRST
    assert (await browser.refused("PUT", FAILOVER, {}))[0] == 400
    status, message = await browser.refused("PUT", FAILOVER, {"to": FIRST})
    assert (status, "already" in message) == (409, True)
    assert (await browser.refused("PUT", FAILOVER, {"to": "x"}))[0] == 400


async def test_without_gtids_another_server_is_refused_at_once(pair: Pair) -> None:
    """No set can be compared, so nothing is stopped and nothing stored; nor is there a gap."""
    browser = Browser(pair.n1)
    await browser.data("PUT", "/binlog/syncer/start", {**CANDIDATES, "mode": "position"})
    pair.n1.receiver.now.address = FIRST
    index = pair.shared.index
    status, message = await browser.refused("PUT", FAILOVER, {"to": SECOND})
    assert (status, "without GTIDs" in message) == (409, True)
    status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:1"})
    assert (status, "not available yet" in message) == (409, True)
    assert pair.shared.index == index


async def test_a_gap_of_a_mariadb_source_is_not_accepted(pair: Pair) -> None:
    """Its purged position is no set of what is missing."""
    browser = Browser(pair.n1)
    pair.n1.receiver.facts = replace(pair.n1.receiver.facts, version="10.11.18-MariaDB")
    await browser.data("PUT", "/binlog/syncer/start", {**CANDIDATES, "flavor": "mariadb"})
    status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:1"})
    assert (status, "not available yet" in message) == (409, True)


def hold(pair: Pair, executed: str) -> None:
    """As if the relay had received that."""
    pair.shared.state.executed = GtidSet.parse(executed)
    pair.shared.state._names_used = {"binlog.000001": 1}


async def test_exactly_the_gap_is_accepted(pair: Pair) -> None:
    """In the log, and the receiver tries at once; any other set would lose what is still there."""
    browser = await started(pair)
    hold(pair, f"{A}:1-5")
    pair.n1.receiver.now.status = "error"
    pair.n1.receiver.facts = replace(
        pair.n1.receiver.facts,
        gtid_executed=GtidSet.parse(f"{A}:1-20"),
        gtid_purged=GtidSet.parse(f"{A}:1-9"),
    )
    for wrong in (f"{A}:6-10", f"{A}:6-8", f"{A}:1-5"):
        status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": wrong})
        assert (status, f"{A}:6-9" in message) == (409, True), message
    assert (await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": "yesterday"}))[0] == 400
    assert (await browser.refused("PUT", ACCEPT_GAP, {}))[0] == 400

    config = stored(pair)
    assert await browser.data("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:6-9"}) == ""
    assert pair.shared.state.accepted_gap == GtidSet.parse(f"{A}:6-9")
    assert pair.shared.state.executed == GtidSet.parse(f"{A}:1-9")
    assert stored(pair) is not config, "applied anew: a receiver that waits for an operator goes on"
    status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:6-9"})
    assert (status, "purged nothing" in message) == (409, True)


async def test_no_gap_is_accepted_while_another_candidate_is_pulled_from(pair: Pair) -> None:
    """It has what the first one has purged, and may be about to send it."""
    browser = await started(pair)
    hold(pair, f"{A}:1-5")
    pair.n1.receiver.now.address = SECOND
    pair.n1.receiver.facts = replace(
        pair.n1.receiver.facts,
        gtid_executed=GtidSet.parse(f"{A}:1-20"),
        gtid_purged=GtidSet.parse(f"{A}:1-9"),
    )
    index = pair.shared.index
    status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:6-9"})
    assert (status, f"pulls from {SECOND}" in message) == (409, True)
    assert pair.shared.index == index and not pair.shared.state.accepted_gap


def lose_one_answer(pair: Pair, *, arrived: bool) -> None:
    """The leader dies under the next forwarded request, before or after it did it."""

    def dies(_target: int) -> None:
        pair.transport.before = pair.transport.after = lambda _target: None
        raise PeerUnreachableError("the connection was closed", was_sent=True)

    if arrived:
        pair.transport.after = dies
    else:
        pair.transport.before = dies


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_failover_whose_answer_was_lost_is_made_once(pair: Pair, arrived: bool) -> None:
    """To an address it is repeated, and done if it was done; the next one of several is not taken
    again, or the one after it would be."""
    await started(pair)
    browser = Browser(pair.n2)
    lose_one_answer(pair, arrived=arrived)
    found = await browser.data("PUT", FAILOVER, {"to": SECOND})
    assert found == {"mysql_addr": SECOND, "notes": []}
    assert list(stored(pair).addresses) == [SECOND, FIRST, THIRD] and stored(pair).started

    pair.n1.receiver.now.address = SECOND
    lose_one_answer(pair, arrived=arrived)
    assert await browser.data("PUT", FAILOVER, {"to": SECOND}) == found, "it pulls from there"

    lose_one_answer(pair, arrived=arrived)
    status, message = await browser.refused("PUT", FAILOVER, {})
    assert (status, "answer is missing" in message) == (503, True)
    # Behind the second comes the first; it was taken once if the request arrived.
    assert list(stored(pair).addresses) == (
        [FIRST, SECOND, THIRD] if arrived else [SECOND, FIRST, THIRD]
    )


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_gap_whose_answer_was_lost_is_accepted_once(pair: Pair, arrived: bool) -> None:
    """And a refusal for another reason is told."""
    await started(pair)
    hold(pair, f"{A}:1-5")
    pair.n1.receiver.now.status = "error"
    pair.n1.receiver.facts = replace(
        pair.n1.receiver.facts,
        gtid_executed=GtidSet.parse(f"{A}:1-20"),
        gtid_purged=GtidSet.parse(f"{A}:1-9"),
    )
    browser = Browser(pair.n2)
    lose_one_answer(pair, arrived=arrived)
    assert (await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:6-8"}))[0] == 409
    lose_one_answer(pair, arrived=arrived)
    assert await browser.data("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:6-9"}) == ""
    assert pair.shared.state.accepted_gap == GtidSet.parse(f"{A}:6-9")


async def test_an_empty_relay_has_no_gap(pair: Pair) -> None:
    """It begins where start-from says."""
    browser = await started(pair)
    status, message = await browser.refused("PUT", ACCEPT_GAP, {"gtid_set": f"{A}:1"})
    assert (status, "empty" in message) == (409, True)
