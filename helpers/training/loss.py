"""ListNet over lists of any make, with a term that keeps scores comparable between questions."""

from itertools import chain

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch.nn.functional import binary_cross_entropy_with_logits

from helpers.fit import bounded_batches


class PairListLoss(torch.nn.Module):
    """The cross-entropy of each list's target with its scores, plus a share of pairwise log loss.

    The first term is ListNet (Cao et al., 2007), which only sees differences within a list. The
    second is the binary cross-entropy of every judged pair: with it alone does a score of 2 mean
    the same for two questions. A list whose targets are all 0 has the second term only.
    `pointwise` is the second term's weight, `batch_tokens` (padding included) what is computed at
    once.
    """

    def __init__(self, model: CrossEncoder, pointwise: float = 0.3, batch_tokens: int = 2048):
        super().__init__()
        self.model, self.pointwise, self.batch_tokens = model, pointwise, batch_tokens

    def forward(self, inputs: list[list[list[str]]], labels: list[torch.Tensor], **_):
        """Return the loss of a batch: the lists' queries and documents, and their labels.

        The labels of a list are a tensor (pairs, 2) of [target, relevant] on any device; see
        `lists.py`.
        """
        queries, documents = (list(chain(*column)) for column in inputs)
        logits = self._score(list(zip(queries, documents, strict=True)))
        sizes = [len(row) for row in labels]
        targets, relevant = torch.cat(labels).to(logits.device).unbind(1)
        lists = zip(logits.split(sizes), targets.split(sizes), strict=True)
        listwise = torch.stack([-(torch.log_softmax(x, 0) * target).sum() for x, target in lists])
        judged = (relevant >= 0).float()
        losses = binary_cross_entropy_with_logits(logits, relevant, reduction="none")
        return listwise.mean() + self.pointwise * (losses * judged).sum() / judged.sum().clamp(1)

    def _score(self, pairs: list[tuple[str, str]]) -> torch.Tensor:
        tokens = self.model.preprocess(pairs)
        # Few different widths: oneDNN compiles for each shape that it meets.
        widths = (-(-tokens["attention_mask"].sum(1) // 16) * 16).tolist()
        batches = bounded_batches(widths, self.batch_tokens)
        scores = []
        for batch in batches:
            features = {
                name: value[batch, : widths[batch[0]]].to(self.model.device)
                for name, value in tokens.items()
                if torch.is_tensor(value)
            }
            scores.append(self.model(features)["scores"].view(-1).float())
        return torch.cat(scores)[np.argsort(list(chain(*batches)))]
