"""The whole table for a text and a question file: what each part of the pipeline is worth.

python -m helpers.report                                   the embedded corpus, dev questions
python -m helpers.report --split test                      its test questions
python -m helpers.report --questions my.jsonl --corpus my.txt   your own
"""

import argparse
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_community.retrievers import BM25Retriever
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from helpers.evaluate import Question, best_order, mean_interval, per_question, to_qrels, to_run
from helpers.index import SimilarityRetriever, build_index, split_text
from helpers.profiles import ProfileError, load_profile
from helpers.rerank import ScoringReranker

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class ChunkAndSentence(BaseCrossEncoder):
    """A baseline without training: the mean of the chunk's cosine and its best sentence's."""

    def __init__(self, embeddings: Embeddings):
        self.embeddings = embeddings
        self._known: dict[str, np.ndarray] = {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return one score a pair, higher is better."""
        parts = [[text, *SENTENCE_END.split(text)] for _, text in text_pairs]
        wanted = {query for query, _ in text_pairs} | {p for group in parts for p in group}
        unknown = sorted(wanted - self._known.keys())
        if unknown:
            vectors = np.asarray(self.embeddings.embed_documents(unknown))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            self._known |= dict(zip(unknown, vectors, strict=True))
        scores = []
        for (query, _), group in zip(text_pairs, parts, strict=True):
            cosines = np.stack([self._known[p] for p in group]) @ self._known[query]
            scores.append(float((cosines[0] + cosines[1:].max()) / 2))
        return scores


class Remembering(BaseCrossEncoder):
    """Scores each pair once: two of the compared pipelines ask the model for the same pairs."""

    def __init__(self, model: BaseCrossEncoder):
        self.model = model
        self._known: dict[tuple[str, str], float] = {}

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the model's score of each pair, in order."""
        pairs = [tuple(pair) for pair in text_pairs]
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if unknown:
            self._known |= dict(zip(unknown, self.model.score(unknown), strict=True))
        return [self._known[pair] for pair in pairs]


def words(text: str) -> list[str]:
    """Split a text into lower-case words, which is what BM25 matches."""
    return WORD.findall(text.lower())


def pipelines(
    store: VectorStore,
    chunks: Sequence[Document],
    cross_encoder: BaseCrossEncoder,
    embeddings: Embeddings,
    k: int = 20,
    base_weight: float = 0.0,
) -> dict[str, BaseRetriever]:
    """Return the retrievers that the table compares, each giving `k` documents.

    `reranked` is in the order of the cross-encoder's score alone, `fused` in that of
    `ScoringReranker(base_weight=...)`, which is left out where `base_weight` is 0.
    """
    base = SimilarityRetriever(store=store, k=k)

    def reranked(model: BaseCrossEncoder, weight: float = 0.0) -> BaseRetriever:
        return ContextualCompressionRetriever(
            base_compressor=ScoringReranker(model=model, base_weight=weight), base_retriever=base
        )

    remembering = Remembering(cross_encoder)
    fused = {"fused": reranked(remembering, base_weight)} if base_weight else {}
    return {
        "BM25": BM25Retriever.from_documents(list(chunks), k=k, preprocess_func=words),
        "base (vectors)": base,
        "chunk + sentence": reranked(ChunkAndSentence(embeddings)),
        "reranked": reranked(remembering),
    } | fused


def table(
    qrels: pd.DataFrame,
    runs: Mapping[str, pd.DataFrame],
    questions: Sequence[Question],
    base: str = "base (vectors)",
    metric: str = "nDCG@10",
) -> pd.DataFrame:
    """Tabulate `metric` by kind of question, with the gain over `base` and its 95 % interval.

    The last row is the oracle, the best order of the base's own candidates; `gap closed` is the
    gain as a share of what the oracle gains.
    """
    runs = dict(runs) | {"oracle": best_order(runs[base], qrels)}
    values = pd.DataFrame({name: per_question(qrels, run)[metric] for name, run in runs.items()})
    kinds = pd.Series({q.id: q.kind or "all" for q in questions}).reindex(values.index)
    rows = {}
    room = (values["oracle"] - values[base]).mean()
    for name in runs:
        gain, low, high = mean_interval(values[name] - values[base])
        by_kind = values[name].groupby(kinds).mean() if kinds.nunique() > 1 else {}
        rows[name] = {
            **by_kind,
            metric: values[name].mean(),
            "gain": gain,
            "95 % interval": f"[{low:+.3f}, {high:+.3f}]",
            "gap closed": gain / room if room else 0.0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").round(3)


def main() -> None:
    """Print the table of metrics for a text and its judged questions."""
    parser = argparse.ArgumentParser(prog="python -m helpers.report", description=main.__doc__)
    parser.add_argument("--profile", help="embedded (the default) or hub")
    parser.add_argument("--questions", type=Path, help="judged questions, JSONL")
    parser.add_argument("--corpus", type=Path, help="the text that the questions are about")
    parser.add_argument("--split", help="dev (the default for the embedded questions) or test")
    parser.add_argument("-k", type=int, default=20, help="candidates to rerank")
    arguments = parser.parse_args()
    if (arguments.questions is None) != (arguments.corpus is None):
        parser.error("--questions and --corpus go together: the spans point into that text")

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from langchain_huggingface import HuggingFaceEmbeddings

    from helpers.evaluate import load_judgements
    from helpers.score import LocalCrossEncoder

    try:
        profile = load_profile(arguments.profile)
        corpus, file, split = arguments.corpus, arguments.questions, arguments.split
        if file is None:
            corpus, file, split = profile.corpus, profile.judgements, split or "dev"
        questions = load_judgements(file, corpus.read_text(encoding="utf-8"), split)
        chunks = split_text(corpus)
    except (ProfileError, ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")

    embeddings = HuggingFaceEmbeddings(model_name=profile.embedding_model)
    store = build_index(corpus, embeddings, distance_strategy=profile.distance_strategy)
    cross_encoder = LocalCrossEncoder(profile.reranker_model)
    answered = [question for question in questions if question.spans]
    runs = {
        name: to_run(retriever, answered)
        for name, retriever in pipelines(
            store, chunks, cross_encoder, embeddings, arguments.k, profile.base_weight
        ).items()
    }
    counts = pd.Series([q.kind or "all" for q in answered]).value_counts().sort_index()
    print(f"\n{file.name}, {split or 'all'} questions, nDCG@10")
    print(f"candidates: the top {arguments.k} of {len(chunks)} chunks")
    print("questions: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()) + "\n")
    print(table(to_qrels(answered, chunks), runs, answered).to_string())


if __name__ == "__main__":
    main()
