"""Decisions before a session: fit or not, which epoch, which dump command."""

import dataclasses

import pytest

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.resume import ResumePoint
from kingbus.pb.command_pb2 import Command, LastTransaction, ReceiverSession, SourceConfig
from kingbus.replication.source_facts import (
    COM_BINLOG_DUMP,
    COM_BINLOG_DUMP_GTID,
    SourceFacts,
    SourceMissesError,
    by_gtid,
    dump_command,
    misfit,
    order_of,
    plan_session,
    reachable,
    register_command,
    start_set,
    unfit_config,
    unfit_source,
)

UUID = "50b5308f-e4f4-11f1-a9f2-02fc00000001"
OTHER = "51e89af9-e4f4-11f1-8609-02fc00000001"


def gtids(text):
    return GtidSet.parse(text)


def facts(**changed):
    values = {
        "address": "db:3306",
        "version": "9.7.4",
        "server_id": 11,
        "server_uuid": UUID,
        "gtid_mode": "ON",
        "has_binlog": True,
        "gtid_executed": gtids(f"{UUID}:1-9"),
        "gtid_purged": gtids(f"{UUID}:1-2"),
        "checksum": "CRC32",
        "clock": 0,
    }
    return SourceFacts(**{**values, **changed})


def config(**changed):
    return SourceConfig(**{"addresses": ["db:3306"], "mode": "gtid", "flavor": "mysql", **changed})


def point(**changed):
    values = {
        "channel": 0,
        "epoch": 1,
        "session": 1,
        "by_position": True,
        "file_name": "binlog.000007",
        "position": 2500,
        "executed": gtids(f"{UUID}:1-15"),
        "file_created": 1,
        "file_start": None,
        "last_transaction": LastTransaction(start_position=2305, end_position=2500),
        "dump_position": 2305,
    }
    return ResumePoint(**{**values, **changed})


def test_dump_commands_are_those_of_real_replicas():
    """The captured command by position, and the captured empty set of the other form."""
    assert dump_command(point(), server_id=71) == (
        COM_BINLOG_DUMP,
        bytes.fromhex("01090000 0200 47000000") + b"binlog.000007",
    )
    first = point(by_position=False, executed=GtidSet())
    assert dump_command(first, server_id=71) == (
        COM_BINLOG_DUMP_GTID,
        bytes.fromhex("0200 47000000 00000000 0400000000000000 08000000 0000000000000000"),
    )


def test_past_four_gigabytes_the_gtid_form_carries_the_position():
    """File name, whole position, and an empty set, so that nothing is skipped."""
    command, body = dump_command(point(dump_position=(1 << 32) + 5), server_id=71)

    assert command == COM_BINLOG_DUMP_GTID
    assert body[6:10] == (13).to_bytes(4, "little") and body[10:23] == b"binlog.000007"
    assert int.from_bytes(body[23:31], "little") == (1 << 32) + 5
    assert body[31:] == (8).to_bytes(4, "little") + bytes(8)
    assert dump_command(point(dump_position=0xFFFFFFFF), server_id=1)[0] == COM_BINLOG_DUMP


def test_a_source_before_5_7_reads_a_huge_file_again_from_its_beginning():
    """It cannot begin past 4 GiB in either form; others, and nearer positions, stay as they are."""
    far = point(dump_position=1 << 32)

    assert reachable(far, "5.6.24-log").dump_position == 4
    assert dump_command(reachable(far, "5.6.24-log"), server_id=1)[0] == COM_BINLOG_DUMP
    assert reachable(far, "5.7.44-log") is far and reachable(far, "9.7.4") is far
    assert reachable(point(), "5.6.24-log").dump_position == 2305
    first = point(by_position=False, dump_position=4)
    assert reachable(first, "5.6.24-log") is first


def test_an_unknown_file_is_asked_for_by_set():
    """The same point by GTID set names no file and the whole set."""
    command, body = dump_command(by_gtid(point()), server_id=71)

    assert command == COM_BINLOG_DUMP_GTID
    assert body[6:10] == bytes(4)
    assert body.endswith(gtids(f"{UUID}:1-15").encode())


def test_behind_an_accepted_gap_a_new_epoch_begins_at_the_same_source():
    """So that it is asked by set, and nothing joins the file before the gap."""
    state = RelayState()
    known = ReceiverSession(epoch=1, source_uuid=UUID)
    assert state.apply(1, Command(receiver_session=known)).accepted
    state.executed = gtids(f"{UUID}:1-4")
    assert plan_session(state, config(), facts(), new_epoch=False).epoch == 1
    state.accepted_gap = gtids(f"{UUID}:2")
    assert plan_session(state, config(), facts(), new_epoch=False).epoch == 2


def test_registration_is_that_of_a_real_replica():
    """The captured bytes of COM_REGISTER_SLAVE."""
    wanted = (
        bytes.fromhex("47000000 08") + b"rep-host" + bytes.fromhex("0000 2f81 00000000 00000000")
    )
    assert register_command(server_id=71, host="rep-host", port=33071) == wanted


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"flavor": ""}, ""),
        ({"flavor": "mariadb"}, "MariaDB"),
        ({"semi_sync": True}, ""),
        ({"mode": "position"}, "without GTIDs"),
        ({"addresses": []}, "address"),
        ({"start_from": "now"}, ""),
        ({"start_from": f"{UUID}:1-5"}, ""),
        ({"start_from": "yesterday"}, "start-from"),
    ],
)
def test_what_is_not_possible_yet_is_refused_by_name(changed, words):
    """Each setting that would do nothing is refused in one sentence."""
    reason = unfit_config(config(**changed))
    assert words in reason and bool(reason) == bool(words), reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"version": "5.5.5-10.11.19-MariaDB-log"}, "MariaDB"),
        ({"has_binlog": False}, "no binary log"),
        ({"gtid_mode": "ON_PERMISSIVE"}, "gtid_mode=ON_PERMISSIVE"),
        ({"server_uuid": OTHER.upper()}, "own server uuid"),
        ({"server_uuid": ""}, "no server uuid"),
        ({"server_id": 99}, "equal server ids"),
    ],
)
def test_an_unfit_source_is_told_what_it_lacks(changed, words):
    """gtid_mode, binary log, flavor and identities are looked at before anything else."""
    reason = unfit_source(facts(**changed), own_id=99, own_uuid=OTHER)
    assert words in reason and bool(reason) == bool(words), reason


def test_sets_that_do_not_fit_are_named():
    """What the source purged and the relay lacks; what the relay has and the source lacks."""
    assert misfit(facts(), gtids(f"{UUID}:1-5")) is None
    assert misfit(facts(), gtids(f"{UUID}:1-9")) is None
    assert f"relay lacks: {UUID}:2" in str(misfit(facts(), gtids(f"{UUID}:1:3-5")))
    extra = misfit(facts(), gtids(f"{UUID}:1-12,{OTHER}:4"))
    assert f"source lacks: {UUID}:10-12,{OTHER}:4" in str(extra)


def test_an_empty_relay_begins_where_it_is_told_to():
    """earliest: behind what is purged; now: behind everything; or behind a set."""
    assert start_set(config(), facts()) == gtids(f"{UUID}:1-2")
    assert start_set(config(start_from="earliest"), facts()) == gtids(f"{UUID}:1-2")
    assert start_set(config(start_from="now"), facts()) == gtids(f"{UUID}:1-9")
    assert start_set(config(start_from=f"{UUID}:1-4"), facts()) == gtids(f"{UUID}:1-4")
    with pytest.raises(SourceMissesError):
        plan_session(RelayState(), config(start_from=f"{UUID}:1"), facts(), new_epoch=False)


def test_the_epoch_rises_with_the_source():
    """The same uuid keeps it; another uuid, or another file under a held name, raises it."""
    state = RelayState()
    plan = plan_session(state, config(), facts(), new_epoch=False)
    assert (plan.epoch, plan.start_set) == (1, gtids(f"{UUID}:1-2"))
    session = ReceiverSession(epoch=1, source_uuid=UUID, start_set=plan.start_set.encode())
    assert state.apply(1, Command(receiver_session=session)).accepted

    assert plan_session(state, config(), facts(), new_epoch=False).epoch == 1
    assert plan_session(state, config(), facts(), new_epoch=True).epoch == 2
    other = dataclasses.replace(facts(), server_uuid=OTHER)
    assert plan_session(state, config(), other, new_epoch=False).epoch == 2
    upper = dataclasses.replace(facts(), server_uuid=UUID.upper())
    assert plan_session(state, config(), upper, new_epoch=False).epoch == 1


def test_candidates_take_turns():
    """Each begins once, and the others follow in their order."""
    assert order_of(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert order_of(["a", "b", "c"], 4) == ["b", "c", "a"]
