"""What a checkpoint is chosen by: ranking on dev texts, and pairs of passages right both ways."""

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score

from helpers.training.read import both_ways

Sample = tuple[str, list[str], list[int]]  # a question, its candidates, their grades


def candidates(
    questions: Sequence[str],
    graded: Sequence[dict[str, int]],
    corpus: Sequence[str],
    bi_encoder: SentenceTransformer,
    k: int = 20,
) -> list[Sample]:
    """Return each question with its `k` nearest passages and their grades (0 where there is none).

    A question whose nearest passages hold no graded one is left out of a mean of nDCG here: no
    order of them is better than another.
    """
    passages = bi_encoder.encode(list(corpus), normalize_embeddings=True)
    vectors = bi_encoder.encode(list(questions), normalize_embeddings=True)
    nearest = np.argsort(-(vectors @ passages.T), axis=1)[:, :k]
    samples = []
    for question, grades, ids in zip(questions, graded, nearest, strict=True):
        texts = [corpus[i] for i in ids]
        found = [grades.get(text, 0) for text in texts]
        if any(found):
            samples.append((question, texts, found))
    return samples


class DevEvaluator(BaseEvaluator):
    """nDCG@10 over sets of samples, and the share of contrast pairs that are right both ways.

    `primary_metric` is the mean of the mean nDCG@10 and that share.
    """

    def __init__(self, sets: dict[str, list[Sample]], contrast: list[dict], bf16: bool):
        super().__init__()
        self.sets, self.pairs, self.bf16 = sets, both_ways(contrast), bf16
        self.name, self.primary_metric = "dev", "dev_both_and_ranking"

    def __call__(self, model: CrossEncoder, *_, **__) -> dict[str, float]:
        """Return the figures of a model by name."""
        metrics = {}
        for name, samples in self.sets.items():
            scores = iter(self._score(model, [(q, t) for q, texts, _ in samples for t in texts]))
            metrics[f"dev_ndcg_{name}"] = float(
                np.mean([ndcg_score([g], [[next(scores) for _ in g]], k=10) for _, _, g in samples])
            )
        right = self.right(model)
        metrics["dev_both"] = float(right.mean())
        for kind in sorted({pair[-1] for pair in self.pairs}):
            metrics[f"dev_both_{kind}"] = float(right[[p[-1] == kind for p in self.pairs]].mean())
        ranking = np.mean([metrics[f"dev_ndcg_{name}"] for name in self.sets])
        metrics[self.primary_metric] = float((ranking + metrics["dev_both"]) / 2)
        return metrics

    def right(self, model: CrossEncoder) -> np.ndarray:
        """Return for each contrast pair whether both questions get their own passage."""
        asked = [
            pair
            for q, a, other, b, _ in self.pairs
            for pair in ((q, a), (q, b), (other, b), (other, a))
        ]
        scores = self._score(model, asked).reshape(-1, 4)
        return (scores[:, 0] > scores[:, 1]) & (scores[:, 2] > scores[:, 3])

    def _score(self, model: CrossEncoder, pairs: list[tuple[str, str]]) -> np.ndarray:
        unique = list(dict.fromkeys(pairs))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = model.predict(
                unique, activation_fn=torch.nn.Identity(), batch_size=32, show_progress_bar=False
            )
        known = dict(zip(unique, np.asarray(logits, dtype=float), strict=True))
        return np.array([known[pair] for pair in pairs])
