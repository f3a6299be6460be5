"""What a checkpoint is chosen by: ranking on dev texts, and pairs of passages right both ways."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score

from helpers.training.read import both_ways

Sample = tuple[str, list[str], list[int]]  # a question, its candidates, their grades


def candidates(
    asked: Sequence[tuple[str, dict[str, int]]], corpus: Sequence[str], bi_encoder, k: int = 20
) -> list[Sample]:
    """Return each question with its `k` nearest passages and their grades (0 where there is none).

    `asked` holds (question, grades of passages). A question without a graded one among the nearest
    is left out of a mean of nDCG here: no order of them is better than another.
    """
    passages = bi_encoder.encode(list(corpus), normalize_embeddings=True)
    vectors = bi_encoder.encode([question for question, _ in asked], normalize_embeddings=True)
    samples = []
    for (question, grades), near in zip(asked, vectors @ passages.T, strict=True):
        texts = [corpus[i] for i in np.argsort(-near)[:k]]
        samples.append((question, texts, [grades.get(text, 0) for text in texts]))
    return [sample for sample in samples if any(sample[2])]


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
            ndcg = [ndcg_score([g], [[next(scores) for _ in g]], k=10) for _, _, g in samples]
            metrics[f"dev_ndcg_{name}"] = float(np.mean(ndcg))
        ranking = np.mean(list(metrics.values()))
        right, kinds = self.right(model), np.array([kind for *_, kind in self.pairs])
        metrics["dev_both"] = float(right.mean())
        metrics |= {f"dev_both_{k}": float(right[kinds == k].mean()) for k in np.unique(kinds)}
        return metrics | {self.primary_metric: float((ranking + right.mean()) / 2)}

    def right(self, model: CrossEncoder) -> np.ndarray:
        """Return for each contrast pair whether both questions get their own passage."""
        asked = [((q, a), (q, b), (other, b), (other, a)) for q, a, other, b, _ in self.pairs]
        scores = self._score(model, list(chain(*asked))).reshape(-1, 4)
        return (scores[:, 0] > scores[:, 1]) & (scores[:, 2] > scores[:, 3])

    def _score(self, model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        unique = list(dict.fromkeys(pairs))
        settings = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            logits = model.predict(unique, batch_size=32, **settings)
        known = dict(zip(unique, logits.tolist(), strict=True))
        return np.array([known[pair] for pair in pairs])
