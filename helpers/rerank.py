"""From candidates to ranked documents: a cross-encoder scores each, and the scores are kept.

LangChain's `CrossEncoderReranker` throws the scores away and pairs them with the documents without
counting. `ScoringReranker` fits the same place (`ContextualCompressionRetriever`).
"""

import math
from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt
from scipy.special import expit, logit


class ScoringReranker(BaseDocumentCompressor):
    """Rerank documents with a cross-encoder and say how each one scored.

    The documents that come back are copies, best first, with `metadata["relevance_score"]` (the
    cross-encoder's score, a float) and `metadata["base_rank"]` (the rank in the input, from 1).
    Documents of equal score keep their order. Of those that read alike the first stands for all,
    with the ranks of the others as `metadata["duplicates"]`.

    Attributes:
        model: A LangChain cross-encoder, in this process or behind an endpoint.
        top_n: How many documents to return at most; None returns all.
        template: What the model reads of a document: with `"{title}: {page_content}"`, say, its
            `metadata["title"]` in front.
        base_weight: How much the first stage's `metadata["similarity"]` counts beside the score
            (`helpers.index.SimilarityRetriever` puts it there). What of it is above the candidates'
            mean, times this, is added to the score's log-odds; the sum, as a chance again, is the
            `relevance_score`, and `metadata["cross_encoder_score"]` the model's own. Fitted for one
            cross-encoder and one first stage; needs scores from 0 to 1. 0 leaves similarity out.
        score_threshold: Return only documents that score at least this; None returns all. A
            threshold belongs to one model: scores of two share no scale.
    """

    model: BaseCrossEncoder
    top_n: PositiveInt | None = None
    template: str = "{page_content}"
    base_weight: NonNegativeFloat = 0.0
    score_threshold: float | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Score every document against `query` and return the best.

        Raises:
            ValueError: A document lacks what the template names, or the model returned another
                number of scores than it was given pairs, or a score that is not a number.
        """
        documents, pairs = self._pairs(documents, query)
        scores = self._scorer().invoke(pairs, {"callbacks": callbacks}) if pairs else []
        return self._ranked(documents, scores)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do what `compress_documents` does, the scoring in a thread of its own."""
        documents, pairs = self._pairs(documents, query)
        scores = await self._scorer().ainvoke(pairs, {"callbacks": callbacks}) if pairs else []
        return self._ranked(documents, scores)

    def _pairs(self, documents: Sequence[Document], query: str) -> tuple[list[Document], list]:
        """Pair the query with what is to be read of each document, each text once."""
        template, ranks = PromptTemplate.from_template(self.template), {}
        for rank, document in enumerate(documents, start=1):
            facts = {name: "" if v is None else v for name, v in document.metadata.items()}
            facts["page_content"] = document.page_content
            if missing := set(template.input_variables) - facts.keys():
                raise ValueError(f"document {rank} has no {missing}, which the template names")
            ranks.setdefault(template.format(**facts), []).append(rank)
        kept = []
        for first, *others in ranks.values():
            metadata = documents[first - 1].metadata | {"base_rank": first, "duplicates": others}
            if not others:
                del metadata["duplicates"]  # of an earlier reranker, too
            kept.append(documents[first - 1].model_copy(update={"metadata": metadata}))
        return kept, [(query, text) for text in ranks]

    def _scorer(self) -> Runnable:
        # As a runnable, the scoring is a step of its own in a trace, and callbacks see it.
        score = lambda pairs: [float(score) for score in self.model.score(pairs)]  # noqa: E731
        return RunnableLambda(score, name=type(self.model).__name__)

    def _ranked(self, documents: Sequence[Document], scores: list[float]) -> list[Document]:
        name = type(self.model).__name__
        if len(scores) != len(documents):
            raise ValueError(f"{name} returned {len(scores)} scores for {len(documents)} documents")
        if nan := [rank for rank, score in enumerate(scores, start=1) if math.isnan(score)]:
            raise ValueError(f"{name} returned NaN for the document of rank {nan[0]}, no order")
        more = [{"cross_encoder_score": score} for score in scores]
        if self.base_weight:
            scores = self._with_similarity(documents, scores)
        ranked = [
            document.model_copy(
                update={"metadata": document.metadata | added | {"relevance_score": score}}
            )
            for document, added, score in zip(documents, more, scores, strict=True)
            if self.score_threshold is None or score >= self.score_threshold
        ]
        ranked.sort(key=lambda document: -document.metadata["relevance_score"])
        return ranked[: self.top_n]

    def _with_similarity(self, documents: Sequence[Document], scores: list[float]) -> list[float]:
        found = [document.metadata.get("similarity") for document in documents]
        if None in found:
            raise ValueError(
                f'document {found.index(None) + 1} has no metadata["similarity"], as base_weight '
                "needs: helpers.index.SimilarityRetriever puts it there (notebook 8: other stores)"
            )
        if len(found) > 2 and found == sorted({*found}):
            raise ValueError("the similarity rises from the first document on: is it a distance?")
        if not all(0 <= score <= 1 for score in scores):
            raise ValueError(
                f"base_weight needs scores between 0 and 1; {type(self.model).__name__} gives "
                f"{min(scores):.3g} to {max(scores):.3g}: leave base_weight out"
            )
        mean = sum(found) / len(found)
        odds = [logit(min(max(score, 1e-12), 1 - 1e-12)) for score in scores]
        return [
            float(expit(o + self.base_weight * (s - mean)))
            for o, s in zip(odds, found, strict=True)
        ]
