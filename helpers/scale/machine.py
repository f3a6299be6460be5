"""The machine's own limit, and how much of it a model's real tokens need."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from helpers.hardware import as_onednn

PACKAGES = ("torch", "transformers", "sentence-transformers", "openvino", "nncf", "rerankers")


def describe() -> dict:
    """Name the processor, its number of cores, what it computes natively, and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "processor": name.group(1) if name else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [word for word in known if word in text.split()],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in (*PACKAGES, "faiss-cpu")},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def matmul_gflops(rows: int = 1024, inner: int = 768, columns: int = 3072) -> dict[str, float]:
    """Measure the fastest matrix multiplication there is in each precision, in GFLOP/s.

    The shape is that of a feed-forward layer of a 768-wide model. `fp32, torch` is what `x @ w`
    gives; on some makers' processors it is far below `fp32`, which is oneDNN's.
    """
    x, layer = torch.randn(rows, inner), torch.nn.Linear(inner, columns).eval()
    fast = as_onednn(torch.nn.Sequential(layer))
    packed = x if isinstance(fast[0], torch.nn.Linear) else x.to_mkldnn()
    low, half = x.bfloat16(), layer.weight.bfloat16()
    left, right = x.to(torch.int8), layer.weight.T.to(torch.int8)
    ways: dict[str, Callable] = {
        "fp32, torch": lambda: torch.nn.functional.linear(x, layer.weight),
        "fp32": lambda: fast(packed),
        "bf16": lambda: torch.nn.functional.linear(low, half),
        "int8": lambda: torch._int_mm(left, right),
    }
    operations = 2 * rows * inner * columns
    with torch.inference_mode():
        found = {name: operations / median_seconds(way, 30) / 1e9 for name, way in ways.items()}
    return found | {"fp32": max(found["fp32"], found["fp32, torch"])}


def median_seconds(function: Callable, runs: int, longest: float = 30) -> float:
    """Return the median wall-clock seconds of `runs` calls, after two that are not counted.

    Of a slow one (16 bits that are not native, say) there are fewer: what `longest` seconds hold.
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
