"""Every order on every judged set, question by question: `python -m helpers.measure.ranking`.

Judged questions and texts come in. `data/results/ranking.csv` goes out: nDCG@10 of each question by
each way of ordering, the share of its relevant passages among the candidates, and how many those
are; and `data/results/scores.csv`: the first twenty of the fused order with score and grade, of the
questions, too, that the text does not answer. Notebook 04 takes means and intervals of them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.special import expit
from tqdm.auto import tqdm

from helpers.evaluate import best_order, per_question
from helpers.index import build_index, read_text, split_text
from helpers.judgements import Question, chunk_id, load_judgements, to_qrels
from helpers.measure.baselines import BM25, ChunkAndSentence, Remembering
from helpers.measure.command import (
    load_embeddings,
    one_line,
    positive,
    printable,
    some_ids,
    write,
)
from helpers.measure.intervals import gains
from helpers.measure.orders import candidates, fused, orders
from helpers.measure.reading import ClosedCrossEncoder, untrained
from helpers.profiles import DATA, load_profile
from helpers.score import LocalCrossEncoder

K = 20
SPEECH = "state_of_the_union_2022"
ADDRESS = DATA / "address.txt"
# Text, judgements and split of each set; what is a string lies within --data.
SETS: dict[str, tuple] = {
    "address, dev": (ADDRESS, DATA / "judgements.jsonl", "dev"),
    "address, test": (ADDRESS, DATA / "judgements.jsonl", "test"),
    "address, test, second judge": (ADDRESS, DATA / "second_judgements.jsonl", None),
    "address, short queries": (ADDRESS, DATA / "short_queries.jsonl", None),
    "speech": (f"speeches/{SPEECH}.txt", DATA / f"judgements_{SPEECH}.jsonl", None),
    "finance": ("span_qa/finance.txt", "span_qa/finance.jsonl", None),
    "pubmed": ("span_qa/pubmed.txt", "span_qa/pubmed.jsonl", None),
}


class Corpus:
    """A text's chunks with their vectors, and everything that orders them for a question.

    Chunks that read alike are one (of the annual reports' 2,060 but 1,231 differ): the first of
    them stands for all, in orders and in judgements.
    """

    def __init__(self, corpus: Path, embeddings, models: dict, weight: float):
        self.chunks = split_text(corpus)
        self.texts = {chunk_id(chunk): chunk.page_content for chunk in self.chunks}
        first = {text: name for name, text in reversed(self.texts.items())}
        self.first = {name: first[text] for name, text in self.texts.items()}
        self.store = build_index(corpus, embeddings, show_progress=False)
        self.words = BM25(docs=self.chunks, k=len(self.chunks))
        self.models, self.weight = models, weight

    def order(self, question: str, every: bool = True) -> dict[str, dict[str, float]]:
        """Return every order of the chunks, or vectors and fused: name -> chunk id -> value."""
        found = self.store.similarity_search_with_score(question, k=len(self.chunks))
        near = {self.first[chunk_id(doc)]: float(similarity) for doc, similarity in found}
        words = [self.first[chunk_id(doc)] for doc in self.words.invoke(question)]
        words = list(dict.fromkeys(words))

        def score(name: str, ids: Sequence[str]) -> list[float]:
            return self.models[name].score([(question, self.texts[id]) for id in ids])

        model, first = "cross-encoder", candidates(near, words, K)["vectors"]
        if not every:
            scores = dict(zip(first, score(model, first), strict=True))
            similar = {name: near[name] for name in first}
            return {"vectors": similar, "fused": fused(first, scores, near, self.weight)}
        made = orders(near, words, lambda ids: score(model, ids), K, self.weight)
        for name in [name for name in self.models if name != model]:
            made[name] = dict(zip(first, score(name, first), strict=True))
        return made


def measure(corpus: Corpus, questions: Sequence[Question]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of `ranking.csv` and of `scores.csv` for a set, less its name."""
    qrels = to_qrels(questions, corpus.chunks)
    qrels["doc_id"] = qrels["doc_id"].map(corpus.first)
    qrels = qrels.groupby(["query_id", "doc_id"], as_index=False, sort=False).max()
    grades = qrels.set_index(["query_id", "doc_id"])["relevance"]
    measurable = set(qrels["query_id"])
    lost = [q.id for q in questions if q.spans and q.id not in measurable]
    if lost:
        raise ValueError(f"no chunk holds the spans of {some_ids(lost)}: mend the judgements")
    runs: dict[str, list[tuple]] = {}
    shown, depth = [], {}
    for q in tqdm(questions, desc="Questions"):
        found = corpus.order(q.question, every=bool(q.spans))
        together = found["fused"]
        mean = sum(found["vectors"].values()) / len(found["vectors"])
        best = sorted(together, key=together.get, reverse=True)
        for rank, name in enumerate(best, start=1):
            chance = float(expit(together[name] - corpus.weight * mean))
            shown.append((q.id, rank, chance, int(grades.get((q.id, name), 0))))
        if not q.spans:
            continue
        depth[q.id] = len(found["cross-encoder, vectors + BM25"])
        for name, order in found.items():
            runs.setdefault(name, []).extend((q.id, doc, value) for doc, value in order.items())
    columns = ["query_id", "doc_id", "score"]
    tables = {name: pd.DataFrame(rows, columns=columns) for name, rows in runs.items()}
    tables["oracle"] = best_order(tables["vectors"], qrels)
    values = pd.DataFrame({n: per_question(qrels, run)["nDCG@10"] for n, run in tables.items()})
    for source in ("", ", vectors + BM25", ", more vectors"):
        hits = tables[f"cross-encoder{source}"].merge(qrels, on=["query_id", "doc_id"])
        share = hits.groupby("query_id").size() / qrels.groupby("query_id").size()
        values[f"recall{source}"] = share.reindex(values.index).fillna(0.0)
    values["candidates, vectors + BM25"] = pd.Series(depth).reindex(values.index)
    kinds = pd.Series({q.id: q.kind for q in questions}).reindex(values.index)
    values = values.rename_axis("question").reset_index()
    values.insert(1, "kind", kinds.to_numpy())
    return values, pd.DataFrame(shown, columns=["question", "rank", "score", "grade"])


def main() -> None:
    """Measure, print nDCG@10 of each set beside vectors, and write both files."""
    parser = argparse.ArgumentParser("python -m helpers.measure.ranking", description=main.__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), metavar="SET", help="some of them")
    parser.add_argument("--data", type=Path, help="folder with speeches/ and span_qa/")
    parser.add_argument("--questions", type=positive, help="only the first so many (a quick look)")
    parser.add_argument("--out", type=Path, default=DATA / "results", help="folder")
    arguments = parser.parse_args()

    with one_line(parser):
        profile, asked = load_profile("embedded"), {}
        for name in arguments.sets or SETS:
            text, file, split = SETS[name]
            if isinstance(text, str) and not arguments.data:
                print(f"{name} is left out: it needs --data")
                continue
            text, file = (arguments.data / f if isinstance(f, str) else f for f in (text, file))
            questions = load_judgements(file, read_text(text), split)
            asked[name] = text, questions[: arguments.questions]
    embeddings = load_embeddings(profile)
    models = {"untrained start": untrained()}
    models["attention closed"] = ClosedCrossEncoder(profile.reranker_model)
    models["chunk + sentence"] = ChunkAndSentence(embeddings)
    models["cross-encoder"] = Remembering(LocalCrossEncoder(profile.reranker_model))
    ranking, scores, known = [], [], {}
    for name, (text, questions) in asked.items():
        if text not in known:
            known[text] = Corpus(text, embeddings, models, profile.base_weight)
        values, shown = measure(known[text], questions)
        print(f"\n{name}: {len(values)} of {len(questions)} questions have an answer, nDCG@10")
        print(printable(gains(values.select_dtypes("number"), "vectors")).to_string())
        ranking.append(values.assign(set=name))
        scores.append(shown.assign(set=name))
    for name, tables in {"ranking": ranking, "scores": scores}.items():
        table = pd.concat(tables)
        write(arguments.out / f"{name}.csv", table[["set", *table.columns.drop("set")]])


if __name__ == "__main__":
    main()
