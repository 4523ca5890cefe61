"""Decisions before a session: fit or not, which epoch, which dump command."""

import dataclasses

import numpy as np
import pytest

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.resume import ResumePoint
from kingbus.pb.command_pb2 import (
    Command,
    EventBatch,
    FileStart,
    LastTransaction,
    ReceiverSession,
    SourceConfig,
)
from kingbus.replication.source_facts import (
    COM_BINLOG_DUMP,
    COM_BINLOG_DUMP_GTID,
    SourceFacts,
    SourceMissesError,
    SourceUnfitError,
    by_gtid,
    dump_command,
    mariadb_position,
    misfit,
    order_of,
    owned_set,
    plan_session,
    reachable,
    register_command,
    start_file,
    start_set,
    unfit_config,
    unfit_flavor,
    unfit_source,
)
from tests.support.events import BinlogFile, packets_of

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
        ({"flavor": "mariadb"}, ""),
        ({"flavor": "oracle"}, "oracle"),
        ({"semi_sync": True}, ""),
        ({"mode": "position"}, ""),
        ({"mode": "file"}, "neither gtid nor position"),
        ({"mode": "position", "start_from": "now"}, ""),
        ({"mode": "position", "start_from": "bin.000007"}, ""),
        ({"mode": "position", "start_from": f"{UUID}:1-5"}, "not the name of a binary log file"),
        ({"mode": "position", "start_from": "../bin.000007"}, "not the name"),
        ({"start_from": "bin.000007"}, "start-from"),
        ({"compression": "zstd"}, ""),
        ({"compression": "zstd", "semi_sync": True}, "over a compressed connection is not avail"),
        ({"compression": "lz4"}, "neither zlib nor zstd"),
        ({"addresses": []}, "address"),
        ({"start_from": "now"}, ""),
        ({"start_from": f"{UUID}:1-5"}, ""),
        ({"start_from": "yesterday"}, "start-from"),
        ({"start_from": "0-1-5"}, "0-1-5 is no GTID set of a mysql source"),
        ({"start_from": "0-1-5", "flavor": "mariadb"}, ""),
        ({"start_from": f"{UUID}:1-5", "flavor": "mariadb"}, "no GTID set of a mariadb source"),
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
        ({"version": "10.11.19-MariaDB-log"}, "mariadb server (10.11.19-MariaDB-log), and a mysql"),
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


@pytest.mark.parametrize("gtid_mode", ["OFF", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON", ""])
def test_by_position_any_gtid_mode_will_do(gtid_mode):
    """Sources go from one to the other while they run; what else must be fit still must."""
    known = facts(gtid_mode=gtid_mode)
    assert unfit_source(known, own_id=99, own_uuid=OTHER, mode="position") == ""
    without = dataclasses.replace(known, has_binlog=False)
    assert "no binary log" in unfit_source(without, own_id=99, own_uuid=OTHER, mode="position")


def begun(mode):
    """The state of a relay that holds a file, begun in that mode."""
    state = RelayState()
    session = ReceiverSession(epoch=1, source_uuid=UUID, mode=mode)
    assert state.apply(1, Command(receiver_session=session)).accepted
    file = BinlogFile("bin.000001").begin()
    start = FileStart(created=file.created, server_version=file.version, checksum_algorithm=1)
    packets = packets_of([each.event for each in file.events])
    lengths = [0, *(len(each) for each in packets)][: len(packets)]
    batch = EventBatch(
        session=1,
        epoch=1,
        file_name=file.name,
        start_position=4,
        end_position=file.position,
        packet_offsets=np.cumsum(lengths).astype("<u4").tobytes(),
        visible_packets=len(packets),
        visible_position=file.position,
        file_start=start,
    )
    changes = state.apply(2, Command(event_batch=batch))
    assert changes.accepted, changes.reason
    return state


def test_by_position_only_the_same_server_is_gone_on_with():
    """Sets are not compared; another server is refused, and so is another mode than the first."""
    wanted = config(mode="position")
    strange = facts(gtid_executed=gtids(f"{OTHER}:1"), gtid_purged=gtids(f"{OTHER}:1"))
    assert plan_session(RelayState(), wanted, strange, new_epoch=False).epoch == 1
    assert plan_session(begun("position"), wanted, strange, new_epoch=False).epoch == 1
    other = dataclasses.replace(strange, server_uuid=OTHER)
    with pytest.raises(SourceMissesError, match="not the server that the relay was pulling from"):
        plan_session(begun("position"), wanted, other, new_epoch=False)
    for first in ("gtid", ""):
        with pytest.raises(SourceUnfitError, match="begun in mode gtid and cannot go on in mode p"):
            plan_session(begun(first), wanted, facts(), new_epoch=False)
    with pytest.raises(SourceUnfitError, match="begun in mode position and cannot go on in mode g"):
        plan_session(begun("position"), config(mode=""), facts(), new_epoch=False)


def test_by_position_no_dump_is_asked_for_by_set():
    """An empty relay names a file or none; past 4 GiB the file is read again from its beginning."""
    empty = point(by_position=False, file_name="", gtid_mode=False)
    for first_file in ("", "bin.000004"):
        command, body = dump_command(empty, server_id=71, first_file=first_file)
        assert (command, body[:4]) == (COM_BINLOG_DUMP, (4).to_bytes(4, "little"))
        assert body[10:] == first_file.encode()
    far = point(gtid_mode=False, dump_position=(1 << 32) + 5, position=(1 << 32) + 99)
    assert reachable(far, "9.7.4").dump_position == 4
    assert dump_command(reachable(far, "9.7.4"), server_id=1)[0] == COM_BINLOG_DUMP


async def test_where_an_empty_relay_begins_without_gtids():
    """At the oldest file, at the one that is written now, or at one that is named."""

    async def newest():
        return "bin.000009"

    assert await start_file(config(), newest) == ""
    assert await start_file(config(start_from="earliest"), newest) == ""
    assert await start_file(config(start_from="now"), newest) == "bin.000009"
    assert await start_file(config(start_from="bin.000004"), newest) == "bin.000004"


def test_the_flavor_of_a_source_is_the_one_configured_and_the_log_s():
    """One error names both, in either direction."""
    reason = unfit_source(facts(), own_id=99, own_uuid=OTHER, flavor="mariadb")
    assert reason == "the source is a mysql server (9.7.4), and a mariadb source is configured"
    assert unfit_flavor("", config()) == unfit_flavor("mysql", config(flavor="")) == ""
    assert unfit_flavor("mariadb", config(flavor="mariadb")) == ""
    reason = unfit_flavor("mariadb", config())
    assert "relays a mariadb source and cannot go on with a mysql source" in reason
    assert "relays a mysql source" in unfit_flavor("mysql", config(flavor="mariadb"))


def mariadb_facts(**changed):
    values = {
        "version": "10.11.19-MariaDB-log",
        "server_uuid": "mariadb-server-1",
        "gtid_executed": gtids("0-1-90,0-2-120,5-1-7"),
        "gtid_purged": gtids("0-1-40"),
    }
    return facts(**{**values, **changed})


@pytest.mark.parametrize(
    ("has", "words"),
    [
        ("0-1-40", ""),
        ("0-2-120", ""),
        ("0-1-90,5-1-7", ""),
        ("0-1-30,0-2-31..60", ""),  # the last of the domain counts, whoever wrote it
        ("", "purged transactions up to 0-1-40, which the relay lacks: it has up to nothing"),
        ("0-1-39", "it has up to 0-1-39"),
        ("0-2-121", "is at 0-2-121, which the source does not have"),
        ("0-1-50,7-1-1", "is at 7-1-1"),
        ("0-3-60", "is at 0-3-60"),
    ],
)
def test_positions_of_mariadb_fit_by_domains(has, words):
    """Behind what was purged, and at a GTID that the source knows."""
    error = misfit(mariadb_facts(), gtids(has), known=None)
    assert words in str(error) and (error is not None) == bool(words), error


def test_mariadb_is_asked_by_the_one_command_that_it_knows():
    """By position as MySQL; by GTID without a file, the position being told before."""
    by_file = point(position=2500, dump_position=2305)
    assert mariadb_position(by_file) is None
    assert dump_command(by_file, server_id=71, flavor="mariadb") == dump_command(
        by_file, server_id=71
    )
    by_set = point(by_position=False, executed=gtids("0-1-7,0-2-8..9,3-1-4"))
    assert mariadb_position(by_set) == "0-2-9,3-1-4"
    command, body = dump_command(by_set, server_id=71, flavor="mariadb")
    assert (command, body) == (0x12, bytes.fromhex("04000000 0200 47000000"))
    far = reachable(point(dump_position=1 << 32), "11.4.2-MariaDB", "mariadb")
    assert far.dump_position == 4


def test_sets_that_do_not_fit_are_named():
    """What the source purged and the relay lacks; what the relay has and the source lacks."""
    assert misfit(facts(), gtids(f"{UUID}:1-5"), known=None) is None
    assert misfit(facts(), gtids(f"{UUID}:1-9"), known=None) is None
    assert f"relay lacks: {UUID}:2" in str(misfit(facts(), gtids(f"{UUID}:1:3-5"), known=None))
    extra = misfit(facts(), gtids(f"{UUID}:1-12,{OTHER}:4"), known=None)
    assert f"source lacks: {UUID}:10-12,{OTHER}:4" in str(extra)


def test_what_a_source_waits_for_is_no_surplus_of_the_relay():
    """With AFTER_SYNC it has in its binary log, and does not count as executed, what the relay got
    and has yet to acknowledge. Of another server it counts only what is executed."""
    waits = facts(gtid_owned=gtids(f"{UUID}:10"))
    present, other = ReceiverSession(source_uuid=UUID.upper()), ReceiverSession(source_uuid=OTHER)
    assert misfit(waits, gtids(f"{UUID}:1-10"), known=present) is None
    beyond = misfit(waits, gtids(f"{UUID}:1-11"), known=present)
    assert f"source lacks: {UUID}:11 " in f"{beyond} "
    for known in (other, None):
        assert f"source lacks: {UUID}:10" in str(misfit(waits, gtids(f"{UUID}:1-10"), known=known))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (f"{UUID}:56#9", f"{UUID}:56"),
        (f"{UUID}:56#9#11:58#7,\n{OTHER}:3#12", f"{UUID}:56:58,{OTHER}:3"),
        (f"{UUID}:red:5#8", f"{UUID}:red:5"),
        ("what a later version may say", ""),
    ],
)
def test_a_set_of_owned_transactions_is_read_without_their_threads(text, expected):
    """Whatever cannot be read says nothing."""
    assert owned_set(text) == gtids(expected)


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
