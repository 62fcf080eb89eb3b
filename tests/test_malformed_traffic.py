"""Malformed requests on every port: nobody crashes, memory stays, and callers beside them are answered correctly."""

import pytest

from fuzz.traffic import Beside, ports, resident_megabytes

REQUESTS = 10_000
"""For each port; `make fuzz` sends as many, and compares latencies."""
GROWTH_MB = 100


@pytest.fixture(scope="module")
def opened(published):
    with ports(published) as opened:
        yield {port.name: port for port in opened}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server REST", "server gRPC", "gateway HTTP", "gateway WebSocket"])
def test_well_formed_calls_succeed_beside_malformed_ones(opened, name):
    port = opened[name]
    port.flood(REQUESTS // 4)
    before = resident_megabytes(port.pid)
    with Beside(port.ask) as beside:
        port.flood(REQUESTS)
    assert beside.errors == []
    assert beside.seconds
    assert resident_megabytes(port.pid) - before < GROWTH_MB
