"""From pairs of any length to what a cross-encoder reads of them: cut, or in windows."""

import math
from collections.abc import Sequence
from itertools import zip_longest

Pair = tuple[str, str]
MARGIN = 8  # tokens: a part of a text may have some more than it had in its place


class CutWarning(UserWarning):
    """Pairs were longer than the model reads, and their ends were left out."""


class Fitter:
    """Fits (query, passage) pairs to a `sentence_transformers.CrossEncoder`.

    Without a chat template a tokenizer cuts the longer of two texts, so a query of up to half the
    room is safe with it; beyond, the passage is cut here. With a template it cuts the end, which is
    the passage, unless the template has the query behind it.

    Args:
        client: The model. Its `lock` is held while its tokenizer works.
        prompt: What the model puts before each query, or None.
        windows: Score a passage that is too long in overlapping parts.
    """

    def __init__(self, client, prompt: str | None, windows: bool):
        self.client, self.prompt, self.windows = client, prompt, windows
        self.chat = "message" in client[0].modality_config

        def ids(query: str, passage: str, prompt: str | None = prompt) -> list[int]:
            return client.preprocess([(query, passage)], prompt=prompt)["input_ids"][0].tolist()

        def parting(one: list[int], other: list[int]) -> int:
            return next((i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b), -1)

        self.frame = len(ids("", ""))  # special tokens, template and prompt: what every pair costs
        self.prompted = self.frame - len(ids("", "", None))
        plain = ids("0", "0")
        self.query_first = parting(plain, ids("1 2", "0")) < parting(plain, ids("0", "1 2"))

    @property
    def room(self) -> float:
        """Tokens that query and passage may have together."""
        return (self.client.max_seq_length or math.inf) - self.frame

    def fit(self, pairs: Sequence[Pair]) -> tuple[list[tuple[int, Pair, int]], list[int]]:
        """Return (position, pair, its tokens) for each row to score, and the positions of the cut.

        A pair has one row, or as many as windows.

        Raises:
            ValueError: A text holds a lone surrogate, or the model would be given no token.
        """
        texts = [list(column) for column in zip(*pairs, strict=True)]
        try:
            "".join(text for column in texts for text in column).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds a lone surrogate, which is no character") from error
        how = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        with self.client.lock:
            spans = [self.client.tokenizer(column, **how)["offset_mapping"] for column in texts]
        sizes = self._in_template(pairs) if self.chat else []
        room, rows, cut = self.room, [], []
        safe = (room - self.prompted) // 2  # tokens of a query that the tokenizer leaves whole
        if self.chat:
            safe = math.inf if self.query_first else -1
        for i, (query, passage, first, second) in enumerate(zip(*texts, *spans, strict=True)):
            words = len(first) + len(second)
            size = sizes[i] if self.chat else words  # where words meet a template, tokens merge
            left = room - len(first) - max(size - words, 0)  # a template may repeat the query
            width = left - MARGIN
            if not self.frame + size:
                raise ValueError("a pair is empty, and the model puts nothing around it to read")
            if size <= room:
                rows.append((i, (query, passage), self.frame + size))
            elif self.windows and width > room // 4:  # else the query leaves too little
                for a in [*range(0, len(second) - width, width * 3 // 4), len(second) - width]:
                    window = passage[second[a][0] : second[a + width - 1][1]]
                    rows.append((i, (query, window), self.frame + len(first) + width))
            else:
                cut.append(i)
                if len(first) > safe:
                    query = query[: first[room - 1][1]] if len(first) > room else query
                    passage = passage[: second[left - 1][1]] if left > 0 else ""
                rows.append((i, (query, passage), self.frame + room))
        return rows, cut

    def _in_template(self, pairs: Sequence[Pair]) -> list[int]:
        """Count the tokens of each pair in the chat template, less those of the template."""
        whole = {"processing_kwargs": {"text": {"truncation": False}}, "prompt": self.prompt}
        parts = (list(pairs[start : start + 32]) for start in range(0, len(pairs), 32))
        masks = (self.client.preprocess(part, **whole)["attention_mask"] for part in parts)
        return [int(n) - self.frame for mask in masks for n in mask.sum(dim=1)]


def bounded_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group positions, longest first, so that a batch of several, padded, fits `batch_tokens`."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches
