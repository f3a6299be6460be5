"""The ways of scoring that are compared, each in a process of its own.

A model's folder and pairs come in; seconds, peak memory and scores go out. All of them compute on
the processor, whatever else the machine has.
"""

import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from helpers.scale.workloads import Pairs, calibration_pairs

Score = Callable[[Pairs], list[float]]

MEMORY_LIMIT = 8 * 2**30  # bytes for one variant: others wait beside it with their models loaded
PAGE, REFERENCE = "the page's method", "HuggingFaceCrossEncoder"


def page_method(folder: str) -> Score:
    """Score as the LangChain page's inference.py does: all pairs padded into one batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    how = {"padding": True, "truncation": True, "max_length": 512, "return_tensors": "pt"}

    @torch.inference_mode()
    def score(pairs: Pairs) -> list[float]:
        return model(**tokenizer(pairs, **how)).logits.view(-1).sigmoid().tolist()

    return score


def langchain_class(folder: str) -> Score:
    """Score as LangChain does: sentence-transformers' `predict`, 32 pairs a batch."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    return HuggingFaceCrossEncoder(model_name=folder, model_kwargs={"device": "cpu"}).score


def rerankers_package(folder: str) -> Score:
    """Score with AnswerDotAI's `rerankers`: one call a query, as the package is made for."""
    from itertools import groupby

    from rerankers import Reranker

    ranker = Reranker(folder, model_type="cross-encoder", device="cpu", dtype="float32", verbose=0)

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair[0]):
            ranked = ranker.rank(query=query, docs=[passage for _, passage in group]).results
            found = sorted((result.doc_id, float(result.score)) for result in ranked)
            scores += [1 / (1 + math.exp(-logit)) for _, logit in found]
        return scores

    return score


def endpoint_code(folder: str) -> Score:
    """Score with the container's code: the request's JSON read, and the answer's written."""
    # By name, as the container starts it: it is a program, of another notebook.
    scorer, wire = (import_module(f"helpers.endpoint.{name}") for name in ("scorer", "wire"))
    for name in ("RERANKER_MODEL", "RERANKER_REVISION"):  # which would be loaded in its place
        os.environ.pop(name, None)
    model = scorer.load_model(folder)

    def score(pairs: Pairs) -> list[float]:
        request = wire.read(json.dumps({"text_pairs": pairs}), len(pairs))
        logits, cut = model.logits(request.pairs)
        found = {"scores": model.activate(logits), "raw": logits[:, -1].tolist(), "cut": cut}
        return json.loads(wire.write(request, found))["scores"]

    return score


def local(folder: str, precision: str = "fp32") -> Score:
    """Score with `LocalCrossEncoder`."""
    from helpers.score import LocalCrossEncoder

    return LocalCrossEncoder(folder, precision=precision).score


def openvino(folder: str, precision: str = "fp32") -> Score:
    """Score with `OpenVINOCrossEncoder`, calibrated on pairs that are not timed."""
    from helpers.scale.openvino import OpenVINOCrossEncoder

    pairs = calibration_pairs() if precision == "int8" else ()
    return OpenVINOCrossEncoder(folder, precision=precision, calibration=pairs).score


VARIANTS: dict[str, tuple[Callable[..., Score], str]] = {
    PAGE: (page_method, "fp32"),
    REFERENCE: (langchain_class, "fp32"),
    "rerankers": (rerankers_package, "fp32"),
    "LocalCrossEncoder": (local, "fp32"),
    "endpoint's code": (endpoint_code, "fp32"),
    "LocalCrossEncoder, auto": (lambda folder: local(folder, "auto"), "auto"),
    "OpenVINO": (openvino, "fp32"),
    "OpenVINO, auto": (lambda folder: openvino(folder, "auto"), "auto"),
    "OpenVINO, int8": (lambda folder: openvino(folder, "int8"), "int8"),
}


def process() -> ProcessPoolExecutor:
    """Return a process for one variant: a block that submits `load`, then `run` and `overhead`."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


_score: Score | None = None  # in a variant's process: what it scores with


def load(name: str, folder: str) -> None:
    """Load a variant into this process, and score once."""
    global _score
    hide_accelerators()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # what nine libraries say while they load
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    _score = VARIANTS[name][0](folder)
    _score([("a question", "an answer"), ("a question", "another")])


def hide_accelerators() -> None:
    """Let this process see no GPU: not all of the classes take a device."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.backends.mps.is_available = lambda: False  # which has no such variable


def run(pairs: Pairs) -> dict:
    """Score `pairs`: `seconds`, `peak` (bytes) and `scores`, or the `error` that came."""
    peak, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
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
    lines = status.read_text().split("\n") if status.exists() else []
    high = [int(line.split()[1]) * 1024 for line in lines if "VmHWM" in line]
    bytes_ = high[0] if high else psutil.Process().memory_info().rss
    return {"seconds": seconds, "peak": bytes_, "scores": [float(score) for score in scores]}


def overhead(pairs: Pairs, runs: int = 15) -> float:
    """Return what a class adds to its model's own forward passes: 0.05 is five per cent."""
    client, shares, marks = _score.__self__.client, [], []
    client.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    client.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    for _ in range(runs):
        marks.clear()
        start = time.perf_counter()
        _score(pairs)
        inside = sum(marks[1::2]) - sum(marks[::2])
        shares.append((time.perf_counter() - start) / inside - 1)
    return statistics.median(shares)
