"""The arithmetic of the scaling model, and that the page shows what it computes."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.node.status import NodeSettings
from kingbus.replication.binlog_server import CONNECTIONS_MAX
from scripts.benchmark import catalogue, scaling
from scripts.benchmark.scaling import (
    Calibration,
    CalibrationError,
    Shape,
    cached_seconds,
    calibration_of,
    far_limits,
    limit,
    load,
    plan,
    replicas_per_node,
    trickle,
    wire_mb_per_second,
)
from scripts.benchmark.scaling_tables import (
    TABLES,
    filled,
    names_in,
    percent,
    rate,
    seconds_text,
)

OPERATING = Path(__file__).resolve().parents[3] / "docs" / "operating"
COSTS = Calibration(
    revision="abc",
    machine="a machine",
    pull_mb_per_second=200.0,
    pull_cpu_ms_per_mb=5.0,
    member_cpu_ms_per_mb=4.0,
    dump_cpu_ms_per_mb=1.0,
    node_mb=150.0,
    replica_kb=40.0,
    replica_idle_cpu_us_per_second=2.5,
    wake_cpu_us=200.0,
)
shapes = st.builds(
    Shape,
    nodes=st.integers(1, 5),
    workers=st.integers(0, 8),
    gbit=st.sampled_from([1.0, 10.0, 25.0]),
)


def test_one_node_alone_pulls_as_fast_as_it_was_measured():
    """Nothing else bounds it where network and cores are ample."""
    found = limit(COSTS, Shape(nodes=1, workers=1, gbit=100), 0)
    assert (round(found.mb_per_second), found.by) == (200, scaling.PULL)


def test_a_node_that_does_all_itself_has_one_core_for_it():
    """0.8 s of CPU a second, 5 ms to pull a MB and 1 ms for each of 35 replicas."""
    found = limit(COSTS, Shape(nodes=1, gbit=100), 35)
    assert (found.mb_per_second, found.by) == (20.0, scaling.NODE_CORE)


def test_workers_take_the_sending_from_the_core_and_share_it():
    """Two workers, 100 replicas: 1.6 s of CPU a second for 100 ms."""
    found = limit(COSTS, Shape(nodes=1, workers=2, gbit=100), 100)
    assert (found.mb_per_second, found.by) == (16.0, scaling.DUMP_CORES)


def test_the_network_carries_replicas_and_members():
    """The leader of five with 20 of 100 replicas sends the log 24 times."""
    found = limit(COSTS, Shape(nodes=5, workers=8, gbit=1), 100)
    assert found.by == scaling.NETWORK
    assert found.mb_per_second == pytest.approx(wire_mb_per_second(1) / 24)


def test_members_slow_the_pull():
    """200 MB/s are 5 ms for each MB; four more members with 2 ms each at the leader make it 13."""
    found = limit(COSTS, Shape(nodes=5, workers=1, gbit=100), 0)
    assert found.mb_per_second == pytest.approx(1000 / 13)


@given(shapes, st.integers(0, 1000), st.integers(1, 500))
def test_more_replicas_are_never_sent_to_faster(shape, replicas, more):
    """Whatever bounds it."""
    fewer = limit(COSTS, shape, replicas).mb_per_second
    assert limit(COSTS, shape, replicas + more).mb_per_second <= fewer


@given(shapes, st.floats(0.1, 300))
def test_as_many_replicas_as_a_node_is_said_to_serve_and_not_one_more(shape, rate):
    """The search agrees with the formula that it searches."""
    most = replicas_per_node(COSTS, shape, rate)
    if most:
        assert limit(COSTS, shape, most * shape.nodes).mb_per_second >= rate
    if most < scaling.REPLICAS_MAX:
        assert limit(COSTS, shape, (most + 1) * shape.nodes).mb_per_second < rate


@given(shapes, st.integers(1, 5000), st.floats(0.1, 100))
def test_each_tier_of_a_plan_can_be_served_by_the_one_before(shape, replicas, rate):
    """And the first tier, without which nothing is served, by the cluster's nodes."""
    found = plan(COSTS, shape, replicas, rate)
    first = shape.nodes * replicas_per_node(COSTS, shape, rate)
    if found is None:
        assert first < replicas
        return
    below = [*found.relays, replicas]
    assert below[0] <= first
    assert all(served <= relays * found.per_relay for relays, served in pairwise(below))
    assert found.tiers == len(below)


def test_a_thousand_replicas_need_one_relay_for_every_so_many():
    """A relay by itself sends 20 MB/s to 35 replicas; three nodes to 93."""
    shape = Shape(nodes=3, gbit=100)
    assert replicas_per_node(COSTS, Shape(nodes=1, gbit=100), 20) == 35
    assert 3 * replicas_per_node(COSTS, shape, 20) == 3 * 31
    found = plan(COSTS, shape, 1000, 20)
    assert found is not None
    assert found.relays == (29,)
    assert plan(COSTS, shape, 93, 20) == replace(found, relays=())
    assert plan(COSTS, shape, 94, 20) == replace(found, relays=(3,))


def test_what_cannot_be_pulled_cannot_be_planned():
    """No number of relays makes one of them faster."""
    assert plan(COSTS, Shape(nodes=3, workers=8, gbit=100), 1, 150) is None


def test_a_leader_needs_what_it_pulls_sends_and_holds():
    """Ten MB/s, 30 of 90 replicas and two members."""
    needs = load(COSTS, Shape(nodes=3, workers=2), 90, 10.0)
    assert (needs.in_mb_per_second, needs.out_mb_per_second) == (10.0, 320.0)
    assert needs.core_percent == pytest.approx(9.0)
    assert needs.dump_percent == pytest.approx(30.0, rel=0.001)
    assert needs.memory_mb == pytest.approx(151.2)
    alone = load(COSTS, Shape(nodes=3), 90, 10.0)
    assert alone.core_percent == pytest.approx(39.0, rel=0.001)
    assert alone.dump_percent == 0.0


def test_a_transaction_reaches_the_last_replica_after_all_others():
    """A thousand times 0.2 ms, by one core or by four; ten a second fill two cores."""
    one = trickle(COSTS, Shape(nodes=1), 1000, 10.0)
    four = trickle(COSTS, Shape(nodes=1, workers=4), 1000, 10.0)
    assert (one.spread_ms, four.spread_ms) == (200.0, 50.0)
    assert one.core_percent == pytest.approx(200.25)
    assert four.core_percent == pytest.approx(50.0625)


def test_a_far_stream_is_bounded_by_windows_and_loss():
    """160 ms there and back: 16 MiB, 3 MB, and 17 segments for half a per cent of loss."""
    found = far_limits(rtt_seconds=0.16, loss=0.005, window_bytes=3e6)
    assert [each.by for each in found] == ["in flight", "TCP window", "loss"]
    assert [round(each.mb_per_second, 2) for each in found] == [104.86, 18.75, 0.16]
    assert len(far_limits(rtt_seconds=0.16, loss=0.0, window_bytes=3e6)) == 2


def test_a_cache_lasts_as_long_as_it_takes_to_fill_it():
    assert cached_seconds(cache_gb=16, mb_per_second=10) == 1600


def test_the_limits_that_the_model_takes_from_the_product_are_the_products():
    """A listener takes all the replicas that a plan gives it."""
    assert NodeSettings().inflight_bytes_max == scaling.IN_FLIGHT_BYTES
    assert scaling.REPLICAS_MAX < CONNECTIONS_MAX


def report() -> dict:
    def row(name, **more):
        return {"measurement": name, **more}

    return {
        "revision": "abc",
        "machine": {"cpu": "one", "cores": 2, "load_before": 0.25},
        "results": [
            {
                "workload": "mixed",
                "measurements": [
                    row(catalogue.INGEST_ONE, cpu_ms_per_mb=5.0, mb_per_second=200.0),
                    row(catalogue.INGEST_THREE, cpu_ms_per_mb=13.0, peak_anonymous_mb=150.0),
                    row(catalogue.DUMP_TO_MANY, cpu_ms_per_mb=1.0),
                ],
            },
            {
                "workload": "replicas",
                "measurements": [
                    row(catalogue.REPLICA_MEMORY, value=40.0),
                    row(catalogue.REPLICAS_SILENT, value=2.5),
                    row(catalogue.REPLICA_WAKE, value=200.0),
                ],
            },
        ],
    }


def test_a_report_calibrates_the_model():
    """What three nodes need more than one is that of two further members."""
    assert calibration_of(report()) == replace(COSTS, machine="one, 2 cores, load 0.25")


def test_a_report_without_a_part_is_refused_by_name():
    incomplete = report()
    del incomplete["results"][1]
    with pytest.raises(CalibrationError, match="`memory of an attached replica` in `replicas`"):
        calibration_of(incomplete)


def test_figures_have_as_many_digits_as_a_model_knows():
    """And units that people would use."""
    assert [rate(each) for each in (123.4, 10.4, 9.96, 1.04, 0.123)] == [
        *("123", "10", "10.0", "1.0", "0.12")
    ]
    assert [percent(each) for each in (163.4, 1.0, 0.9)] == ["163 %", "1 %", "< 1 %"]
    assert [seconds_text(each) for each in (80, 119, 120, 7100, 7200)] == [
        *("80 s", "119 s", "2 min", "118 min", "2 h")
    ]


def test_the_page_shows_what_the_model_computes_by_the_committed_figures():
    """All of its tables; `scripts/scaling --report FILE --write` makes both anew."""
    costs = Calibration(**json.loads((OPERATING / "scaling.json").read_text(encoding="utf-8")))
    page = (OPERATING / "scaling.md").read_text(encoding="utf-8")
    assert sorted(names_in(page)) == sorted(TABLES)
    assert filled(page, costs) == page
    assert filled(page, replace(costs, dump_cpu_ms_per_mb=99.0)) != page
