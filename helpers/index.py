"""From a text to a searchable index: text -> chunks -> vectors -> FAISS.

A text file and a LangChain embedding model come in, a LangChain `FAISS` store goes out. Notebook 01
builds the same index step by step; this is the form that a product would keep, with a progress bar
and an optional folder that makes the second start quick.
"""

import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import faiss
import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.document_loaders import TextLoader
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_text_splitters import RecursiveCharacterTextSplitter
from pydantic import ConfigDict, PositiveInt, model_validator
from tqdm.auto import tqdm

PROBE = "Which model made these vectors?"


def split_text(
    corpus: str | Path, *, chunk_size: int = 500, chunk_overlap: int = 100
) -> list[Document]:
    """Split a UTF-8 text file into chunks that remember where they start.

    Returns:
        Documents whose `metadata["start_index"]` is the character offset in the text.

    Raises:
        ValueError: The file holds no text, or is not UTF-8.
    """
    try:
        documents = TextLoader(str(corpus), encoding="utf-8").load()
    except RuntimeError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise ValueError(f"{corpus} is not UTF-8 text: {error.__cause__}") from error
        raise
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=chunk_size, chunk_overlap=chunk_overlap, add_start_index=True
    )
    chunks = splitter.split_documents(documents)
    if not chunks:
        raise ValueError(f"{corpus} holds no text to index")
    return chunks


def build_index(
    corpus: str | Path,
    embeddings: Embeddings,
    *,
    chunk_size: int = 500,
    chunk_overlap: int = 100,
    distance_strategy: DistanceStrategy = DistanceStrategy.MAX_INNER_PRODUCT,
    factory: str = "Flat",
    effort: int | None = None,
    folder: str | Path | None = None,
    show_progress: bool = True,
) -> FAISS:
    """Load, split and embed `corpus`, and index its chunks.

    With `CacheBackedEmbeddings` as `embeddings`, a build that was killed goes on where it was, and
    a text that has grown costs only its new chunks.

    Args:
        corpus: A UTF-8 text file.
        embeddings: Any LangChain embedding model.
        chunk_size: Characters in a chunk, at most.
        chunk_overlap: Characters that neighbouring chunks may share.
        distance_strategy: The distance that the embedding model was trained for.
        factory: What kind of index, in the words of `faiss.index_factory`: `Flat` compares every
            vector, `HNSW32` walks a graph, `IVF1024,PQ48np` compresses
            (https://github.com/facebookresearch/faiss/wiki/The-index-factory).
        effort: What a search of such an index visits: nodes (FAISS's `efSearch`, 16 by default) or
            cells (`nprobe`, 1 by default). More finds more and takes longer. It is no part of what
            is kept in `folder`.
        folder: Keep the index here (`index.faiss`, `documents.json`, `manifest.json`; nothing is
            pickled) and reuse it. It is built anew when the text, the splitter, the model, the
            distance or the factory has changed, and, with a warning, when the files are damaged.
        show_progress: Show a progress bar while embedding.

    Raises:
        ValueError: The file holds no text, or is not UTF-8; or FAISS cannot make such an index of
            so many chunks, or `effort` does not fit its kind.
    """
    parameter = None if effort is None else effort_parameter(factory)
    if parameter and effort < 1:
        raise ValueError(f"effort is {effort}: expected a whole number of at least 1")
    chunks = split_text(corpus, chunk_size=chunk_size, chunk_overlap=chunk_overlap)
    manifest = {
        "chunks": _sha256(
            json.dumps([[c.page_content, c.metadata["start_index"]] for c in chunks])
        ),
        "model": str(getattr(embeddings, "model_name", type(embeddings).__name__)),
        "probe": [float(x) for x in embeddings.embed_query(PROBE)],
        "distance_strategy": distance_strategy.name,
        "factory": factory,
    }
    if folder is not None:
        stored = _load_index(Path(folder), manifest, embeddings, distance_strategy)
        if stored is not None:
            if parameter:
                faiss.ParameterSpace().set_index_parameter(stored.index, parameter, effort)
            return stored
    texts = [chunk.page_content for chunk in chunks]
    vectors = []
    progress = {} if show_progress else {"disable": True}  # {}: TQDM_DISABLE still counts
    for start in tqdm(range(0, len(texts), 32), desc="Embedding", **progress):
        vectors.extend(embeddings.embed_documents(texts[start : start + 32]))
    store = FAISS(
        embeddings,
        _new_index(factory, np.array(vectors, dtype=np.float32), distance_strategy),
        InMemoryDocstore(),
        {},
        distance_strategy=distance_strategy,
    )
    store.add_embeddings(
        zip(texts, vectors, strict=True),
        metadatas=[chunk.metadata for chunk in chunks],
        ids=[str(number) for number in range(len(chunks))],
    )
    if folder is not None:
        _save_index(Path(folder), manifest, store, chunks)
    if parameter:
        faiss.ParameterSpace().set_index_parameter(store.index, parameter, effort)
    return store


class SimilarityRetriever(BaseRetriever):
    """A FAISS store's nearest passages, each with its similarity to the query.

    Documents are copies with `metadata["similarity"]`, the inner product of query and passage
    (for vectors of length 1 the cosine), which `ScoringReranker(base_weight=...)` reads.

    Attributes:
        store: What `build_index` returns.
        k: How many passages.
    """

    store: FAISS
    k: PositiveInt = 20

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _by_inner_product(self) -> "SimilarityRetriever":
        if self.store.index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(
                "the store compares by distance, where less is nearer: expected an index by inner "
                "product (build_index's default)"
            )
        return self

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = self.store.similarity_search_with_score(query, k=self.k)
        return [
            doc.model_copy(update={"metadata": doc.metadata | {"similarity": float(similarity)}})
            for doc, similarity in found
        ]


def effort_parameter(factory: str) -> str:
    """Return FAISS's name for what a search of such an index visits.

    Raises:
        ValueError: An index of this kind has no such setting.
    """
    for kind, name in {"IVF": "nprobe", "HNSW": "efSearch"}.items():
        if kind in factory:
            return name
    raise ValueError(f"factory {factory!r} takes no effort: expected a kind with IVF or HNSW in it")


def _new_index(factory: str, vectors: np.ndarray, distance_strategy: DistanceStrategy):
    """Make an empty index, trained on `vectors` where its kind needs that."""
    inner = distance_strategy == DistanceStrategy.MAX_INNER_PRODUCT
    metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
    try:
        index = faiss.index_factory(vectors.shape[1], factory, metric)
        if not index.is_trained:
            index.train(vectors)
    except RuntimeError as error:
        reason = re.sub(r"^Error in .*?\.cpp:\d+: (Error: )?", "", str(error).strip(), flags=re.S)
        raise ValueError(
            f"FAISS cannot make the index {factory!r} of {len(vectors)} vectors of "
            f"{vectors.shape[1]} numbers: {reason}. `Flat` always works"
        ) from error
    return index


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _save_index(folder: Path, manifest: dict, store: FAISS, chunks: list[Document]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    index = bytes(faiss.serialize_index(store.index))
    documents = json.dumps([chunk.model_dump() for chunk in chunks], indent=0)
    manifest = manifest | {
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "documents_sha256": _sha256(documents),
    }
    # The manifest goes last and by rename: a folder cut off half-way has none that fits its files.
    (folder / "index.faiss").write_bytes(index)
    (folder / "documents.json").write_text(documents, encoding="utf-8")
    temporary = folder / f"manifest.json.{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    temporary.replace(folder / "manifest.json")


def _load_index(
    folder: Path, expected: dict, embeddings: Embeddings, distance_strategy: DistanceStrategy
) -> FAISS | None:
    """Return the stored index, or None where there is none that fits `expected`."""
    if not (folder / "manifest.json").exists():
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        same = all(manifest[key] == expected[key] for key in expected if key != "probe")
        probe, now = np.array(manifest["probe"], dtype=float), np.array(expected["probe"])
        # Another processor rounds differently; other weights under the same name differ by more.
        if not same or probe.shape != now.shape or not np.allclose(probe, now, atol=1e-3):
            return None
        index = (folder / "index.faiss").read_bytes()
        documents = (folder / "documents.json").read_text(encoding="utf-8")
        if hashlib.sha256(index).hexdigest() != manifest["index_sha256"]:
            raise ValueError("index.faiss is not the file that was written")
        if _sha256(documents) != manifest["documents_sha256"]:
            raise ValueError("documents.json is not the file that was written")
        chunks = [Document(**fields) for fields in json.loads(documents)]
        faiss_index = faiss.deserialize_index(np.frombuffer(index, dtype=np.uint8))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        warnings.warn(f"the index in {folder} is damaged and is built anew: {error}", stacklevel=3)
        return None
    ids = [str(number) for number in range(len(chunks))]
    return FAISS(
        embeddings,
        faiss_index,
        InMemoryDocstore(dict(zip(ids, chunks, strict=True))),
        dict(enumerate(ids)),
        distance_strategy=distance_strategy,
    )
