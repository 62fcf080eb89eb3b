"""The simulation behind docs/explanation/scaling.md, against what can be computed by hand."""

import json
from pathlib import Path

import pytest
import simpy

from benchmarks import scaling

ROOT = Path(__file__).parent.parent


@pytest.fixture
def measured():
    """Return measurements of a server that takes 4 ms per call and 1 ms per face, and 1.5 times that with two calls."""
    calls = {
        str(size): {"alone_s": 0.004 + 0.001 * size, "together_s": 0.006 + 0.0015 * size, "cpu_s": 0}
        for size in scaling.SIZES
    }
    return {"calls": calls, "overhead_s": 0.0}


def test_a_lone_face_waits_for_the_batch_and_for_the_slower_of_both_models(measured):
    p50, _, batch = scaling.simulate(measured, rate=0.5, count=500)
    assert p50 == pytest.approx(0.001 + 0.006 + 0.0015)
    assert batch == pytest.approx(1, abs=0.02)


def test_a_replica_answers_everybody_in_full_batches_when_all_come_at_once(measured):
    env = simpy.Environment()
    replica = scaling.Replica(env, measured, largest=8)
    for _ in range(64):
        replica.ask()
    env.run()
    assert len(replica.latencies) == 64
    assert replica.batches_run == 2 * 64 / 8
    # Eight batches of each model, two at a time.
    assert max(replica.latencies) == pytest.approx(8 * (0.006 + 0.0015 * 8), rel=0.05)


def test_waiting_times_are_short_below_the_capacity_and_grow_above_it(measured):
    most = scaling.capacity(measured, 8)
    assert most == pytest.approx(8 / (0.006 + 0.0015 * 8))
    _, calm, _ = scaling.simulate(measured, rate=0.7 * most, count=3000, largest=8)
    _, full, _ = scaling.simulate(measured, rate=1.3 * most, count=3000, largest=8)
    assert calm < 0.2
    assert full > 1


def test_the_rate_within_a_target_lies_between_the_points_around_it():
    points = [(100, 0, 0.010, 1), (200, 0, 0.020, 1), (300, 0, 0.060, 1)]
    assert scaling.most_within(points, 0.040) == pytest.approx(250)
    assert scaling.most_within(points, 0.005) == 0
    assert scaling.most_within(points, 1) == 300
    assert scaling.replicas(1000, 250) == 5


def test_the_document_shows_what_was_measured():
    measured, text = (
        json.loads(scaling.MEASURED.read_text(encoding="utf-8")),
        scaling.DOCUMENT.read_text(encoding="utf-8"),
    )
    assert f"Measured on {measured['machine']['cores']} cores" in text
    for size in scaling.SIZES:
        call = measured["calls"][str(size)]
        assert f"| {size} | {1000 * call['alone_s']:.2f} | {1000 * call['together_s']:.2f} |" in text
    for name, found in measured["protocols"].items():
        assert f"| {name} | {1000 * found['cpu_s']:.2f} | {found['bytes']:,.0f} |" in text


def test_the_simulation_has_the_settings_of_the_deployment():
    batching = scaling.BATCHING.read_text(encoding="utf-8")
    assert f"max_execution_batch_size {{ value: {scaling.LARGEST} }}" in batching
    assert f"batch_timeout_micros {{ value: {scaling.WAIT_S * 1e6:.0f} }}" in batching
    assert f"num_batch_threads {{ value: {scaling.THREADS} }}" in batching
    autoscaler = (ROOT / "deploy/k8s/overlays/production/autoscaler.yaml").read_text(encoding="utf-8")
    assert f"maxReplicas: {scaling.MOST_REPLICAS}\n" in autoscaler
