"""How fast `mien serve` is, as ratios to the same work without a server, measured in turns in one run.

    python -m benchmarks.serving --repository models [--quick]

Prints a table with each ratio and its target; the exit status is 1 if a target was missed. Close everything else: the
server, its clients and what they are compared with share this machine's processors.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from mien_client.contract import EMOTION_MODEL
from mien_serving import LocalModelServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from benchmarks.workload import (
    MODELS,
    GrpcClient,
    InProcess,
    SteadyLoad,
    check_repository,
    faces,
    latency,
    many_clients_throughput,
    newest,
    predict_request,
    rest_raw_throughput,
)

# Two batches of half the clients each, so that one is gathered while the other runs, on a processor of its own.
_BATCHING = """
max_batch_size { value: 32 }
batch_timeout_micros { value: 10000 }
max_enqueued_batches { value: 1000 }
num_batch_threads { value: 2 }
"""
_BATCHING_FLAGS = (
    "--enable_batching",
    "--grpc_max_threads=160",
    "--grpc_channel_arguments=grpc.http2.bdp_probe=0,grpc.optimization_target=throughput",
    "--tensorflow_intra_op_parallelism=1",
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The result, in words.
        target: What it should be, in words.
        met: Whether it is.
    """

    what: str
    value: str
    target: str
    met: bool


def at_least(what: str, ratio: float, target: float, note: str) -> Row:
    """Add a ratio that should be large."""
    return Row(what, f"{ratio:.2f} ({note})", f"at least {target:.2f}", ratio >= target)


def at_most(what: str, value: float, target: float, unit: str, note: str) -> Row:
    """Add a value that should be small."""
    return Row(what, f"{value:.2f}{unit} ({note})", f"at most {target:.2f}{unit}", value <= target)


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Return the median of each measure, taken in turns, so that load from other programs affects all alike."""
    results = [[measure() for measure in measures] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*results, strict=True)]


def throughput(repository: Path, work: Path, *, quick: bool) -> list[Row]:
    """Faces per second through gRPC, through dynamic batching, and through REST."""
    calls, rounds = (8, 1) if quick else (24, 3)
    (work / "batching.config").write_text(_BATCHING, encoding="utf-8")
    models = {model: repository / model for model in MODELS}
    batching = [*_BATCHING_FLAGS, f"--batching_parameters_file={work / 'batching.config'}"]
    in_process = InProcess(repository)
    with LocalModelServer(models) as plain, LocalModelServer(models, flags=batching) as batched:
        client = GrpcClient(plain.grpc_address)
        measures = (
            lambda: in_process.throughput(calls, 64),
            lambda: client.throughput(calls, 64),
            lambda: many_clients_throughput(batched.grpc_address, 64, calls * 64),
            lambda: rest_raw_throughput(plain.rest_url, calls, 64),
        )
        in_turns(1, *measures)  # The first calls make what later ones find ready.
        local, over_grpc, many, rest = in_turns(rounds, *measures)
        client.close()
    note = f"against {local:.0f} faces/s in this process"
    return [
        at_least("gRPC, 64 faces a call, both models", over_grpc / local, 0.95, f"{over_grpc:.0f} faces/s {note}"),
        at_least("gRPC, batching, 64 clients of 1 face", many / local, 0.80, f"{many:.0f} faces/s {note}"),
        at_least("REST, raw bytes, 64 faces a call", rest / over_grpc, 0.75, f"{rest:.0f} faces/s against gRPC"),
    ]


def one_face(repository: Path, *, quick: bool) -> list[Row]:
    """Measure what a server adds to the time of one face."""
    count, rounds = (50, 1) if quick else (200, 3)
    in_process, image = InProcess(repository), faces(1)
    with LocalModelServer({EMOTION_MODEL: repository / EMOTION_MODEL}) as server:
        client, request = GrpcClient(server.grpc_address), predict_request(EMOTION_MODEL, image)
        measures = (
            lambda: 1000 * statistics.median(latency(lambda: in_process.run(0, image), count)),
            lambda: 1000 * statistics.median(latency(lambda: client.ask(request), count)),
        )
        in_turns(1, *measures)
        local, served = in_turns(rounds, *measures)
        client.close()
    return [
        at_most("gRPC, 1 face, 1 client: added p50", served - local, 1.5, " ms", f"{served:.2f} against {local:.2f} ms")
    ]


@contextmanager
def a_moving_model(repository: Path, work: Path) -> Iterator[tuple[LocalModelServer, Callable[[int], None]]]:
    """Serve the emotion model from a base path that new versions can be added to."""
    base_path = work / "moving" / EMOTION_MODEL
    base_path.mkdir(parents=True)
    source = newest(repository / EMOTION_MODEL)

    def publish(version: int) -> None:
        shutil.copytree(source, base_path / f"aside-{version}")
        (base_path / f"aside-{version}").rename(base_path / str(version))

    publish(1)
    # Enough threads that no request is refused for want of one while a swap slows all down.
    with LocalModelServer({EMOTION_MODEL: base_path}, flags=["--grpc_max_threads=64"]) as server:

        def swap(version: int) -> None:
            publish(version)
            url = f"{server.rest_url}/v1/models/{EMOTION_MODEL}/versions/"
            while _state(f"{url}{version}") != "AVAILABLE" or _state(f"{url}{version - 1}") != "END":
                time.sleep(0.05)
            shutil.rmtree(base_path / str(version - 1))

        yield server, swap
    shutil.rmtree(work / "moving")


def swaps(repository: Path, work: Path, *, quick: bool) -> list[Row]:
    """Measure what callers notice of a new version."""
    calm_s, count, per_second = (5, 1, 20) if quick else (30, 5, 20)
    with a_moving_model(repository, work) as (server, swap):
        client = GrpcClient(server.grpc_address)
        latency(lambda: client.ask(predict_request(EMOTION_MODEL, faces(1))), 50)
        # TensorFlow is in this process too, with many objects; looking through them would count as slow answers.
        gc.collect()
        gc.freeze()
        load = SteadyLoad(client, per_second)
        start = time.perf_counter()
        time.sleep(calm_s)
        calm, during = load.between(start, time.perf_counter()), []
        for version in range(2, 2 + count):
            begin = time.perf_counter()
            swap(version)
            during += load.between(begin, time.perf_counter())
            time.sleep(1)
        load.stop()
        client.close()
    before, in_swap = p99(calm), p99(during)
    return [
        Row("Version swaps: failed requests", f"{load.failed} of {len(load.latencies)}", "none", not load.failed),
        at_most("Version swaps: p99 during / before", in_swap / before, 2, "", f"{in_swap:.1f} / {before:.1f} ms"),
    ]


def memory(repository: Path, work: Path, *, quick: bool) -> list[Row]:
    """Whether the server grows."""
    requests_in_all, swaps_in_all = (2_000, 3) if quick else (100_000, 50)
    with a_moving_model(repository, work) as (server, swap):
        client, request = GrpcClient(server.grpc_address), predict_request(EMOTION_MODEL, faces(1))
        latency(lambda: client.ask(request), 1_000)
        swap(2)
        first = _resident_mb(server)
        for version in range(3, 2 + swaps_in_all):
            latency(lambda: client.ask(request), (requests_in_all - 1_000) // (swaps_in_all - 1))
            swap(version)
        last = _resident_mb(server)
        client.close()
    what = f"Resident memory after {requests_in_all:,} requests, {swaps_in_all} swaps / after 1,000 and 1"
    return [at_most(what, last / first, 1.10, "", f"{last:.0f} / {first:.0f} MB")]


def p99(latencies: list[float]) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(latencies, n=100)[98]


def _state(url: str) -> str:
    answer = requests.get(url, timeout=60)
    return str(answer.json()["model_version_status"][0]["state"]) if answer.ok else ""


def _resident_mb(server: LocalModelServer) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def table(rows: list[Row]) -> str:
    """Print the rows under a heading, in columns."""
    cells = [
        ("", "measured", "target", ""),
        *((row.what, row.value, row.target, "met" if row.met else "MISSED") for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repository", type=Path, default=Path("models"), metavar="DIR", help="the models (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls: rough numbers, in about two minutes")
    options = parser.parse_args()
    check_repository(parser, options.repository)
    with tempfile.TemporaryDirectory(prefix="mien-bench-") as folder:
        work, quick = Path(folder), options.quick
        rows = throughput(options.repository, work, quick=quick) + one_face(options.repository, quick=quick)
        rows += swaps(options.repository, work, quick=quick)
        if sys.platform.startswith("linux"):
            rows += memory(options.repository, work, quick=quick)
    sys.stdout.write(table(rows) + "\n")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
