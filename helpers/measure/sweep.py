"""Quality against the number of candidates and the chunk size: `python -m helpers.measure.sweep`.

The embedded corpus and its dev questions come in, `data/results/sweep.csv` goes out, a row a
question and setting; notebook 04 draws it.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document

from helpers.evaluate import best_order, per_question
from helpers.index import SimilarityRetriever, build_index, read_text, split_text
from helpers.judgements import Question, chunk_id, load_judgements, to_qrels
from helpers.measure.command import load_embeddings, one_line, positive, write
from helpers.profiles import DATA, load_profile
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder

CANDIDATES = (5, 10, 20, 40, 80)
CHUNK_SIZES = (250, 500, 1000)
SHOWN = 1500  # characters: what a prompt or a page has room for


def share_shown(question: Question, docs: Sequence[Document], room: int = SHOWN) -> float:
    """Return the share of what answers (grade 2) that stands in the first `room` characters.

    Chunks of any size are compared by it: it counts characters of the text, not chunks. Of a
    question with spans of grade 1 alone it counts those.
    """
    seen: set[int] = set()
    for doc in docs:
        start, length = doc.metadata["start_index"], min(len(doc.page_content), max(room, 0))
        seen |= set(range(start, start + length))
        room -= length
    best = max(grade for *_, grade in question.spans)
    wanted = {i for a, b, grade in question.spans if grade == best for i in range(a, b)}
    return len(seen & wanted) / len(wanted)


def measured(store, chunks, questions: Sequence[Question], reranker: ScoringReranker, k: int):
    """Rerank the `k` nearest chunks of each question.

    Returns:
        A row a question: nDCG@10 before (`base`), after (`reranked`) and of the best order of the
        candidates (`oracle`), the share of its relevant chunks among them (`recall`), what
        `share_shown` says of both orders, and the `seconds` that embedding the question, searching
        and reranking took.
    """
    base = SimilarityRetriever(store=store, k=k)
    retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=base)
    qrels, rows = to_qrels(questions, chunks), []
    runs: dict[str, list[tuple]] = {"base": [], "reranked": []}
    for question in questions:
        before = base.invoke(question.question)
        start = time.perf_counter()
        after = retriever.invoke(question.question)
        row = {"question": question.id, "seconds": time.perf_counter() - start}
        for name, docs in {"base": before, "reranked": after}.items():
            runs[name] += [(question.id, chunk_id(d), -float(r)) for r, d in enumerate(docs, 1)]
            row[f"shown, {name}"] = share_shown(question, docs)
        rows.append(row)
    columns = ["query_id", "doc_id", "score"]
    tables = {name: pd.DataFrame(found, columns=columns) for name, found in runs.items()}
    tables["oracle"] = best_order(tables["base"], qrels)
    table = pd.DataFrame(rows).set_index("question")
    for name, run in tables.items():
        table[name] = per_question(qrels, run)["nDCG@10"]
    hits = tables["base"].merge(qrels, on=["query_id", "doc_id"]).groupby("query_id").size()
    table["recall"] = (hits / qrels.groupby("query_id").size()).reindex(table.index).fillna(0.0)
    return table.dropna().reset_index()  # what no chunk holds is named by `to_qrels`


def main() -> None:
    """Measure, print the means and write each question's."""
    parser = argparse.ArgumentParser("python -m helpers.measure.sweep", description=main.__doc__)
    parser.add_argument("--candidates", nargs="+", type=positive, default=CANDIDATES)
    parser.add_argument("--chunk-sizes", nargs="+", type=positive, default=CHUNK_SIZES)
    parser.add_argument("--questions", type=positive, help="only the first so many (a quick look)")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "sweep.csv")
    arguments = parser.parse_args()

    with one_line(parser):
        profile = load_profile("embedded")
    questions = load_judgements(profile.judgements, read_text(profile.corpus), "dev")
    questions = [question for question in questions if question.spans][: arguments.questions]
    embeddings = load_embeddings(profile)
    model = LocalCrossEncoder(profile.reranker_model)
    reranker = ScoringReranker(model=model, base_weight=profile.base_weight)
    tables = []
    for size in arguments.chunk_sizes:
        shape = {"chunk_size": size, "chunk_overlap": size // 5}
        chunks = split_text(profile.corpus, **shape)
        store = build_index(profile.corpus, embeddings, show_progress=False, **shape)
        for k in arguments.candidates if size == 500 else [20]:
            found = measured(store, chunks, questions, reranker, k)
            tables.append(found.assign(**{"chunk size": size, "k": k, "chunks": len(chunks)}))
    table = pd.concat(tables)
    setting = ["chunk size", "k", "chunks"]
    print(table.groupby(setting).mean(numeric_only=True).round(3).to_string())
    write(arguments.out, table[[*setting, *table.columns.drop(setting)]])


if __name__ == "__main__":
    main()
