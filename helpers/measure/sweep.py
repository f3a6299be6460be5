"""Quality against the number of candidates and the chunk size: `python -m helpers.measure.sweep`.

The embedded corpus and its dev questions come in, `data/results/sweep.json` goes out; notebook 04
draws it. About four minutes on two cores.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from langchain_classic.retrievers import ContextualCompressionRetriever

from helpers.evaluate import compare, mean_interval, per_question, to_run
from helpers.index import SimilarityRetriever, build_index, read_text, split_text
from helpers.judgements import Question, load_judgements, to_qrels
from helpers.measure.command import one_line, printable, write
from helpers.profiles import DATA, load_profile
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder

CANDIDATES = (5, 10, 20, 40, 80)
CHUNK_SIZES = (250, 500, 1000)


def measured(store, chunks, questions: Sequence[Question], reranker: ScoringReranker, k: int):
    """Rerank the `k` nearest chunks of each question.

    Returns:
        Quality before (`base`) and after (`reranked`; `nDCG@10` with its interval `low` to `high`),
        the `gain` with its `interval`, what the candidates allow (`oracle`, `recall`), and the
        median of the `seconds` that embedding a question, searching and reranking took.
    """
    base = SimilarityRetriever(store=store, k=k)
    retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=base)
    reranked, seconds = [], []
    for question in questions:
        start = time.perf_counter()
        reranked.append(to_run(retriever, [question]))
        seconds.append(time.perf_counter() - start)
    qrels = to_qrels(questions, chunks)
    runs = {"base": to_run(base, questions), "reranked": pd.concat(reranked)}
    table = printable(compare(qrels, runs, base="base"))
    mean, low, high = mean_interval(per_question(qrels, runs["reranked"])["nDCG@10"])
    row = {"k": k, "chunks": len(chunks), "nDCG@10": mean, "low": low, "high": high}
    row |= table["nDCG@10"].to_dict()
    row["recall"] = len(runs["base"].merge(qrels, on=["query_id", "doc_id"])) / len(qrels)
    row["gain"], row["interval"] = table.loc["reranked", ["gain", "95 % interval"]]
    return row | {"seconds": statistics.median(seconds)}


def main(count: int | None = None, candidates=CANDIDATES, sizes=CHUNK_SIZES) -> None:
    """Measure, print and write the result; for a quick look, of the first `count` questions."""
    parser = argparse.ArgumentParser("python -m helpers.measure.sweep", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "sweep.json")
    arguments = parser.parse_args()

    from langchain_huggingface import HuggingFaceEmbeddings

    with one_line(parser):
        profile = load_profile("embedded")
    questions = load_judgements(profile.judgements, read_text(profile.corpus), "dev")
    questions = [question for question in questions if question.spans][:count]
    embeddings = HuggingFaceEmbeddings(
        model_name=profile.embedding_model, **profile.embedding_settings
    )
    model = LocalCrossEncoder(profile.reranker_model)
    reranker = ScoringReranker(model=model, base_weight=profile.base_weight)

    def rows(size: int, ks: Sequence[int], columns: Sequence[str]) -> list[dict]:
        shape = {"chunk_size": size, "chunk_overlap": size // 5}
        chunks = split_text(profile.corpus, **shape)
        store = build_index(profile.corpus, embeddings, show_progress=False, **shape)
        found = [measured(store, chunks, questions, reranker, k) for k in ks]
        return [{name: (row | {"chunk size": size})[name] for name in columns} for row in found]

    by_k = ("k", "nDCG@10", "low", "high", "oracle", "recall", "seconds")
    by_size = ("chunk size", "chunks", "base", "reranked", "gain", "interval", "seconds")
    result = {
        "command": "python -m helpers.measure.sweep",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        "LocalCrossEncoder in fp32",
        "base weight": profile.base_weight,
        "questions": len(questions),
        "candidates": rows(500, candidates, by_k),
        "chunk sizes": [row for size in sizes for row in rows(size, [20], by_size)],
    }
    write(arguments.out, result)


if __name__ == "__main__":
    main()
