"""From pairs to scores, as fast as the processor allows: candidates -> scores."""

import math
import os
import re
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

try:
    from torch.utils import mkldnn
except ImportError:  # it is TorchScript, and will go
    mkldnn = None
try:
    from langchain_core.cross_encoders import BaseCrossEncoder
except ImportError:  # the container has no LangChain
    BaseCrossEncoder = object

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")  # or it keeps code for each shape
SURROGATE = re.compile("[\ud800-\udfff]")
FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # /proc/cpuinfo: x86, x86, Arm
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def instructions() -> set[str]:
    """Return the words of /proc/cpuinfo, what the processor computes natively among them."""
    return set(info.read_text().split()) if (info := Path("/proc/cpuinfo")).exists() else set()


def auto_precision(device: str) -> str:
    """Name the precision that `auto` is: 16 bits where `device` computes them natively."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if device == "cpu" and instructions() & FAST_BF16 else "fp32"


def choose_dtype(precision: str, device: str = "cpu", name: str = "precision") -> torch.dtype:
    """Return the type to compute in on `device`; what is no precision is a ValueError."""
    if precision not in (known := [*PRECISIONS, "auto"]):
        raise ValueError(f"{name} is {precision!r}: expected one of {', '.join(known)}.")
    return PRECISIONS[auto_precision(device) if precision == "auto" else precision]


def as_onednn(module: torch.nn.Module) -> torch.nn.Module:
    """Let oneDNN multiply, where there is AVX-512; with AVX2 alone torch itself is faster."""
    usable = mkldnn and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return mkldnn.to_mkldnn(module) if usable and "avx512f" in instructions() else module


def bounded_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group positions, longest first, so that a batch of several, padded, fits `batch_tokens`."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


class _ThreadSafe(CrossEncoder):
    """A fast tokenizer keeps its truncation as state, which threads would change for others."""

    lock = threading.RLock()

    def preprocess(self, *args, **settings):
        with self.lock:
            return super().preprocess(*args, **settings)


class LocalCrossEncoder(BaseCrossEncoder):
    """LangChain's `HuggingFaceCrossEncoder` in less time, for any place that takes one.

    It is sentence-transformers' own `predict`, with the template, prompt and lengths that a model
    was saved with, in bounded batches. Threads may share it; pickled, it is loaded anew. `folder`
    holds safetensors weights; `precision` is `fp32`, `bf16`, `fp16` or `auto`: 16 bits where the
    hardware has them. `batch_tokens`, padding included, are computed at once (by default 2,048 on
    a processor, 65,536 on a GPU). Pairs are cut to `max_length` tokens, by default the model's own.
    """

    def __init__(self, folder, *, precision="fp32", batch_tokens=None, max_length=None):
        self.settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}: expected 1 or more.")
        safe = {"model_kwargs": {"use_safetensors": True}, "trust_remote_code": False}
        self.client = _ThreadSafe(str(folder), local_files_only=True, **safe)
        if (labels := self.client.num_labels) > 2:
            raise ValueError(f"{folder} gives {labels} labels and no score: expected one or two.")
        if not self.client.tokenizer.is_fast:
            raise ValueError(f"{folder} has no fast tokenizer: expected a tokenizer.json")
        # What every pair costs: special tokens, and the model's template or prompt.
        prompt = self.client.prompts.get(self.client.default_prompt_name)
        self._frame = self.client.preprocess([("", "")], prompt=prompt)["input_ids"].shape[1]
        shortest, longest = self._frame + 2, self.client.max_seq_length or math.inf
        if max_length is not None:
            if not shortest <= max_length <= longest:
                raise ValueError(f"max_length is {max_length}: expected {shortest} to {longest}.")
            self.client.max_seq_length = max_length
        self.batch_tokens = batch_tokens or {"cpu": 2048}.get(self.client.device.type, 65_536)
        self._convert(precision, self.client.device.type)

    def __reduce__(self):
        return partial(type(self), **self.settings), ()

    def _convert(self, precision: str, device: str) -> None:
        dtype = choose_dtype(precision, device)
        self.client.to(dtype)  # once: autocast would convert the weights for every batch
        if device == "cpu" and dtype is torch.float32:
            as_onednn(self.client)

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return one float for each (query, passage) pair, in order.

        Of a pair that is too long the passage is cut, and the query only if it alone is. A lone
        surrogate, which is no text, and a score that is not finite, is a ValueError.
        """
        scores = [math.nan] * len(text_pairs)
        for start in range(0, len(scores), 4096):  # what is tokenized at once
            pairs, lengths = self._fitted(text_pairs[start : start + 4096])
            for batch in bounded_batches(lengths, self.batch_tokens):
                found = self.client.predict([pairs[i] for i in batch], batch_size=len(batch))
                # One label, or two: (not relevant, relevant).
                for i, score in zip(batch, found.reshape(len(batch), -1)[:, -1], strict=True):
                    scores[start + i] = float(score)
        if not all(map(math.isfinite, scores)):
            raise ValueError("a score is no finite number: try another precision than fp16")
        return scores

    def _fitted(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[int]]:
        """Cut what is too long, and count the tokens of each pair."""
        texts = [list(column) for column in zip(*pairs, strict=True)]
        if any(SURROGATE.search(text) for column in texts for text in column):
            raise ValueError("a text holds a lone surrogate, which is no character")
        how = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        with _ThreadSafe.lock:
            spans = [self.client.tokenizer(column, **how)["offset_mapping"] for column in texts]
        room, fitted, lengths = (self.client.max_seq_length or math.inf) - self._frame, [], []
        for query, passage, first, second in zip(*texts, *spans, strict=True):
            size = len(first) + len(second)
            # The tokenizer cuts the longer text; where that may be the query, it is too late then.
            if len(first) > room // 2 and size > room:
                left = max(room - len(first), 0)
                query = query[: first[:room][-1][1]]
                passage = passage[: second[left - 1][1]] if left else ""
            fitted.append((query, passage))
            lengths.append(self._frame + min(size, room))
        return fitted, lengths
