"""What notebook 04 compares reranking with: BM25, vectors alone, and a baseline without training."""

import re
from collections.abc import Sequence

import numpy as np
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_community.retrievers import BM25Retriever
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from helpers.index import SimilarityRetriever
from helpers.rerank import ScoringReranker

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class ChunkAndSentence(BaseCrossEncoder):
    """A baseline without training: the mean of the chunk's cosine and its best sentence's."""

    def __init__(self, embeddings: Embeddings):
        self.embeddings = embeddings
        self._known: dict[str, np.ndarray] = {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return one score a pair, higher is better."""
        parts = [[text, *SENTENCE_END.split(text)] for _, text in text_pairs]
        wanted = {query for query, _ in text_pairs} | {p for group in parts for p in group}
        unknown = sorted(wanted - self._known.keys())
        if unknown:
            vectors = np.asarray(self.embeddings.embed_documents(unknown))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            self._known |= dict(zip(unknown, vectors, strict=True))
        scores = []
        for (query, _), group in zip(text_pairs, parts, strict=True):
            cosines = np.stack([self._known[p] for p in group]) @ self._known[query]
            scores.append(float((cosines[0] + cosines[1:].max()) / 2))
        return scores


class Remembering(BaseCrossEncoder):
    """Scores each pair once: two of the compared pipelines ask the model for the same pairs."""

    def __init__(self, model: BaseCrossEncoder):
        self.model = model
        self._known: dict[tuple[str, str], float] = {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the model's score of each pair, in order."""
        pairs = [tuple(pair) for pair in text_pairs]
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if unknown:
            self._known |= dict(zip(unknown, self.model.score(unknown), strict=True))
        return [self._known[pair] for pair in pairs]


def words(text: str) -> list[str]:
    """Split a text into lower-case words, which is what BM25 matches."""
    return WORD.findall(text.lower())


def pipelines(
    store: VectorStore,
    chunks: Sequence[Document],
    cross_encoder: BaseCrossEncoder,
    embeddings: Embeddings,
    k: int = 20,
    base_weight: float = 0.0,
) -> dict[str, BaseRetriever]:
    """Return the retrievers that the table compares, each giving `k` documents.

    `reranked` is in the order of the cross-encoder's score alone, `fused` in that of
    `ScoringReranker(base_weight=...)`, which is left out where `base_weight` is 0.
    """
    base = SimilarityRetriever(store=store, k=k)

    def reranked(model: BaseCrossEncoder, weight: float = 0.0) -> BaseRetriever:
        return ContextualCompressionRetriever(
            base_compressor=ScoringReranker(model=model, base_weight=weight), base_retriever=base
        )

    remembering = Remembering(cross_encoder)
    fused = {"fused": reranked(remembering, base_weight)} if base_weight else {}
    return {
        "BM25": BM25Retriever.from_documents(list(chunks), k=k, preprocess_func=words),
        "base (vectors)": base,
        "chunk + sentence": reranked(ChunkAndSentence(embeddings)),
        "reranked": reranked(remembering),
    } | fused
