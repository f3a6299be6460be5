"""The index as it grows: texts and their own questions come in, times and recall go out.

The questions are people's and models' own about these texts, and the vectors are the real model's.
Half of the questions choose an index's setting, the other half measure it.
"""

import json
import random
import re
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from langchain_huggingface import HuggingFaceEmbeddings
from tqdm.auto import tqdm

from helpers.judgements import read_jsonl
from helpers.profiles import DATA, load_profile
from helpers.scale.kept import effort_parameter, fill_index, kept_index
from helpers.scale.machine import median_seconds
from helpers.scale.workloads import paragraphs

SIZES = (1_000, 10_000, 100_000)
SMALL = {"sizes": (300,), "questions": 40}
# A chunk has 110 to 160 characters and ends with a sentence, or else with a word; what remains of a
# paragraph is left out. So no two fit into CHUNK_SIZE, where they would be joined.
CHUNK = re.compile(r"\S.{108,158}?[.!?](?=\s|$)|\S.{108,158}(?=\s|$)")
CHUNK_SIZE = 200
K = 20
ENOUGH = 0.95  # recall of the flat index's nearest K
# Their effort is turned up until they find enough. `np`: training leaves out an order of PQ's codes
# that takes forty seconds and that no search here uses. `Refine` sorts `kept.K_FACTOR` times as
# many candidates anew, by vectors of 8 bits a number.
KINDS = ("Flat", "SQ8", "HNSW32", "IVF{cells},Flat", "IVF{cells},PQ48np")
KINDS += ("IVF{cells},PQ48np,Refine(SQ8)",)


def read_texts(data: Path | None = None) -> dict[str, dict[str, list[str]]]:
    """Return {source: {paragraph: its questions}}: our training documents, and files of `data`.

    Those are `qa/*.json` in SQuAD's form, but XQuAD's, which are translations; a paragraph that
    comes again has the questions of both.
    """
    own = {
        text: [asked["question"] for asked in row["questions"] if asked["quotes"][0] in text]
        for row in read_jsonl(DATA / "training_documents.jsonl")
        for text in paragraphs(row["text"])
    }
    found = {"training_documents.jsonl": own}
    for file in sorted((data / "qa").glob("[!x]*.json")) if data else ():
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        for part in (part for article in articles for part in article["paragraphs"]):
            asked = [q["question"].strip() for q in part["qas"] if not q.get("is_impossible")]
            known = [texts for texts in found.values() if part["context"] in texts]
            texts = known[0] if known else found.setdefault(file.name, {})
            texts.setdefault(part["context"], []).extend(asked)
    return found


def measure_growth(data: Path | None = None, sizes=SIZES, questions: int = 1000) -> dict:
    """Build, store, reload and search an index of each size, as far as the texts reach.

    Returns:
        `texts`, chunks by source, and `rows`, a dict a size: seconds to build (embedding included)
        and to reload, how many questions were asked, and for each kind of index its bytes, seconds
        to add the vectors, recall@20 against flat, the share of questions of which a chunk of their
        own paragraph is found, and queries a second, asked one at a time and all at once.
    """
    model = load_profile("embedded").embedding_model
    embeddings = HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})
    sources = read_texts(data)
    cut = {text: CHUNK.findall(" ".join(text.split())) for own in sources.values() for text in own}
    counts = {name: sum(len(cut[text]) for text in own) for name, own in sources.items()}
    texts = [pair for own in sources.values() for pair in own.items() if cut[pair[0]]]
    random.Random(0).shuffle(texts)
    chunks = [(chunk, n) for n, (text, _) in enumerate(texts) for chunk in cut[text]]
    rows = []
    for size in sorted({min(size, len(chunks)) for size in sizes}):
        wanted, owners = zip(*chunks[:size], strict=True)
        asked = list(dict.fromkeys((q, n) for n in range(owners[-1]) for q in texts[n][1]))
        asked = random.Random(0).sample(asked, min(questions, len(asked)))
        with tempfile.TemporaryDirectory() as folder:
            corpus, kept, seconds = Path(folder) / "corpus.txt", Path(folder) / "index", []
            corpus.write_text("\n\n".join(wanted), encoding="utf-8")
            for _ in range(2):
                start = time.perf_counter()
                store = kept_index(corpus, embeddings, kept, chunk_size=CHUNK_SIZE, chunk_overlap=0)
                seconds.append(time.perf_counter() - start)
            disk = sum(file.stat().st_size for file in kept.iterdir())
        vectors = store.index.reconstruct_n(0, store.index.ntotal)
        assert len(vectors) == len(wanted), "chunks were joined or cut anew"
        queries = np.array(embeddings.embed_documents([q for q, _ in asked]), dtype=np.float32)
        row = {"chunks": len(vectors), "build seconds": seconds[0], "reload seconds": seconds[1]}
        row |= {"disk bytes": disk, "questions": len(asked)}
        own = np.array(owners), np.array([n for _, n in asked])
        rows.append(row | {"indexes": compare(vectors, queries, *own)})
    return {"texts": counts, "rows": rows}


def compare(
    vectors: np.ndarray, queries: np.ndarray, owners: np.ndarray, own: np.ndarray
) -> list[dict]:
    """Measure each kind of index over the same vectors, turned up until it finds enough.

    `owners` are the vectors' paragraphs and `own` the queries'.
    """
    tune, test = queries[::2], queries[1::2]
    flat = fill_index("Flat", vectors, faiss.METRIC_INNER_PRODUCT)
    rows = []
    for kind in tqdm(KINDS, desc=f"Indexes of {len(vectors)}"):
        factory = kind.format(cells=2 ** round(np.log2(4 * len(vectors) ** 0.5)))
        start = time.perf_counter()
        index = fill_index(factory, vectors, faiss.METRIC_INNER_PRODUCT)
        row = {"factory": factory, "setting": None, "add seconds": time.perf_counter() - start}
        parameter = effort_parameter(factory) if re.search("IVF|HNSW", factory) else None
        for effort in (16, 32, 64, 128, 256, 512) if parameter else ():
            row["setting"] = {parameter: effort}
            faiss.ParameterSpace().set_index_parameter(index, parameter, effort)
            if _recall(index, flat, tune) >= ENOUGH:
                break
        row |= {"bytes": len(faiss.serialize_index(index)), "recall@20": _recall(index, flat, test)}
        hits = owners[index.search(test, K)[1]] == own[1::2, None]
        rows.append(row | {"own paragraph": float(hits.any(axis=1).mean())} | _rates(index, test))
    return rows


def _rates(index: faiss.Index, queries: np.ndarray) -> dict[str, float]:
    one = median_seconds(lambda: [index.search(query[None], K) for query in queries], 3)
    whole = median_seconds(lambda: index.search(queries, K), 3)
    rates = {"queries/s, one at a time": len(queries) / one}
    return rates | {"queries/s, all at once": len(queries) / whole}


def report_growth(found: dict) -> None:
    """Print the texts, the sizes, and each kind of index."""
    print("chunks:", ", ".join(f"{name} {count}" for name, count in found["texts"].items()))
    rows = found["rows"]
    print(pd.DataFrame(rows).drop(columns="indexes").round(2).to_string(index=False))
    kinds = [{"chunks": row["chunks"]} | kind for row in rows for kind in row["indexes"]]
    print(pd.DataFrame(kinds).round(3).to_string(index=False))


def _recall(index: faiss.Index, flat: faiss.Index, queries: np.ndarray) -> float:
    found, nearest = index.search(queries, K)[1], flat.search(queries, K)[1]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, nearest, strict=True)]))
