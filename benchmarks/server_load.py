"""The server under 64 clients at once: p50 and p99, errors, and what batching gains over one text a pass.

    python benchmarks/server_load.py
    python benchmarks/server_load.py --backbone smollm2-135m-instruct --adapter DIR --quick

One process loads the models once and runs two servers on the loopback interface over them, one that computes every text
by itself (``max_batch`` 1) and one that batches. Their rounds alternate, so that whatever else the machine does falls
on both. A client sends a request of one text, waits for its answer and sends the next. Queries and passages are those
of the built-in probe set, in a seeded order. Each side is warmed up with an eighth as many requests as there are
clients; throughput is the median over the rounds, percentiles are over all requests of them.
Clients have a process of their own, as in life: in the servers' process they would hold up its Python code, that of
the model between two operations above all. They share the machine's cores. Ratios hold between machines, absolute times
do not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.http_clients import TIMEOUT, Round, ask_at_once
from benchmarks.measuring import RESULTS, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.errors import SafeRetrievalError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER, SMALL_BACKBONE
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.server.engine import Served, open_served
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.run import bound, make_server
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import GateAction

SIDES = {"one_by_one": 1, "batched": ServerSettings().max_batch}
"""Texts in a pass, by side."""
SERVER_PACKAGES = ("fastapi", "starlette", "uvicorn", "httpx")


@contextmanager
def running(served: Served, max_batch: int, clients: int) -> Iterator[str]:
    """A server in a thread; yields its address."""
    settings = ServerSettings(max_batch=max_batch, timeout=TIMEOUT, max_requests=4 * clients)
    with bound("127.0.0.1", 0) as listening:
        server = make_server(served, settings, KeyRing())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise SafeRetrievalError("the server did not start; its log says why")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def measure(
    urls: Mapping[str, str], model: str, texts: Sequence[str], *, clients: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Alternate the sides for ``rounds`` rounds after a warm-up, and sum up each."""
    seen: dict[str, list[Round]] = {side: [] for side in urls}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:

        def ask(url: str, asked: Sequence[str]) -> Round:
            return process.submit(ask_at_once, url, model, asked, clients).result()

        for url in urls.values():
            ask(url, texts[: max(1, clients // 8)])
        for number in range(1, rounds + 1):
            for side, url in urls.items():
                seen[side].append(done := ask(url, texts))
                print(f"{model}, {side}, round {number} of {rounds}: {done.seconds:.1f} s", file=sys.stderr)
    return {side: summary(done) for side, done in seen.items()}


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Median throughput over rounds, percentiles over all answered requests."""
    latencies = np.array([seconds for done in rounds for seconds in done.latencies]) * 1000
    per_second = [len(done.latencies) / done.seconds for done in rounds]
    p50, p99 = np.percentile(latencies, [50, 99]) if len(latencies) else (None, None)
    return {
        "requests": sum(len(done.latencies) + done.errors for done in rounds),
        "errors": sum(done.errors for done in rounds),
        "requests_per_second": round(statistics.median(per_second), 2),
        "requests_per_second_by_round": [round(value, 2) for value in per_second],
        "p50_milliseconds": None if p50 is None else round(float(p50), 1),
        "p99_milliseconds": None if p99 is None else round(float(p99), 1),
    }


def compare(served: Served, *, clients: int, per_client: int, rounds: int, seed: int) -> dict[str, Any]:
    """Both sides of the model, each by one text a pass and in batches."""
    probes = load_probe_set()
    pools = {"query": [probe.text for probe in probes.queries], "document": [doc.content for doc in probes.documents]}
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        urls = {side: stack.enter_context(running(served, batch, clients)) for side, batch in SIDES.items()}
        for lane, pool in pools.items():
            texts = random.Random(seed).choices(pool, k=clients * per_client)  # noqa: S311  # a seeded sample
            model = served.name if lane == "query" else f"{served.name}-document"
            figures = measure(urls, model, texts, clients=clients, rounds=rounds)
            gain = figures["batched"]["requests_per_second"] / figures["one_by_one"]["requests_per_second"]
            found[lane] = {**figures, "batching_gain": round(gain, 2)}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="The server under concurrent clients, with and without batching.")
    parser.add_argument("--backbone", default=SMALL_BACKBONE)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--encoder", default=DEFAULT_DOCUMENT_ENCODER)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="8 clients, one request each, one round; to see it run")
    parser.add_argument("--out", type=Path, default=RESULTS / "server_load.json")
    options = parser.parse_args(arguments)
    source_state()  # before minutes of work, not after them
    clients, per_client, rounds = (8, 1, 1) if options.quick else (options.clients, options.requests, options.rounds)
    served = open_served(
        None,
        arm=Arm.OUTPUT,
        gate=RefusalGate(GateAction.ALLOW),
        document_encoder=options.encoder,
        adapter=options.adapter,
        backbone=options.backbone,
    )
    result = {
        "benchmark": "server under concurrent clients, one text a request",
        "models": {side: getattr(served.encoder, side).name for side in ("query", "document")},
        "space": served.encoder.space,
        "clients": clients,
        "requests_of_each_client": per_client,
        "rounds": rounds,
        "max_batch": SIDES,
        "seed": options.seed,
        "lanes": compare(served, clients=clients, per_client=per_client, rounds=rounds, seed=options.seed),
        "load_average": os.getloadavg(),  # how much else the machine did, clients and servers included
        "server_packages": {name: version(name) for name in SERVER_PACKAGES},
    }
    write_result(options.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
