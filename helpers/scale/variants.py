"""The ways of scoring that are compared: a model's folder -> a function from pairs to scores."""

import json
import math
from collections.abc import Callable

import torch

from helpers.scale.workloads import Pairs, calibration_pairs


def page_method(folder: str) -> Callable[[Pairs], list[float]]:
    """Score as the LangChain page's inference.py does: all pairs padded into one batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def score(pairs: Pairs) -> list[float]:
        tokens = tokenizer(
            pairs, padding=True, truncation=True, max_length=512, return_tensors="pt"
        )
        return model(**tokens).logits.view(-1).sigmoid().tolist()

    return score


def langchain_class(folder: str) -> Callable[[Pairs], list[float]]:
    """Score as LangChain does: sentence-transformers' `predict`, 32 pairs a batch."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    return HuggingFaceCrossEncoder(model_name=folder).score


def rerankers_package(folder: str) -> Callable[[Pairs], list[float]]:
    """Score with AnswerDotAI's `rerankers`: one call a query, as the package is made for."""
    from rerankers import Reranker

    ranker = Reranker(folder, model_type="cross-encoder", device="cpu", dtype="float32", verbose=0)

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        start = 0
        for end in range(1, len(pairs) + 1):
            if end == len(pairs) or pairs[end][0] != pairs[start][0]:
                docs = [passage for _, passage in pairs[start:end]]
                ranked = ranker.rank(query=pairs[start][0], docs=docs)
                found = {result.doc_id: float(result.score) for result in ranked.results}
                scores += [1 / (1 + math.exp(-found[i])) for i in range(len(docs))]
                start = end
        return scores

    return score


def endpoint_code(folder: str) -> Callable[[Pairs], list[float]]:
    """Score with the container's code, the request's JSON read and the answer's written."""
    from helpers.endpoint import inference

    model = inference.model_fn(folder)

    def score(pairs: Pairs) -> list[float]:
        body = json.dumps({"text_pairs": pairs})
        answer, _ = inference.transform_fn(model, body, inference.JSON, inference.JSON)
        return json.loads(answer)["scores"]

    return score


def local(precision: str) -> Callable[[str], Callable[[Pairs], list[float]]]:
    """Score with `LocalCrossEncoder`."""

    def load(folder: str) -> Callable[[Pairs], list[float]]:
        from helpers.score import LocalCrossEncoder

        return LocalCrossEncoder(folder, precision=precision).score

    return load


def openvino(precision: str) -> Callable[[str], Callable[[Pairs], list[float]]]:
    """Score with `OpenVINOCrossEncoder`, calibrated on pairs that are not timed."""

    def load(folder: str) -> Callable[[Pairs], list[float]]:
        from helpers.scale.openvino import OpenVINOCrossEncoder

        pairs = calibration_pairs() if precision == "int8" else ()
        return OpenVINOCrossEncoder(folder, precision=precision, calibration=pairs).score

    return load


VARIANTS: dict[str, tuple[Callable, str]] = {
    "the page's method": (page_method, "fp32"),
    "HuggingFaceCrossEncoder": (langchain_class, "fp32"),
    "rerankers": (rerankers_package, "fp32"),
    "LocalCrossEncoder": (local("fp32"), "fp32"),
    "endpoint's code": (endpoint_code, "fp32"),
    "LocalCrossEncoder, auto": (local("auto"), "auto"),
    "OpenVINO": (openvino("fp32"), "fp32"),
    "OpenVINO, auto": (openvino("auto"), "auto"),
    "OpenVINO, int8": (openvino("int8"), "int8"),
}
