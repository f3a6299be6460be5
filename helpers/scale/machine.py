"""The machine's own limit, and how much of it a model's real tokens need."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

import torch

from helpers.hardware import as_onednn, auto_precision

PACKAGES = ("torch", "transformers", "sentence-transformers", "openvino", "nncf", "rerankers")


def describe() -> dict:
    """Name the processor, its maker, its cores, what it computes natively, and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = {key: re.search(rf"{key}\s*:\s*(.+)", text) for key in ("model name", "vendor_id")}
    name, maker = (match.group(1) if match else platform.processor() for match in found.values())
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "processor": name,
        "maker": maker,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [word for word in known if word in text.split()],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in (*PACKAGES, "faiss-cpu")},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def matmul_gflops(config, rows: int = 2048) -> dict[str, float]:
    """Measure how fast the matrices of a model's layer are multiplied, in GFLOP/s by precision.

    Four are hidden x hidden, two hidden x inner; `rows` tokens are a batch of LocalCrossEncoder's.
    `fp32, torch` is what `x @ w` gives; on some makers' processors it is far below `fp32`, the
    better of torch's and oneDNN's. 16 bits that are not native are slow beyond use, and left out.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    plain = torch.nn.Sequential(*[torch.nn.Linear(*shape, bias=False) for shape in shapes]).eval()
    x, fast, half = torch.randn(rows, hidden), as_onednn(deepcopy(plain)), deepcopy(plain)
    packed, low = x if isinstance(fast[0], torch.nn.Linear) else x.to_mkldnn(), x.bfloat16()
    half.bfloat16()
    bytes_ = [torch.randint(-9, 9, shape, dtype=torch.int8) for shape in shapes]
    left = {n: torch.randint(-9, 9, (rows, n), dtype=torch.int8) for n in (hidden, inner)}
    ways: dict[str, Callable] = {
        "fp32, torch": lambda: plain(x),
        "fp32": lambda: fast(packed),
        "bf16": lambda: half(low),
        "int8": lambda: [torch._int_mm(left[len(w)], w) for w in bytes_],
    }
    if auto_precision("cpu") == "fp32":
        del ways["bf16"]
    operations = 2 * rows * sum(a * b for a, b in shapes)
    with torch.inference_mode():
        found = {name: operations / median_seconds(way, 15) / 1e9 for name, way in ways.items()}
    return found | {"fp32": max(found["fp32"], found["fp32, torch"])}


def median_seconds(function: Callable, runs: int, longest: float = 30) -> float:
    """Return the median wall-clock seconds of `runs` calls, after two that are not counted.

    Of a slow one there are fewer: what `longest` seconds hold.
    """
    seconds = []
    while len(seconds) < 3 or (len(seconds) < runs + 2 and sum(seconds) < longest):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def encoder_flops(config, lengths: Sequence[int]) -> int:
    """Count the multiplications and additions that pairs of `lengths` tokens need, unpadded.

    Per layer and token: four square projections and two feed-forward matrices; per layer and pair:
    queries by keys and weights by values. Two operations for each weight or product.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    return config.num_hidden_layers * sum(n * token + 4 * n * n * hidden for n in lengths)
