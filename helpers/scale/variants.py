"""The ways of scoring that are compared, each in a process of its own.

A model's folder and pairs come in; seconds and scores go out. All compute on the processor,
whatever else the machine has, in their best documented settings.
"""

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby
from multiprocessing import get_context

import torch

from helpers.hardware import choose_dtype
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


def langchain_class(folder: str, precision: str = "fp32", device: str = "cpu") -> Score:
    """Score as LangChain does: sentence-transformers' `predict`, sorted, 32 pairs a batch."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    how = {"device": device, "model_kwargs": {"dtype": choose_dtype(precision, device)}}
    return HuggingFaceCrossEncoder(model_name=folder, model_kwargs=how).score


def rerankers_package(folder: str, precision: str = "fp32") -> Score:
    """Score with AnswerDotAI's `rerankers`: one call a query, as the package is made for."""
    from rerankers import Reranker

    how = {"device": "cpu", "dtype": choose_dtype(precision), "verbose": 0}
    ranker = Reranker(folder, model_type="cross-encoder", **how)

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(pairs, key=lambda pair: pair[0]):
            ranked = ranker.rank(query=query, docs=[passage for _, passage in group]).results
            found = sorted((result.doc_id, float(result.score)) for result in ranked)
            scores += [1 / (1 + math.exp(-logit)) for _, logit in found]
        return scores

    return score


def compiled(folder: str) -> Score:
    """Score with sentence-transformers, compiled as its `compile` advises: once for any length."""
    from sentence_transformers import CrossEncoder

    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or it starts more processes
    model = CrossEncoder(folder, device="cpu", local_files_only=True)
    model.compile(dynamic=True)
    return model.predict


def local(folder: str, precision: str = "fp32", device: str = "cpu", onednn: bool = True) -> Score:
    """Score with `LocalCrossEncoder`, or what it is without oneDNN: sorted, in bounded batches."""
    from helpers.score import LocalCrossEncoder

    class Bounded(LocalCrossEncoder):
        def _convert(self, precision: str, device: str) -> None:
            self.client.to(choose_dtype(precision, device))

    made = LocalCrossEncoder if onednn else Bounded
    return made(folder, device=device, precision=precision).score


def openvino(folder: str, precision: str = "fp32") -> Score:
    """Score with `OpenVINOCrossEncoder`, calibrated on pairs that are not timed."""
    from helpers.scale.openvino import OpenVINOCrossEncoder

    pairs = calibration_pairs() if precision == "int8" else ()
    return OpenVINOCrossEncoder(folder, precision=precision, calibration=pairs).score


# In the order of notebook 06's steps: others' ways, then this repository's, one thing at a time.
VARIANTS: dict[str, tuple[Callable[..., Score], str]] = {
    PAGE: (page_method, "fp32"),
    "rerankers": (rerankers_package, "fp32"),
    "rerankers, auto": (partial(rerankers_package, precision="auto"), "auto"),
    REFERENCE: (langchain_class, "fp32"),
    f"{REFERENCE}, auto": (partial(langchain_class, precision="auto"), "auto"),
    "torch.compile": (compiled, "fp32"),
    "bounded": (partial(local, onednn=False), "fp32"),
    "LocalCrossEncoder": (local, "fp32"),
    "LocalCrossEncoder, again": (local, "fp32"),  # how far the same code is from itself
    "LocalCrossEncoder, auto": (partial(local, precision="auto"), "auto"),
    "OpenVINO": (openvino, "fp32"),
    "OpenVINO, auto": (partial(openvino, precision="auto"), "auto"),
    "OpenVINO, int8": (partial(openvino, precision="int8"), "int8"),
}
# As PyPI's metadata said in November 2026, beside transformers 5.23.0 and huggingface-hub 1.33.0.
NOT_RUN = {
    'sentence-transformers, backend="onnx"': "optimum-onnx 0.1.0, its newest, needs transformers "
    "< 4.58, and sentence-transformers 6.2.0 itself needs 5 or more",
    'sentence-transformers, backend="openvino"': "optimum-intel 2.2.0, its newest, needs "
    "transformers < 5.6, huggingface-hub < 1.22 and torchvision",
}


def process() -> ProcessPoolExecutor:
    """Return a process for one variant: a block that submits `load`, then `run`."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


_score: Score | None = None  # in a variant's process: what it scores with


def load(name: str, folder: str) -> dict:
    """Load a variant into this process and score once; return the `error` of one that cannot."""
    global _score
    hide_accelerators()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # what nine libraries say while they load
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    try:
        _score = VARIANTS[name][0](folder)
        _score([("a question", "an answer"), ("a question", "another")])
    except (ImportError, RuntimeError) as error:  # a package or a compiler that is not there
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return {}


def hide_accelerators() -> None:
    """Let this process see no GPU: not all of the classes take a device."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.backends.mps.is_available = lambda: False  # which has no such variable


def run(pairs: Pairs) -> dict:
    """Score `pairs`: `seconds` and `scores`, or the `error` that came."""
    start = time.perf_counter()
    try:
        scores = _score(pairs)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        return {"error": f"more than {MEMORY_LIMIT / 2**30:.0f} GiB"}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "scores": [float(score) for score in scores]}
