"""The index from a thousand chunks to a hundred thousand: sizes come in, times and recall go out.

The texts are made of the address's own words, two stretches of it each, so that any number can be
had; the vectors are the real model's. Half of the questions choose an index's setting, the other
half measure it.
"""

import random
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from langchain_huggingface import HuggingFaceEmbeddings
from tqdm.auto import tqdm

from helpers.index import read_text
from helpers.profiles import load_profile
from helpers.scale.kept import effort_parameter, fill_index, kept_index
from helpers.scale.machine import median_seconds
from helpers.scale.workloads import training_questions

SIZES = (1_000, 10_000, 100_000)
SMALL = {"sizes": (300,), "questions": 40}
CHUNK_SIZE = 110  # characters; short, so that a hundred thousand are embedded in minutes
K = 20
ENOUGH = 0.95  # recall of the flat index's nearest K
# Their effort is turned up until they find enough. `np`: training leaves out an order of PQ's codes
# that takes forty seconds and that no search here uses.
KINDS = ("Flat", "HNSW32", "IVF{cells},PQ48np", "IVF{cells},Flat")


def make_text(chunks: int) -> str:
    """Return `chunks` paragraphs, each too long to share a chunk with its neighbour."""
    words = read_text(load_profile("embedded").corpus).split()
    draw = random.Random(0)
    paragraphs = []
    while len(paragraphs) < chunks:
        parts = (draw.randrange(len(words) - 20) for _ in range(2))
        text = " ".join(" ".join(words[start : start + 10]) for start in parts)
        text = text[:CHUNK_SIZE].rsplit(" ", 1)[0]
        if len(text) > CHUNK_SIZE // 2:
            paragraphs.append(text)
    return "\n\n".join(paragraphs)


def measure_growth(sizes=SIZES, questions: int = 1000) -> list[dict]:
    """Build, store, reload and search an index of each size.

    Returns:
        One dict a size: seconds to build (embedding included) and to reload, and for each kind of
        index its bytes, seconds to add the vectors, recall@20 against flat, and queries a second,
        asked one at a time and all at once.
    """
    model = load_profile("embedded").embedding_model
    embeddings = HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})
    asked = embeddings.embed_documents(training_questions()[:questions])
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            corpus, kept, seconds = Path(folder) / "corpus.txt", Path(folder) / "index", []
            corpus.write_text(make_text(size), encoding="utf-8")
            for _ in range(2):
                start = time.perf_counter()
                store = kept_index(corpus, embeddings, kept, chunk_size=CHUNK_SIZE, chunk_overlap=0)
                seconds.append(time.perf_counter() - start)
            disk = sum(file.stat().st_size for file in kept.iterdir())
        vectors = store.index.reconstruct_n(0, store.index.ntotal)
        row = {"chunks": len(vectors), "build seconds": seconds[0], "reload seconds": seconds[1]}
        indexes = compare(vectors, np.array(asked, dtype=np.float32))
        found.append(row | {"disk bytes": disk, "indexes": indexes})
    return found


def compare(vectors: np.ndarray, queries: np.ndarray) -> list[dict]:
    """Measure each kind of index over the same vectors, turned up until it finds enough."""
    tune, test = queries[::2], queries[1::2]
    flat = fill_index("Flat", vectors, faiss.METRIC_INNER_PRODUCT)
    rows = []
    for kind in tqdm(KINDS, desc=f"Indexes of {len(vectors)}"):
        factory = kind.format(cells=2 ** round(np.log2(4 * len(vectors) ** 0.5)))
        start = time.perf_counter()
        index = fill_index(factory, vectors, faiss.METRIC_INNER_PRODUCT)
        row = {"factory": factory, "setting": None, "add seconds": time.perf_counter() - start}
        parameter = None if kind == "Flat" else effort_parameter(factory)
        for effort in (16, 32, 64, 128, 256, 512) if parameter else ():
            row["setting"] = {parameter: effort}
            faiss.ParameterSpace().set_index_parameter(index, parameter, effort)
            if _recall(index, flat, tune) >= ENOUGH:
                break
        rows.append(row | {"bytes": len(faiss.serialize_index(index))})
        rows[-1] |= {"recall@20": _recall(index, flat, test)} | _rates(index, test)
    return rows


def _rates(index: faiss.Index, queries: np.ndarray) -> dict[str, float]:
    one = median_seconds(lambda: [index.search(query[None], K) for query in queries], 3)
    whole = median_seconds(lambda: index.search(queries, K), 3)
    rates = {"queries/s, one at a time": len(queries) / one}
    return rates | {"queries/s, all at once": len(queries) / whole}


def report_growth(rows: list[dict]) -> None:
    """Print the sizes, and each kind of index."""
    print(pd.DataFrame(rows).drop(columns="indexes").round(2).to_string(index=False))
    kinds = [{"chunks": row["chunks"]} | kind for row in rows for kind in row["indexes"]]
    print(pd.DataFrame(kinds).round(3).to_string(index=False))


def _recall(index: faiss.Index, flat: faiss.Index, queries: np.ndarray) -> float:
    found, nearest = index.search(queries, K)[1], flat.search(queries, K)[1]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, nearest, strict=True)]))
