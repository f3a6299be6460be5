"""The index kept in a folder between two starts, and as another kind than flat."""

import copy
import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import faiss
import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings

from helpers.index import build_index, make_store, split_text

PROBE = "Which model made these vectors?"
K_FACTOR = 4  # of a kind with `Refine`: candidates for each document that is asked for


def kept_index(
    corpus: str | Path,
    embeddings: Embeddings,
    folder: str | Path,
    *,
    chunk_size: int = 500,
    chunk_overlap: int = 100,
    distance_strategy: str = "MAX_INNER_PRODUCT",
    show_progress: bool = True,
) -> FAISS:
    """Take the index of `corpus` from `folder`, or build it as `build_index` does and keep it.

    The folder holds `documents.json` (each chunk's text and offset, in order), `index.faiss` and
    `manifest.json`; nothing is pickled. The index is built anew when the text, the splitter, the
    model or the distance has changed, and, with a warning, when the files are damaged. A text that
    has only moved is not embedded again, and its chunks are named after its new place.

    Raises:
        ValueError: `folder` is a file, or `build_index` refuses the text or the distance.
    """
    folder = Path(folder)
    if taken := [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]:
        raise ValueError(f"{taken[0]} is a file: expected a folder, or a name that is not taken")
    how = {"chunk_size": chunk_size, "chunk_overlap": chunk_overlap}
    chunks = split_text(corpus, **how)
    texts = [[chunk.page_content, chunk.metadata["start_index"]] for chunk in chunks]
    documents = json.dumps(texts).encode()
    manifest = {
        "model": str(getattr(embeddings, "model_name", type(embeddings).__name__)),
        "probe": [float(x) for x in embeddings.embed_query(PROBE)],
        "distance_strategy": str(getattr(distance_strategy, "name", distance_strategy)),
        "documents.json": hashlib.sha256(documents).hexdigest(),
    }
    try:
        index = _load(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        warnings.warn(f"the index in {folder} is damaged and is built anew: {error}", stacklevel=2)
        index = None
    if index is not None:
        return make_store(index, chunks, embeddings)
    how |= {"distance_strategy": distance_strategy, "show_progress": show_progress}
    store = build_index(corpus, embeddings, **how)
    index = faiss.serialize_index(store.index).tobytes()
    manifest["index.faiss"] = hashlib.sha256(index).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.json").write_bytes(documents)
    (folder / "index.faiss").write_bytes(index)
    # The manifest goes last and by rename: a folder cut off half-way has none that fits its files.
    temporary = folder / f"manifest.json.{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    temporary.replace(folder / "manifest.json")
    return store


def _load(folder: Path, expected: dict) -> faiss.Index | None:
    """Return the index that is kept, or None where there is none that fits `expected`."""
    if not (folder / "manifest.json").exists():
        return None
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    same = all(manifest[key] == expected[key] for key in expected if key != "probe")
    probe, now = (np.array(found["probe"], dtype=float) for found in (manifest, expected))
    # Another processor rounds differently; other weights under the same name differ by more.
    if not same or probe.shape != now.shape or not np.allclose(probe, now, atol=1e-3):
        return None
    for name in ("documents.json", "index.faiss"):
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest[name]:
            raise ValueError(f"{name} is not the file that was written")
    return faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))


def reindex(store: FAISS, factory: str, effort: int | None = None) -> FAISS:
    """Return a store of the same documents and vectors whose index is of another kind.

    Args:
        store: With a flat index, as `build_index` and `kept_index` return it; it stays as it is.
        factory: What kind of index, in the words of `faiss.index_factory`: `HNSW32` walks a graph,
            `IVF1024,PQ48np` looks into the nearest of 1,024 cells, and compresses, and with
            `,Refine(SQ8)` behind it sorts four times as many candidates anew
            (https://github.com/facebookresearch/faiss/wiki/The-index-factory).
        effort: What a search visits: nodes (FAISS's `efSearch`, 16 by default) or cells (`nprobe`,
            1 by default). More finds more and takes longer.

    Raises:
        ValueError: The store's index is not flat, FAISS cannot make such an index of so many
            chunks, or `effort` does not fit its kind.
    """
    parameter = None if effort is None else effort_parameter(factory)
    if parameter and effort < 1:
        raise ValueError(f"effort is {effort}: expected a whole number of at least 1")
    if not isinstance(store.index, faiss.IndexFlat):
        kind = type(store.index).__name__
        raise ValueError(f"the store's index is {kind}: expected a flat one, as build_index makes")
    vectors = store.index.reconstruct_n(0, store.index.ntotal)
    other = copy.copy(store)  # its embeddings, distance and relevance
    other.index = fill_index(factory, vectors, store.index.metric_type)
    if parameter:
        faiss.ParameterSpace().set_index_parameter(other.index, parameter, effort)
    # Tables of its own: what is added to one store or deleted from it leaves the other whole.
    other.index_to_docstore_id = dict(store.index_to_docstore_id)
    ids = list(store.index_to_docstore_id.values())
    other.docstore = InMemoryDocstore(dict(zip(ids, store.get_by_ids(ids), strict=True)))
    return other


def effort_parameter(factory: str) -> str:
    """Return FAISS's name for what a search of such an index visits, or raise a ValueError."""
    for kind, name in {"IVF": "nprobe", "HNSW": "efSearch"}.items():
        if kind in factory:
            return name
    raise ValueError(f"factory {factory!r} takes no effort: expected a kind with IVF or HNSW in it")


def fill_index(factory: str, vectors: np.ndarray, metric: int) -> faiss.Index:
    """Make an index of float32 `vectors`, one a row, or say in a ValueError why FAISS cannot."""
    try:
        index = faiss.index_factory(vectors.shape[1], factory, metric)
        index.train(vectors)
        index.add(vectors)
        if "Refine" in factory or "RFlat" in factory:
            index.k_factor = K_FACTOR
    except RuntimeError as error:
        reason = re.sub(r"^Error in .*?\.cpp:\d+: (Error: )?", "", str(error).strip(), flags=re.S)
        raise ValueError(
            f"FAISS cannot make the index {factory!r} of {len(vectors)} vectors of "
            f"{vectors.shape[1]} numbers: {reason}. `Flat` always works"
        ) from error
    return index
