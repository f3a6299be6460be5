"""One way of scoring in a process of its own: pairs in, seconds, peak memory and scores out."""

import logging
import statistics
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil

from helpers.scale.workloads import Pairs

MEMORY_LIMIT = 8 * 2**30  # bytes for one variant: others wait beside it with their models loaded


class Variant:
    """One way of scoring, in a process of its own."""

    def __init__(self, name: str, folder: str):
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.load_seconds = self.pool.submit(_load, name, folder).result()

    def run(self, pairs: Pairs) -> dict:
        """Score `pairs`: `seconds`, `peak` (bytes) and `scores`, or the `error` that came."""
        return self.pool.submit(_run, pairs).result()

    def overhead(self, pairs: Pairs) -> float:
        """Return what a class adds to its model's own forward passes: 0.05 is five per cent."""
        return self.pool.submit(_overhead, pairs).result()

    def close(self) -> None:
        """End the process."""
        self.pool.shutdown()


_score = None  # in a variant's process: what it scores with


def _load(name: str, folder: str) -> float:
    global _score
    from helpers.scale.variants import VARIANTS

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # what nine libraries say while they load
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    start = time.perf_counter()
    _score = VARIANTS[name][0](folder)
    seconds = time.perf_counter() - start
    _score([("a question", "an answer"), ("a question", "another")])
    return seconds


def _run(pairs: Pairs) -> dict:
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")  # the peak counts from here
    start = time.perf_counter()
    try:
        scores = _score(pairs)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        return {"error": f"more than {MEMORY_LIMIT / 2**30:.0f} GiB"}
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status")
    lines = status.read_text().split("\n") if status.exists() else []
    high = [line for line in lines if "VmHWM" in line]
    bytes_ = int(high[0].split()[1]) * 1024 if high else psutil.Process().memory_info().rss
    return {"seconds": seconds, "peak": bytes_, "scores": [float(score) for score in scores]}


def _overhead(pairs: Pairs, runs: int = 15) -> float:
    client = _score.__self__.client
    forward, spent, shares = client.forward, [0.0], []

    def timed(*args, **how):
        start = time.perf_counter()
        found = forward(*args, **how)
        spent[0] += time.perf_counter() - start
        return found

    client.forward = timed
    for _ in range(runs):
        spent[0], start = 0.0, time.perf_counter()
        _score(pairs)
        shares.append((time.perf_counter() - start) / spent[0] - 1)
    client.forward = forward
    return statistics.median(shares)
