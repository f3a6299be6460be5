"""Quality against the number of candidates and the chunk size: `python -m helpers.measure.sweep`.

The embedded corpus and its dev questions come in, `data/results/sweep.json` goes out; notebook 04
draws it. About four minutes on two cores.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.embeddings import Embeddings

from helpers.evaluate import (
    Question,
    chunk_id,
    compare,
    load_judgements,
    mean_interval,
    per_question,
    to_qrels,
)
from helpers.index import SimilarityRetriever, build_index, split_text
from helpers.profiles import DATA, Profile, load_profile
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder

CANDIDATES = (5, 10, 20, 40, 80)
CHUNK_SIZES = (250, 500, 1000)


def rerank_all(
    store,
    questions: Sequence[Question],
    cross_encoder: BaseCrossEncoder,
    k: int,
    base_weight: float,
) -> tuple[dict, list[float]]:
    """Rerank the `k` nearest chunks of each question.

    Returns:
        Two runs (`base` and `reranked`, as `evaluate.to_run` has them) and, for each question, the
        seconds that embedding it, searching and reranking took.
    """
    retriever = SimilarityRetriever(store=store, k=k)
    reranker = ScoringReranker(model=cross_encoder, base_weight=base_weight)
    rows, seconds = [], []
    for question in questions:
        start = time.perf_counter()
        docs = reranker.compress_documents(retriever.invoke(question.question), question.question)
        seconds.append(time.perf_counter() - start)
        rows += [
            (
                question.id,
                chunk_id(doc),
                -float(doc.metadata["base_rank"]),
                -rank,
            )
            for rank, doc in enumerate(docs, start=1)
        ]
    runs = pd.DataFrame(rows, columns=["query_id", "doc_id", "base", "reranked"])
    return {
        name: runs[["query_id", "doc_id", name]]
        .rename(columns={name: "score"})
        .astype({"score": float})
        for name in ("base", "reranked")
    }, seconds


def by_candidates(
    profile: Profile,
    questions: Sequence[Question],
    embeddings: Embeddings,
    cross_encoder: BaseCrossEncoder,
    candidates: Sequence[int] = CANDIDATES,
) -> list[dict]:
    """Return quality, what the candidates allow, and seconds a question, for each `k`."""
    store = build_index(
        profile.corpus, embeddings, distance_strategy=profile.distance_strategy, show_progress=False
    )
    qrels = to_qrels(questions, split_text(profile.corpus))
    rows = []
    for k in candidates:
        runs, seconds = rerank_all(store, questions, cross_encoder, k, profile.base_weight)
        values = per_question(qrels, runs["reranked"])["nDCG@10"]
        mean, low, high = mean_interval(values)
        oracle = table(qrels, runs, questions, base="base").loc["oracle", "nDCG@10"]
        row = {"k": k, "nDCG@10": mean, "low": low, "high": high, "oracle": float(oracle)}
        found = runs["base"].merge(qrels, on=["query_id", "doc_id"])
        row["recall"] = len(found) / len(qrels)
        row["seconds"] = statistics.median(seconds)
        rows.append(row)
    return rows


def by_chunk_size(
    profile: Profile,
    questions: Sequence[Question],
    embeddings: Embeddings,
    cross_encoder: BaseCrossEncoder,
    sizes: Sequence[int] = CHUNK_SIZES,
    k: int = 20,
) -> list[dict]:
    """Return base and reranked quality for each chunk size, with a fifth of it shared."""
    rows = []
    for size in sizes:
        shape = {"chunk_size": size, "chunk_overlap": size // 5}
        chunks = split_text(profile.corpus, **shape)
        store = build_index(
            profile.corpus,
            embeddings,
            distance_strategy=profile.distance_strategy,
            show_progress=False,
            **shape,
        )
        runs, seconds = rerank_all(store, questions, cross_encoder, k, profile.base_weight)
        compared = table(to_qrels(questions, chunks), runs, questions, base="base")
        row = {"chunk size": size, "chunks": len(chunks)}
        row |= {name: float(compared.loc[name, "nDCG@10"]) for name in runs}
        row |= {"gain": float(compared.loc["reranked", "gain"])}
        row["interval"] = compared.loc["reranked", "95 % interval"]
        row["seconds"] = statistics.median(seconds)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m helpers.measure.sweep", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "sweep.json")
    parser.add_argument("--questions", type=int, help="only the first so many (a quick look)")
    parser.add_argument("--candidates", type=int, nargs="+", default=CANDIDATES)
    parser.add_argument("--chunk-sizes", type=int, nargs="+", default=CHUNK_SIZES)
    arguments = parser.parse_args()

    from langchain_huggingface import HuggingFaceEmbeddings

    profile = load_profile("embedded")
    text = profile.corpus.read_text(encoding="utf-8")
    questions = [q for q in load_judgements(profile.judgements, text, "dev") if q.spans]
    questions = questions[: arguments.questions]
    models = (
        HuggingFaceEmbeddings(model_name=profile.embedding_model),
        LocalCrossEncoder(profile.reranker_model),
    )
    result = {
        "command": "python -m helpers.measure.sweep",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        "LocalCrossEncoder in fp32",
        "base weight": profile.base_weight,
        "questions": len(questions),
        "candidates": by_candidates(profile, questions, *models, arguments.candidates),
        "chunk sizes": by_chunk_size(profile, questions, *models, arguments.chunk_sizes),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
