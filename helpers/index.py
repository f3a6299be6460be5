"""From a text to a searchable index: text -> chunks -> vectors -> FAISS -> candidates.

Notebook 01 builds the same index step by step; `helpers/scale/kept.py` keeps one on disk.
"""

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_text_splitters import RecursiveCharacterTextSplitter
from pydantic import ConfigDict, PositiveInt, field_validator

METRICS = {"MAX_INNER_PRODUCT": faiss.METRIC_INNER_PRODUCT, "EUCLIDEAN_DISTANCE": faiss.METRIC_L2}
FIRST, STAND_INS = 0x20000, 0xE0000  # code points of which none is white space


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, less a byte order mark; ValueError if it is none."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds NUL characters, as UTF-16 does")
    except ValueError as error:
        raise ValueError(f"{path} is not UTF-8 text, save it as such: {error}") from error
    return text


def split_text(
    corpus: str | Path, *, chunk_size: int = 500, chunk_overlap: int = 100
) -> list[Document]:
    """Split a UTF-8 text file into numbered chunks (`number_chunks`).

    `metadata["source"]` is the file, `metadata["start_index"]` the offset of a chunk's first
    character in its text, at which no other chunk starts.

    Raises:
        ValueError: The file holds no text, or is not UTF-8.
    """
    text = read_text(corpus)
    # LangChain's `add_start_index` looks a chunk up by its words, and errs where they come again.
    # Here each character but white space, where texts are cut, has a stand-in of its own meanwhile.
    stands = "".join(c if c.isspace() else chr(FIRST + i % STAND_INS) for i, c in enumerate(text))
    splitter = RecursiveCharacterTextSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap)
    ends: dict[int, int] = {}
    start = 0
    for piece in splitter.split_text(stands):
        start = stands.index(piece, start)
        ends[start] = max(start + len(piece), ends.get(start, 0))
    if not ends:
        raise ValueError(f"{corpus} holds no text to index")
    source = {"source": str(corpus)}
    return number_chunks(
        [Document(text[a:b], metadata=source | {"start_index": a}) for a, b in ends.items()]
    )


def number_chunks(chunks: list[Document]) -> list[Document]:
    """Give chunks an identity, source and running number, as `metadata["chunk_id"]` and `id`."""
    for number, chunk in enumerate(chunks):
        chunk.id = chunk.metadata["chunk_id"] = f"{chunk.metadata.get('source', '')}#{number}"
    return chunks


def build_index(
    corpus: str | Path,
    embeddings: Embeddings,
    *,
    chunk_size: int = 500,
    chunk_overlap: int = 100,
    distance_strategy: str = "MAX_INNER_PRODUCT",
    show_progress: bool = True,
) -> FAISS:
    """Load, split and embed `corpus`, a UTF-8 text file, and index its chunks.

    The distance is what the embedding model was trained for; `HuggingFaceEmbeddings` can show
    their progress.

    Raises:
        ValueError: The file holds no text or is not UTF-8, or the distance is not supported.
    """
    distance = getattr(distance_strategy, "name", distance_strategy)  # LangChain's enumeration
    if distance not in METRICS:  # LangChain would take it for the Euclidean
        raise ValueError(
            f"distance_strategy is {distance}: expected one of {', '.join(METRICS)}. A dot product "
            "is MAX_INNER_PRODUCT, and so is a cosine, of embeddings that are normalised"
        )
    chunks = split_text(corpus, chunk_size=chunk_size, chunk_overlap=chunk_overlap)
    embedder = embeddings
    if hasattr(embeddings, "show_progress"):
        embedder = embeddings.model_copy(update={"show_progress": show_progress})
    vectors = embedder.embed_documents([chunk.page_content for chunk in chunks])
    index = faiss.IndexFlat(len(vectors[0]), METRICS[distance])
    index.add(np.array(vectors, dtype=np.float32))
    return make_store(index, chunks, embeddings)


def make_store(index: faiss.Index, chunks: Sequence[Document], embeddings: Embeddings) -> FAISS:
    """Join a FAISS index with the chunks whose vectors it holds, in their order.

    Relevance, for a score threshold, is the cosine of vectors of length 1, at least 0. (LangChain's
    own is 1 - s of a similarity s, so that a threshold keeps the farthest.)
    """
    inner = index.metric_type == faiss.METRIC_INNER_PRODUCT

    def relevance(found: float) -> float:
        cosine = float(found if inner else 1 - found / 2)
        if abs(cosine) > 1.001:
            raise ValueError(f"{cosine:.3g} is no cosine: normalise the embeddings for a threshold")
        return min(max(cosine, 0.0), 1.0)

    ids = [chunk.metadata["chunk_id"] for chunk in chunks]
    documents = InMemoryDocstore(dict(zip(ids, chunks, strict=True)))
    [name] = [name for name, metric in METRICS.items() if metric == index.metric_type]
    how = {"relevance_score_fn": relevance, "distance_strategy": name}
    return FAISS(embeddings, index, documents, dict(enumerate(ids)), **how)


class SimilarityRetriever(BaseRetriever):
    """A FAISS store's `k` nearest passages, copies with `metadata["similarity"]` to the query.

    That is the inner product (for vectors of length 1 the cosine), which
    `ScoringReranker(base_weight=...)` reads.
    """

    store: FAISS
    k: PositiveInt = 20

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @field_validator("store")
    @classmethod
    def _by_inner_product(cls, store: FAISS) -> FAISS:
        if store.index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("the store compares by distance: expected one by inner product")
        return store

    def _get_relevant_documents(self, query: str, *, run_manager) -> list[Document]:
        found = self.store.similarity_search_with_score(query, k=self.k)
        return [
            doc.model_copy(update={"metadata": doc.metadata | {"similarity": float(similarity)}})
            for doc, similarity in found
        ]
