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

from helpers.scale.machine import median_seconds
from helpers.scale.workloads import training_questions
from helpers.index import build_index, effort_parameter
from helpers.profiles import load_profile

SIZES = (1_000, 10_000, 100_000)
CHUNK_SIZE = 110  # characters; short, so that a hundred thousand are embedded in minutes
K = 20
ENOUGH = 0.95  # recall of the flat index's nearest K
# Their effort is turned up until they find enough. `np`: training leaves out an order of PQ's codes
# that takes forty seconds and that no search here uses.
KINDS = ("HNSW32", "IVF{cells},PQ48np", "IVF{cells},Flat")


def make_text(chunks: int) -> str:
    """Return `chunks` paragraphs, each too long to share a chunk with its neighbour."""
    words = load_profile("embedded").corpus.read_text(encoding="utf-8").split()
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
    embeddings = HuggingFaceEmbeddings(model_name=load_profile("embedded").embedding_model)
    queries = np.array(
        embeddings.embed_documents(training_questions()[:questions]), dtype=np.float32
    )
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.txt"
            corpus.write_text(make_text(size), encoding="utf-8")
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                store = build_index(
                    corpus,
                    embeddings,
                    chunk_size=CHUNK_SIZE,
                    chunk_overlap=0,
                    folder=Path(folder) / "index",
                )
                seconds.append(time.perf_counter() - start)
            disk = sum(file.stat().st_size for file in (Path(folder) / "index").iterdir())
        vectors = store.index.reconstruct_n(0, store.index.ntotal)
        row = {"chunks": len(vectors), "build seconds": seconds[0], "reload seconds": seconds[1]}
        found.append(row | {"disk bytes": disk, "indexes": compare(vectors, queries)})
    return found


def compare(vectors: np.ndarray, queries: np.ndarray) -> list[dict]:
    """Measure each kind of index over the same vectors, turned up until it finds enough."""
    tune, test = queries[::2], queries[1::2]
    flat = faiss.index_factory(vectors.shape[1], "Flat", faiss.METRIC_INNER_PRODUCT)
    flat.add(vectors)
    nearest = {part: flat.search(asked, K)[1] for part, asked in (("tune", tune), ("test", test))}
    rows = [_row("Flat", None, flat, 0.0, test, nearest["test"])]
    for kind in tqdm(KINDS, desc=f"Indexes of {len(vectors)}"):
        cells = 2 ** round(np.log2(4 * len(vectors) ** 0.5))
        factory = kind.format(cells=cells)
        parameter = effort_parameter(factory)
        start = time.perf_counter()
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        seconds = time.perf_counter() - start
        for effort in (16, 32, 64, 128, 256, 512):
            faiss.ParameterSpace().set_index_parameter(index, parameter, effort)
            if _recall(index.search(tune, K)[1], nearest["tune"]) >= ENOUGH:
                break
        rows.append(_row(factory, {parameter: effort}, index, seconds, test, nearest["test"]))
    return rows


def report_growth(rows: list[dict]) -> None:
    """Print the sizes, and each kind of index."""
    sizes = [{key: value for key, value in row.items() if key != "indexes"} for row in rows]
    print(pd.DataFrame(sizes).round(2).to_string(index=False))
    kinds = [{"chunks": row["chunks"]} | kind for row in rows for kind in row["indexes"]]
    print(pd.DataFrame(kinds).round(3).to_string(index=False))


def _row(factory: str, setting, index, seconds: float, queries, nearest) -> dict:
    one = median_seconds(lambda: [index.search(query[None], K) for query in queries], 3)
    whole = median_seconds(lambda: index.search(queries, K), 3)
    return {
        "factory": factory,
        "setting": setting,
        "add seconds": seconds,
        "bytes": len(faiss.serialize_index(index)),
        "recall@20": _recall(index.search(queries, K)[1], nearest),
        "queries/s, one at a time": len(queries) / one,
        "queries/s, all at once": len(queries) / whole,
    }


def _recall(found: np.ndarray, nearest: np.ndarray) -> float:
    shares = [
        len(set(a) & set(b)) / K for a, b in zip(found.tolist(), nearest.tolist(), strict=True)
    ]
    return float(np.mean(shares))
