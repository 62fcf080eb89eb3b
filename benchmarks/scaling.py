"""Measure the cost of a face, simulate replicas, and write the tables and charts of docs/explanation/scaling.md.

    python -m benchmarks.scaling [--repository models] [--simulate-only]

Close everything else: server and clients share this machine. docs/explanation/scaling/measured.json keeps the
measurements; --simulate-only computes the rest from them again. It takes about three minutes.
"""

# ruff: noqa: S311, T201
from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import platform
import random
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import requests
import simpy
from mien_serving import LocalModelServer

from benchmarks.workload import (
    MODELS,
    PREDICT,
    GrpcClient,
    check_repository,
    faces,
    latency,
    many_clients_throughput,
    predict_request,
)

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "explanation" / "scaling.md"
FOLDER = ROOT / "docs" / "explanation" / "scaling"
MEASURED = FOLDER / "measured.json"
BATCHING = ROOT / "deploy" / "k8s" / "base" / "batching.config"

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LARGEST = 64
"""Faces in a batch, as `BATCHING` says; and how long one waits for more."""
WAIT_S = 0.001
THREADS = 2
REPLICA_CORES = 2
RATES = (100, 1_000, 10_000, 100_000)
"""Faces a second: what is 1×, and 10×, 100× and 1000× of it."""
TARGETS_S = (0.025, 0.05, 0.1)
MOST_REPLICAS = 30
"""Of the autoscaler in deploy/k8s/overlays/production."""
DNS_REPLICAS = 72
"""Addresses in a DNS answer of 1,232 bytes, the most that goes in one packet: about 64 for the question, 16 each."""
PRICE = 0.04
"""Of one processor for an hour, in whatever currency: an assumption, put your own."""


# --- Measuring ----------------------------------------------------------------------------------------------------


def measure(repository: Path) -> dict[str, Any]:
    """Asks a server that does nothing else, and looks at the processor time that it takes."""
    models = {model: repository / model for model in MODELS}
    with tempfile.TemporaryDirectory() as folder:
        monitoring = Path(folder) / "monitoring.config"
        monitoring.write_text("prometheus_config { enable: true }", encoding="utf-8")
        flags = ["--grpc_max_threads=1024"]
        flags += [f"--tensorflow_{kind}_op_parallelism={REPLICA_CORES}" for kind in ("intra", "inter")]
        batching = [
            "--enable_batching",
            f"--batching_parameters_file={BATCHING}",
            f"--monitoring_config_file={monitoring}",
        ]
        with LocalModelServer(models, flags=flags) as server:
            calls = {size: _calls(server, size) for size in SIZES}
            protocols = _protocols(server)
        with LocalModelServer(models, flags=[*flags, *batching]) as server:
            overhead = _overhead(server, {size: found["cpu_s"] for size, found in calls.items()})
            capacity = REPLICA_CORES / (2 * (calls[LARGEST]["cpu_s"] / LARGEST + overhead))
            validation = [_open_loop(server, round(capacity * share)) for share in (0.05, 0.1, 0.2)]
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "date": time.strftime("%Y-%m-%d"),
        "calls": calls,
        "overhead_s": overhead,
        "protocols": protocols,
        "validation": validation,
    }


def _calls(server: LocalModelServer, size: int) -> dict[str, float]:
    """Return the seconds of one call to one model: alone, beside a second call, and of processor time."""
    clients = [GrpcClient(server.grpc_address) for _ in range(THREADS)]
    asked = [predict_request(model, faces(size)) for model in MODELS]
    count = max(10, 256 // size)

    def work(client: GrpcClient) -> list[float]:
        return latency(lambda: client.ask_in_turn(*asked), count)

    work(clients[0])
    alone = np.median(work(clients[0])) / len(asked)
    found: list[float] = []
    before = _cpu_s(server)
    threads = [threading.Thread(target=lambda client=client: found.extend(work(client))) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu = (_cpu_s(server) - before) / (len(clients) * count * len(asked))
    for client in clients:
        client.close()
    return {"alone_s": float(alone), "together_s": float(np.median(found)) / len(asked), "cpu_s": cpu}


def _overhead(server: LocalModelServer, cpu_s: dict[int, float]) -> float:
    """Processor time of a request of one face, less what its share of a batch takes."""
    many_clients_throughput(server.grpc_address, LARGEST, 20 * LARGEST)
    before, runs = _cpu_s(server), _batches(server)
    count = 100 * LARGEST
    many_clients_throughput(server.grpc_address, LARGEST, count)
    batch = count * len(MODELS) / (_batches(server) - runs)
    share = float(np.interp(batch, SIZES, [cpu_s[size] for size in SIZES])) / batch
    return max(0.0, (_cpu_s(server) - before) / (count * len(MODELS)) - share)


def _batches(server: LocalModelServer) -> float:
    page = requests.get(f"{server.rest_url}/monitoring/prometheus/metrics", timeout=30).text
    return float(re.findall(r"^:tensorflow:serving:batching_session:wrapped_run_count (\S+)", page, re.M)[0])


def _protocols(server: LocalModelServer) -> dict[str, dict[str, float]]:
    """Return the server's processor time and the bytes in both directions, per face of both models, by protocol."""
    images = faces(LARGEST)
    raw = [{"b64": base64.b64encode(image.tobytes()).decode()} for image in images]
    client, session = GrpcClient(server.grpc_address), requests.Session()
    messages = [predict_request(model, images) for model in MODELS]
    sent: dict[str, Callable[[], int]] = {
        "gRPC": lambda: _ask(client, messages),
        "REST, raw bytes": lambda: _post(server, session, {"signature_name": "serving_raw", "instances": raw}),
        "REST, lists": lambda: _post(server, session, {"instances": images.tolist()}),
    }
    answers = sum(_answer_bytes(server, message) for message in messages)
    found = {}
    for name, ask in sent.items():
        ask()
        before, calls = _cpu_s(server), 15
        total = sum(ask() for _ in range(calls))
        received = answers if name == "gRPC" else 0
        found[name] = {
            "cpu_s": (_cpu_s(server) - before) / (calls * LARGEST),
            "bytes": total / (calls * LARGEST) + received / LARGEST,
        }
    client.close()
    return found


def _post(server: LocalModelServer, session: requests.Session, body: object) -> int:
    text, total = json.dumps(body).encode(), 0
    for model in MODELS:
        answer = session.post(f"{server.rest_url}/v1/models/{model}:predict", data=text, timeout=600)
        answer.raise_for_status()
        total += len(text) + len(answer.content)
    return total


def _ask(client: GrpcClient, messages: Sequence[bytes]) -> int:
    client.ask(*messages)
    return sum(map(len, messages))


def _answer_bytes(server: LocalModelServer, message: bytes) -> int:
    with grpc.insecure_channel(server.grpc_address) as channel:
        predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        return len(predict(message))


def _open_loop(server: LocalModelServer, rate: int) -> dict[str, float]:
    """Send analyses of one face at random times, whether or not earlier ones are answered; return what callers wait."""
    found = sorted(asyncio.run(_arrivals(server.grpc_address, rate, 15.0)))
    return {"rate": rate, "p50_s": found[len(found) // 2], "p99_s": found[int(len(found) * 0.99)]}


async def _arrivals(address: str, rate: int, seconds: float) -> list[float]:
    asked, found = [predict_request(model, faces(1)) for model in MODELS], []
    dice = random.Random(rate)
    async with grpc.aio.insecure_channel(address) as channel:
        predict: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)

        async def analysis() -> None:
            start = time.perf_counter()
            await asyncio.gather(*(predict(request, timeout=60) for request in asked))
            found.append(time.perf_counter() - start)

        await asyncio.gather(*(analysis() for _ in range(20)))
        found.clear()
        async with asyncio.TaskGroup() as group:
            due = start = time.perf_counter()
            while due < start + seconds:
                due += dice.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(analysis())
    return found


def _cpu_s(server: LocalModelServer) -> float:
    """Processor seconds that the server has taken."""
    user, system = Path(f"/proc/{server.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return str(names[0]) if names else platform.machine()


# --- Simulating ---------------------------------------------------------------------------------------------------


@dataclass
class Analysis:
    """One face that both models are asked about."""

    came: float
    open_parts: int = len(MODELS)


@dataclass
class Replica:
    """A server: a queue for each model, and threads that each run one batch at a time.

    Attributes:
        largest: Faces in a batch.
        wait_s: How long a batch that is not full waits for more.
    """

    env: simpy.Environment
    measured: dict[str, Any]
    largest: int = LARGEST
    wait_s: float = WAIT_S
    latencies: list[float] = field(default_factory=list)
    faces_run: int = 0
    batches_run: int = 0

    def __post_init__(self) -> None:
        self._queues: list[deque[tuple[float, Analysis]]] = [deque() for _ in MODELS]
        self._changed, self._busy = self.env.event(), 0
        calls = [self.measured["calls"][str(size)] for size in SIZES]
        sizes = np.arange(self.largest + 1)
        overhead = sizes * self.measured["overhead_s"] / REPLICA_CORES
        self._alone, self._together = (
            (np.interp(sizes, SIZES, [call[name] for call in calls]) + overhead).tolist()
            for name in ("alone_s", "together_s")
        )
        for _ in range(THREADS):
            self.env.process(self._thread())

    def ask(self) -> None:
        """Add a face to the queues of both models."""
        analysis = Analysis(self.env.now)
        for queue in self._queues:
            queue.append((self.env.now, analysis))
        if len(self._queues[0]) == 1 or any(len(queue) == self.largest for queue in self._queues):
            self._changed.succeed()
            self._changed = self.env.event()

    def _thread(self) -> Generator[simpy.Event, None, None]:
        while True:
            waiting = [queue for queue in self._queues if queue]
            # Not zero but a nanosecond, or rounding could let time stand still.
            due = [queue for queue in waiting if len(queue) >= self.largest or self._until_due(queue) < 1e-9]
            if due:
                queue = min(due, key=lambda queue: queue[0][0])
                batch = [queue.popleft()[1] for _ in range(min(self.largest, len(queue)))]
                yield from self._run(batch)
            else:
                soonest = [self.env.timeout(max(0.0, min(map(self._until_due, waiting))))] if waiting else []
                yield self.env.any_of([self._changed, *soonest])

    def _until_due(self, queue: deque[tuple[float, Analysis]]) -> float:
        return queue[0][0] + self.wait_s - self.env.now

    def _run(self, batch: Sequence[Analysis]) -> Generator[simpy.Event, None, None]:
        self._busy += 1
        times = self._together if self._busy > 1 else self._alone
        yield self.env.timeout(times[len(batch)])
        self._busy -= 1
        self.faces_run += len(batch)
        self.batches_run += 1
        for analysis in batch:
            analysis.open_parts -= 1
            if not analysis.open_parts:
                self.latencies.append(self.env.now - analysis.came)


def simulate(
    measured: dict[str, Any], rate: float, *, count: int = 10_000, **options: Any
) -> tuple[float, float, float]:
    """One replica under faces that come at random.

    Returns:
        The median and the 99th percentile of what callers wait, in seconds, and the mean faces in a batch.
    """
    env, dice = simpy.Environment(), random.Random(0)
    replica = Replica(env, measured, **options)

    def arrivals() -> Generator[simpy.Event, None, None]:
        for _ in range(count):
            yield env.timeout(dice.expovariate(rate))
            replica.ask()

    env.run(until=env.process(arrivals()))
    found = sorted(replica.latencies[len(replica.latencies) // 10 :])  # Without the beginning, when it is empty.
    return found[len(found) // 2], found[int(len(found) * 0.99)], replica.faces_run / replica.batches_run


def capacity(measured: dict[str, Any], largest: int = LARGEST) -> float:
    """Return the faces per second that a replica can process with batches always full."""
    call = measured["calls"][str(largest)]
    batch_s = call["together_s"] + largest * measured["overhead_s"] / REPLICA_CORES
    return float(THREADS * largest / batch_s / len(MODELS))


def curve(measured: dict[str, Any], largest: int) -> list[tuple[float, float, float, float]]:
    """Rate, median, 99th percentile and mean batch of one replica, up to where it is full."""
    most = capacity(measured, largest)
    rates = [most * share for share in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.82, 0.88, 0.93, 0.97)]
    return [(rate, *simulate(measured, rate, largest=largest)) for rate in rates]


def most_within(points: Sequence[tuple[float, float, float, float]], target_s: float) -> float:
    """Return the rate up to which the 99th percentile stays within a target; 0 if it never does."""
    best = 0.0
    for (rate, _, p99, _), following in zip(points, [*points[1:], None], strict=True):
        if p99 > target_s:
            break
        best = rate
        if following and following[2] > target_s:
            best += (following[0] - rate) * (target_s - p99) / (following[2] - p99)
    return best


# --- Telling ------------------------------------------------------------------------------------------------------


def replicas(rate: float, each: float) -> float:
    """Return the number of replicas, one of them spare; infinity if the target cannot be met."""
    return math.ceil(rate / each) + 1 if each else math.inf


def _needed(measured: dict[str, Any], rate: float, each: float) -> str:
    count = replicas(rate, each)
    return f"{count:,} ({100 * rate / (count * capacity(measured)):.0f}%)" if each else "not possible"


def tables(measured: dict[str, Any], curves: dict[int, list[tuple[float, float, float, float]]]) -> dict[str, str]:
    """Return the tables of the document, by name."""
    full = curves[LARGEST]
    each = {target: most_within(full, target) for target in TARGETS_S}
    calls = {size: measured["calls"][str(size)] for size in SIZES}
    machine = measured["machine"]
    by_size = [
        (
            size,
            *(f"{1000 * call[name]:.2f}" for name in ("alone_s", "together_s")),
            f"{1000 * call['cpu_s'] / size:.3f}",
        )
        for size, call in calls.items()
    ]
    by_protocol = [
        (name, f"{1000 * found['cpu_s']:.2f}", f"{found['bytes']:,.0f}", f"{125e6 / found['bytes']:,.0f}")
        for name, found in measured["protocols"].items()
    ]
    validation = []
    for found in measured["validation"]:
        p50, p99, batch = simulate(measured, found["rate"])
        told = (found["p50_s"], p50, found["p99_s"], p99)
        validation.append((found["rate"], *(f"{1000 * value:.1f}" for value in told), f"{batch:.1f}"))
    needed = [(f"{rate:,}", *(_needed(measured, rate, value) for value in each.values())) for rate in RATES]
    cost = []
    for target, value in each.items():
        hours = REPLICA_CORES * 1e6 / value / 3600 if value else math.inf
        cost.append((f"{1000 * target:.0f} ms", f"{value:.0f}", f"{hours:.2f}", f"{hours * PRICE:.3f}"))
    return {
        "machine": f"Measured on {machine['cores']} cores of {machine['processor']}, {measured['date']}.",
        "calls": _table(
            ("faces in a call", "ms, one call at a time", "ms, two at a time", "processor ms per face"), by_size
        ),
        "overhead": f"A request takes {1000 * measured['overhead_s']:.2f} ms of processor time, whatever its content.",
        "protocols": _table(
            ("protocol", "processor ms per face", "bytes per face", "faces/s in 1 Gbit/s"), by_protocol
        ),
        "validation": _table(
            ("faces/s", "p50 measured", "p50 simulated", "p99 measured", "p99 simulated", "mean batch"), validation
        ),
        "replicas": _table(("faces/s", *(f"p99 ≤ {1000 * target:.0f} ms" for target in TARGETS_S)), needed),
        "flight": _flight(measured, each[0.05]),
        "cost": _table(
            ("p99 at most", "faces/s per replica", "processor hours per million faces", f"cost at {PRICE} per hour"),
            cost,
        ),
        "limits": _table(("faces/s", "×", "limited by"), _limits(measured, each[0.05])),
    }


def _flight(measured: dict[str, Any], rate: float) -> str:
    """Return how many requests a replica has in flight at its target rate, by Little's law."""
    if not rate:
        return "No replica achieves a p99 of 50 ms."
    at_a_time, busy = len(MODELS) * rate * simulate(measured, rate)[0], rate / capacity(measured)
    return f"At a p99 of 50 ms a replica is {100 * busy:.0f}% busy, with {at_a_time:.0f} requests in flight."


def _limits(measured: dict[str, Any], each: float) -> list[tuple[str, str, str]]:
    bytes_of = {name: found["bytes"] for name, found in measured["protocols"].items()}
    limits = {
        f"one replica of {REPLICA_CORES} processors, at a p99 of 50 ms": each,
        f"{MOST_REPLICAS} replicas, the autoscaler's maximum": (MOST_REPLICAS - 1) * each,
        f"{DNS_REPLICAS} replicas, the most addresses in one DNS packet": (DNS_REPLICAS - 1) * each,
        "1 Gbit/s into one edge, gRPC": 125e6 / bytes_of["gRPC"],
        "1 Gbit/s into one edge, REST with raw bytes": 125e6 / bytes_of["REST, raw bytes"],
        "1 Gbit/s into one edge, REST with lists": 125e6 / bytes_of["REST, lists"],
        "10 Gbit/s into one edge, gRPC": 1250e6 / bytes_of["gRPC"],
    }
    ordered = sorted(limits.items(), key=lambda limit: limit[1])
    return [(f"{rate:,.0f}", f"{rate / RATES[0]:,.0f}×", what) for what, rate in ordered]


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write(found: dict[str, str]) -> None:
    """Write the tables into the document, between their marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in found.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    DOCUMENT.write_text(text, encoding="utf-8")


def draw(measured: dict[str, Any], curves: dict[int, list[tuple[float, float, float, float]]]) -> None:
    """Draw the charts."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    size = (7.2, 3.8)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for name, label in (("alone_s", "one call at a time"), ("together_s", "two at a time")):
        axes.plot(SIZES, [1000 * measured["calls"][str(n)][name] / n for n in SIZES], "o-", label=label)
    axes.set(xscale="log", xlabel="faces in a batch", ylabel="ms per face, one model", ylim=(0, None))
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "batching.png", dpi=110)

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for largest, points in curves.items():
        label = "no batching" if largest == 1 else f"batches of up to {largest}"
        axes.plot([point[0] for point in points], [1000 * point[2] for point in points], "o-", label=label)
    axes.set(xlabel="faces per second, one replica", ylabel="p99, ms", ylim=(0, 200), xlim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(FOLDER / "latency.png", dpi=110)

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    rates = np.geomspace(RATES[0], RATES[-1], 60)
    for target in TARGETS_S:
        each = most_within(curves[LARGEST], target)
        axes.plot(rates, [replicas(rate, each) for rate in rates], label=f"p99 ≤ {1000 * target:.0f} ms")
    for count, label in ((MOST_REPLICAS, "the autoscaler's maximum"), (DNS_REPLICAS, "one DNS packet")):
        axes.axhline(count, color="gray", linestyle=":")
        axes.text(rates[0], count * 1.07, label, color="gray")
    network = 125e6 / measured["protocols"]["gRPC"]["bytes"]
    axes.axvline(network, color="gray", linestyle=":")
    axes.text(network * 1.05, 2.2, "1 Gbit/s, gRPC", color="gray", rotation=90)
    axes.set(xscale="log", yscale="log", xlabel="faces per second", ylabel="replicas, one spare")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(FOLDER / "replicas.png", dpi=110)


def main() -> None:
    """Measure, simulate, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repository", type=Path, default=Path("models"), metavar="DIR", help="the models (%(default)s)"
    )
    parser.add_argument("--simulate-only", action="store_true", help="with what was measured before")
    options = parser.parse_args()
    if not options.simulate_only:
        check_repository(parser, options.repository)
        MEASURED.write_text(json.dumps(measure(options.repository), indent=1) + "\n", encoding="utf-8")
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    curves = {largest: curve(measured, largest) for largest in (1, 8, LARGEST)}
    found = tables(measured, curves)
    write(found)
    draw(measured, curves)
    for name, table in found.items():
        print(f"{name}\n{table}\n")


if __name__ == "__main__":
    main()
