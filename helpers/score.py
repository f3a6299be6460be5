"""From pairs to scores, as fast as the hardware allows: candidates -> scores."""

import math
import os
import threading
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.fit import CutWarning, Fitter, bounded_batches
from helpers.hardware import as_onednn, choose_dtype
from helpers.load import load_model

try:
    from langchain_core.cross_encoders import BaseCrossEncoder
except ImportError:  # the container has no LangChain
    BaseCrossEncoder = object

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")  # or it keeps code for each shape


class LocalCrossEncoder(BaseCrossEncoder):
    """LangChain's `HuggingFaceCrossEncoder` in less time, for any place that takes one.

    It is sentence-transformers' own `predict`, with the template, prompt and lengths that a model
    was saved with, in bounded batches. Threads may share it; pickled, it is loaded anew.

    Args:
        model: A folder with safetensors weights, or a name on the Hugging Face hub.
        device: As torch spells it: `cpu`, `cuda`, `cuda:1`, `mps`; by default the best there is.
            On `mps` threads are served one after another.
        precision: `fp32`, `bf16`, `fp16` or `auto`: 16 bits where the hardware has them.
        max_length: Tokens of a pair, by default the model's own. What is longer is cut, the passage
            before the query, and a `CutWarning` says how often; `cut` counts on.
        batch_tokens: Tokens computed at once, padding included; by default 2,048 on a processor,
            65,536 on a GPU.
        revision: Of a name on the hub: a commit, a branch or a tag.
        prompt: An instruction, in place of the one that the model was saved with.
        windows: Score a passage that is too long in overlapping parts, and take the best.
        show_progress: Show a bar.

    Raises:
        ModelError, ValueError: A setting is wrong, or see `helpers.load.load_model`.
    """

    def __init__(
        self,
        model,
        *,
        device=None,
        precision="fp32",
        max_length=None,
        batch_tokens=None,
        revision=None,
        prompt=None,
        windows=False,
        show_progress=False,
    ):
        self.settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}: expected 1 or more.")
        self.client = load_model(model, revision, device)
        if prompt is None:
            prompt = self.client.prompts.get(self.client.default_prompt_name)
        self.cut, self._prompt, self._turn = 0, prompt, threading.Lock()
        self._fitter = Fitter(self.client, prompt, windows)
        shortest, longest = self._fitter.frame + 2, self.client.max_seq_length or math.inf
        if shortest > longest:
            raise ValueError(f"prompt and template leave no room in the model's {longest} tokens.")
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
        """Return one float for each (query, passage) pair, in order, after the model's activation.

        Warns once (`CutWarning`) where pairs were cut. A lone surrogate, which is no text, and a
        score that is not finite, is a ValueError.
        """
        logits, cut = self.logits(text_pairs)
        if cut:
            said = f"{len(cut)} of {len(text_pairs)} pairs are longer than the model's "
            said += f"{self.client.max_seq_length} tokens and were cut; "
            on = self.settings["windows"]
            said += "their queries leave no room" if on else "`windows=True` reads to the end"
            warnings.warn(said, CutWarning, stacklevel=2)
        return self.activate(logits)

    def _predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        how = {"activation_fn": torch.nn.Identity(), "batch_size": len(pairs)}
        how["show_progress_bar"] = False  # which logging at INFO would show
        alone = self.client.device.type == "mps"  # whose queue is not for several threads
        if alone and not self._turn.acquire(blocking=False):
            warnings.warn("on MPS the calls of several threads are scored in turn", stacklevel=4)
            self._turn.acquire()
        try:
            return self.client.predict(pairs, prompt=self._prompt, **how).reshape(len(pairs), -1)
        finally:
            if alone:
                self._turn.release()

    def activate(self, logits: np.ndarray) -> list[float]:
        """Turn logits into scores: the last label's, of (not relevant, relevant) the second."""
        found = self.client.activation_fn(torch.from_numpy(logits))[:, -1].tolist()
        if not all(map(math.isfinite, found)):
            raise ValueError("a score is no finite number: try another precision than fp16")
        return found

    def count_tokens(self, text_pairs: Sequence[tuple[str, str]]) -> int:
        """Count what the model reads of all pairs, special tokens and template included."""
        return sum(tokens for _, _, tokens in self._fitter.fit(text_pairs)[0])

    def logits(self, text_pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, list[int]]:
        """Return what the model says of each pair, float32 (pairs, labels), and which were cut."""
        logits = np.empty((len(text_pairs), self.client.num_labels), dtype=np.float32)
        cut: list[int] = []
        for start in range(0, len(text_pairs), 4096):  # what is tokenized at once
            part = logits[start : start + 4096]
            rows, too_long = self._fitter.fit(text_pairs[start : start + 4096])
            found = np.empty((len(rows), logits.shape[1]), dtype=np.float32)
            batches = bounded_batches([length for *_, length in rows], self.batch_tokens)
            for batch in tqdm(batches, desc="Batches", disable=not self.settings["show_progress"]):
                found[batch] = self._predict([rows[i][1] for i in batch])
            best_last = found[:, -1].argsort(kind="stable")  # of the windows of a pair
            part[[rows[i][0] for i in best_last]] = found[best_last]
            cut += [start + i for i in too_long]
        if not np.isfinite(logits).all():
            raise ValueError("a score is no finite number: try another precision than fp16")
        with self.client.lock:
            self.cut += len(cut)
        return logits, cut
