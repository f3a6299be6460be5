"""From pairs to scores, as fast as the processor allows: candidates -> scores.

`LocalCrossEncoder` gives the scores of LangChain's `HuggingFaceCrossEncoder` in less time. The
endpoint and the bulk job score with it too; `precision` is decided here and nowhere else.

What costs no quality is always on: pairs are sorted by length and computed in batches of bounded
size, and on a processor the matrices are multiplied by oneDNN. `precision="auto"` adds 16 bits
where the hardware computes them natively.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from torch.utils import mkldnn

try:
    from langchain_core.cross_encoders import BaseCrossEncoder
except ImportError:  # the container has no LangChain
    BaseCrossEncoder = object

# oneDNN keeps compiled code for each shape that it met, and nearly every batch has one of its own.
# Read when it is used first, so set before.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # /proc/cpuinfo: x86, x86, Arm
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def auto_precision(device: str) -> str:
    """Name the precision that `auto` is: 16 bits where `device` computes them natively."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return "bf16" if device == "cpu" and words & FAST_BF16 else "fp32"


def check_precision(precision: str, name: str = "precision", more: Sequence[str] = ()) -> None:
    """Refuse what is not fp32, bf16, fp16, auto or one of `more`.

    Raises:
        ValueError: It is none of them; the message calls it by `name`.
    """
    known = [*PRECISIONS, "auto", *more]
    if precision not in known:
        raise ValueError(f"{name} is {precision!r}: expected one of {', '.join(known)}.")


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """Return the type to compute in.

    Raises:
        ValueError: The precision is not fp32, bf16, fp16 or auto.
    """
    check_precision(precision)
    return PRECISIONS[auto_precision(device) if precision == "auto" else precision]


def bounded_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group the positions of `lengths`, longest first, into batches of little padding.

    Returns:
        Lists of positions. A batch's longest length times its size is at most `batch_tokens`,
        unless it holds one position alone.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


class LocalCrossEncoder(BaseCrossEncoder):
    """A cross-encoder in this process, for any place that takes a LangChain cross-encoder.

    Args:
        folder: A model's folder with safetensors weights.
        precision: `fp32`, `bf16`, `fp16`, or `auto`.
        batch_tokens: Tokens, padding included, computed at once. Memory depends on it and not on
            the number of pairs. By default 2,048 on a processor, whose caches hold little more,
            and 65,536 on a GPU.
        max_length: Tokens of a pair; what is longer is cut. By default the model's own limit.

    Raises:
        ValueError: The precision is unknown, or a number is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "fp32",
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ):
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(
                f"batch_tokens is {batch_tokens}: expected a whole number of at least 1."
            )
        self.client = CrossEncoder(
            str(folder),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        if max_length is not None:
            shortest = self.client.tokenizer.num_special_tokens_to_add(pair=True) + 2
            longest = self.client.max_seq_length or max_length
            if not shortest <= max_length <= longest:
                raise ValueError(
                    f"max_length is {max_length}: expected {shortest} to {longest} tokens, which "
                    "is what this model takes."
                )
            self.client.max_seq_length = max_length
        self.client.eval()
        self._convert(precision, self.client.device.type)
        on_processor = self.client.device.type == "cpu"  # by now
        self.batch_tokens = batch_tokens or (2048 if on_processor else 65_536)

    def _convert(self, precision: str, device: str) -> None:
        dtype = choose_dtype(precision, device)
        # Converted once: autocast would convert the weights again for every batch.
        self.client.to(dtype)
        if device == "cpu" and dtype is torch.float32 and torch.backends.mkldnn.is_available():
            # oneDNN uses the whole width of any maker's processor; torch's own choice does not.
            mkldnn.to_mkldnn(self.client)

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score (query, passage) pairs, any number of them.

        Returns:
            One float a pair, in order: what `HuggingFaceCrossEncoder.score` returns, except that
            of a pair that is too long the passage is cut, and the query only if it alone is.
        """
        if not text_pairs:
            return []
        queries, passages = zip(*(self.fit(*pair) for pair in text_pairs), strict=True)
        limit = self.client.max_seq_length
        tokens = self.client.tokenizer(
            list(queries), list(passages), truncation=limit is not None, max_length=limit
        )
        lengths = [len(ids) for ids in tokens["input_ids"]]
        scores = [0.0] * len(lengths)
        for batch in bounded_batches(lengths, self.batch_tokens):
            found = self._forward({name: [rows[i] for i in batch] for name, rows in tokens.items()})
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
        return scores

    @torch.inference_mode()
    def _forward(self, tokens: dict[str, list[list[int]]]) -> list[float]:
        padded = self.client.tokenizer.pad(tokens, return_tensors="pt", verbose=False)
        logits = self.client(padded.to(self.client.device))["scores"].float()
        scores = self.client.activation_fn(logits)
        # One label, or two: (not relevant, relevant).
        return scores.reshape(len(scores), -1)[:, -1].tolist()

    def fit(self, query: str, passage: str) -> tuple[str, str]:
        """Cut the passage so that the tokenizer, which cuts the longer text, spares the query."""
        tokenizer, limit = self.client.tokenizer, self.client.max_seq_length
        if limit is None or not tokenizer.is_fast:
            return query, passage
        room = limit - tokenizer.num_special_tokens_to_add(pair=True)
        if len(query.encode()) <= room // 2:  # a token has at least one byte
            return query, passage
        query, used = self._clip(query, room)
        if used > room // 2:
            passage, _ = self._clip(passage, room - used)
        return query, passage

    def _clip(self, text: str, room: int) -> tuple[str, int]:
        """Return the text's beginning that fills at most `room` tokens, and how many it fills."""
        spans = self.client.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        if len(spans) <= room:
            return text, len(spans)
        return (text[: spans[room - 1][1]] if room else ""), room
