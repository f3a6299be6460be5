"""ListNet over lists of any make, with a term that keeps scores comparable between questions."""

import torch
from sentence_transformers import CrossEncoder
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from helpers.score import bounded_batches


class PairListLoss(nn.Module):
    """The cross-entropy of each list's target with its scores, plus a share of pairwise log loss.

    The first term is ListNet (Cao et al., 2007), which only sees differences within a list. The
    second is the binary cross-entropy of every judged pair: with it alone does a score of 2 mean
    the same for two questions. A list whose targets are all 0 has the second term only.

    Args:
        model: The cross-encoder, with one label.
        pointwise: The weight of the second term.
        batch_tokens: Tokens, padding included, that are computed at once.
    """

    def __init__(self, model: CrossEncoder, pointwise: float = 0.3, batch_tokens: int = 2048):
        super().__init__()
        self.model = model
        self.pointwise = pointwise
        self.batch_tokens = batch_tokens

    def forward(
        self, inputs: list[list[list[str]]], labels: list[torch.Tensor], **_
    ) -> torch.Tensor:
        """Return the loss of a batch.

        Args:
            inputs: The lists' queries and the lists' documents.
            labels: For each list a tensor (pairs, 2) of [target, relevant]; see `lists.py`.
        """
        queries, documents = inputs
        pairs = [
            pair for q, d in zip(queries, documents, strict=True) for pair in zip(q, d, strict=True)
        ]
        logits = self._score(pairs)
        flat = torch.cat(labels).to(logits.device)
        losses = [
            -(torch.log_softmax(found, 0) * wanted[:, 0].to(found.device)).sum()
            for found, wanted in zip(
                logits.split([len(row) for row in labels]), labels, strict=True
            )
        ]
        judged = flat[:, 1] >= 0
        pointwise = binary_cross_entropy_with_logits(logits[judged], flat[judged, 1])
        return torch.stack(losses).mean() + self.pointwise * pointwise

    def _score(self, pairs: list[tuple[str, str]]) -> torch.Tensor:
        tokenizer, limit = self.model.tokenizer, self.model.max_seq_length
        tokens = tokenizer(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=limit)
        # Few different widths: oneDNN compiles for each shape that it meets.
        widths = [-(-len(ids) // 16) * 16 for ids in tokens["input_ids"]]
        scores = torch.empty(len(pairs), device=self.model.device)
        for batch in bounded_batches(widths, self.batch_tokens):
            rows = {name: [column[i] for i in batch] for name, column in tokens.items()}
            padded = tokenizer.pad(rows, pad_to_multiple_of=16, return_tensors="pt", verbose=False)
            found = self.model(dict(padded.to(self.model.device)))["scores"]
            scores = scores.index_put((torch.tensor(batch),), found.view(-1).float())
        return scores
