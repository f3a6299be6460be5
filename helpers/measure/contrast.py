"""Which of two passages answers? Contrast questions and a scorer in, shares with intervals out.

A *pair* is two passages on one subject, each of which answers a question of its own. It is right
when both questions prefer their own passage. A *decoy* answers nothing; it is beaten when the
question prefers the passage that answers. Ties count as wrong.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from langchain_core.embeddings import Embeddings

Scorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
WORD = re.compile(r"\w+")


def few_shared_words(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """A control: the fewer words of the question a passage has, the better it scores."""
    words = [(set(WORD.findall(q.lower())), set(WORD.findall(p.lower()))) for q, p in pairs]
    return [-len(question & passage) / max(1, len(question)) for question, passage in words]


def passage_alone(score: Scorer) -> Scorer:
    """A control: what `score` gives a passage when it sees no question."""
    return lambda pairs: score([("", passage) for _, passage in pairs])


def cosines(embeddings: Embeddings) -> Scorer:
    """Return the bi-encoder as a scorer of pairs."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        texts = sorted({text for pair in pairs for text in pair})
        vectors = np.asarray(embeddings.embed_documents(texts))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        known = dict(zip(texts, vectors, strict=True))
        return [float(known[query] @ known[passage]) for query, passage in pairs]

    return score


def judged(records: Sequence[dict], score: Scorer) -> pd.DataFrame:
    """Ask a scorer every comparison of the contrast questions.

    Args:
        records: Lines of `data/contrast_questions.jsonl`.
        score: Takes (question, passage) pairs and returns one number a pair, higher is better.

    Returns:
        A row a comparison: `what` ("pairs right both ways", "their first question alone" or "decoys
        beaten"), `kind`, the question's `id`, and `right`, 1 or 0.
    """
    wanted, asked = [], []
    for record in records:
        question, answer = record["question"], record["answer"]
        for decoy in record["decoys"]:
            text, other, kind = decoy["text"], decoy.get("answers"), decoy["kind"]
            wanted += [(question, answer), (question, text)]
            if other is not None:
                wanted += [(other, text), (other, answer)]
            asked.append((record["id"], kind, question, answer, text, other))
    unique = list(dict.fromkeys(wanted))
    known = dict(zip(unique, score(unique), strict=True))
    rows = []
    for name, kind, question, answer, text, other in asked:
        first = int(known[question, answer] > known[question, text])
        if other is None:
            rows.append(("decoys beaten", kind, name, first))
        else:
            both = int(first and known[other, text] > known[other, answer])
            rows.append(("pairs right both ways", kind, name, both))
            rows.append(("their first question alone", kind, name, first))
    return pd.DataFrame(rows, columns=["what", "kind", "id", "right"])


def share(rows: pd.DataFrame, resamples: int = 4000) -> tuple[float, float, float]:
    """Return the mean of `right` and its 95 % interval.

    The bootstrap draws questions, not comparisons: those of one question stand or fall together.
    With the difference of two scorers in `right`, the interval is that of the paired difference.
    """
    by_question = rows.groupby("id")["right"].agg(["sum", "count"]).to_numpy(float)
    draw = np.random.default_rng(0).integers(0, len(by_question), (resamples, len(by_question)))
    sums = by_question[draw].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(rows["right"].mean()), float(low), float(high)


def contrast_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate `judged` rows by what was asked and by kind: n, the share right, its interval."""
    groups = {(what, "all"): group for what, group in rows.groupby("what", sort=False)}
    groups |= dict(iter(rows.groupby(["what", "kind"], sort=False)))
    measured = {name: (len(group), *share(group)) for name, group in groups.items()}
    index = pd.MultiIndex.from_tuples(measured, names=["what", "kind"])
    return pd.DataFrame(measured.values(), index, ["n", "right", "low", "high"]).sort_index()
