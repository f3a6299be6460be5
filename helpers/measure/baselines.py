"""What notebook 04 compares reranking with: BM25, vectors alone, a baseline without training."""

from collections.abc import Sequence

import bm25s
import numpy as np
import regex
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import PositiveInt

from helpers.index import SimilarityRetriever
from helpers.measure.orders import MORE
from helpers.rerank import ScoringReranker

# Where a script puts no spaces between words, each character is one.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
WORD = regex.compile(rf"(?V1){UNSPACED}|[[\w\p{{M}}]--{UNSPACED}]+")
# The second kind, of Chinese and Japanese, without a space behind it.
SENTENCE_END = regex.compile(r"(?<=[.!?\u0964])\s+|(?<=[\u3002\uff01\uff1f])\s*(?=\S)")


def words(text: str) -> list[str]:
    """Split a text into lower-case words, or, where it has none, into its signs."""
    return WORD.findall(text.lower()) or text.split()


class BM25(BaseRetriever):
    """The `k` documents that score best by BM25 (`bm25s`: k1 1.5, b 0.75, Lucene's), above 0."""

    docs: list[Document]
    k: PositiveInt = 20

    def model_post_init(self, _) -> None:
        self._index = bm25s.BM25()
        self._index.index([words(doc.page_content) for doc in self.docs], show_progress=False)

    def _get_relevant_documents(self, query: str, *, run_manager) -> list[Document]:
        if not (asked := words(query)):
            return []
        scores = self._index.get_scores(asked)
        best = np.argsort(-scores, kind="stable")[: self.k]
        return [self.docs[i] for i in best if scores[i] > 0]


class HybridRetriever(SimilarityRetriever):
    """The `k` nearest passages, then those that `words` finds and that are not among them.

    Each with its `metadata["similarity"]`, whichever search found it: what `ScoringReranker` needs
    for `base_weight`. For a cross-encoder alone LangChain's `MergerRetriever` will do.
    """

    words: BaseRetriever

    def _get_relevant_documents(self, query: str, *, run_manager) -> list[Document]:
        nearest = super()._get_relevant_documents(query, run_manager=run_manager)
        known = {doc.page_content for doc in nearest}
        more = [doc for doc in self.words.invoke(query) if doc.page_content not in known]
        if not more:
            return nearest
        embed = self.store.embeddings
        vectors = embed.embed_documents([doc.page_content for doc in more])
        asked = np.asarray(embed.embed_query(query))
        for doc, vector in zip(more, vectors, strict=True):
            metadata = doc.metadata | {"similarity": float(asked @ vector)}
            nearest.append(doc.model_copy(update={"metadata": metadata}))
        return nearest


class ChunkAndSentence(BaseCrossEncoder):
    """A baseline without training: the mean of the chunk's cosine and its best sentence's."""

    def __init__(self, embeddings: Embeddings):
        self.embeddings, self._known = embeddings, {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return one score a pair, higher is better."""
        parts = [[text, *SENTENCE_END.split(text)] for _, text in text_pairs]
        wanted = {query for query, _ in text_pairs} | {p for group in parts for p in group}
        if unknown := sorted(wanted - self._known.keys()):
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
        self.model, self._known = model, {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the model's score of each pair, in order."""
        pairs = [tuple(pair) for pair in text_pairs]
        if unknown := [pair for pair in dict.fromkeys(pairs) if pair not in self._known]:
            self._known |= dict(zip(unknown, self.model.score(unknown), strict=True))
        return [self._known[pair] for pair in pairs]


def pipelines(
    store,
    chunks: Sequence[Document],
    cross_encoder: BaseCrossEncoder,
    embeddings: Embeddings,
    k: int = 20,
    base_weight: float = 0.0,
) -> dict[str, BaseRetriever]:
    """Return the retrievers that the table compares over a FAISS `store`.

    `reranked` is by the cross-encoder's score alone, `fused` by `ScoringReranker(base_weight=...)`,
    left out where that is 0; both over the `k` nearest. `vectors + BM25` is the last of them over
    those and the ten best of BM25.
    """
    base, remembering = SimilarityRetriever(store=store, k=k), Remembering(cross_encoder)
    hybrid = HybridRetriever(store=store, k=k, words=BM25(docs=list(chunks), k=MORE))

    def reranked(
        model: BaseCrossEncoder, weight: float = 0.0, retriever: BaseRetriever = base
    ) -> BaseRetriever:
        compressor = ScoringReranker(model=model, base_weight=weight)
        return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)

    fused = {"fused": reranked(remembering, base_weight)} if base_weight else {}
    return {
        "BM25": BM25(docs=list(chunks), k=k),
        "base (vectors)": base,
        "chunk + sentence": reranked(ChunkAndSentence(embeddings)),
        "reranked": reranked(remembering),
        **fused,
        "vectors + BM25": reranked(remembering, base_weight, hybrid),
    }
