"""Which of two passages answers? Contrast questions and a scorer in, shares with intervals out.

A *pair* is two passages on one subject, each of which answers a question of its own. It is right
when both questions prefer their own passage. A *decoy* answers nothing; it is beaten when the
question prefers the passage that answers. Ties count as wrong.
"""

from collections.abc import Callable, Sequence

import pandas as pd
from langchain_core.embeddings import Embeddings
from sklearn.preprocessing import normalize

from helpers.measure.baselines import words
from helpers.measure.intervals import share
from helpers.profiles import DATA

CONTRAST = DATA / "contrast_questions.jsonl"
Scorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


def few_shared_words(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """A control: the fewer words of the question a passage has, the better it scores."""
    split = [(set(words(question)), set(words(passage))) for question, passage in pairs]
    return [-len(question & passage) / max(1, len(question)) for question, passage in split]


def passage_alone(score: Scorer) -> Scorer:
    """A control: what `score` gives a passage when it sees no question."""
    return lambda pairs: score([("", passage) for _, passage in pairs])


def cosines(embeddings: Embeddings) -> Scorer:
    """Return the bi-encoder as a scorer of pairs."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        texts = sorted({text for pair in pairs for text in pair})
        vectors = normalize(embeddings.embed_documents(texts))
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
    asked = [(r["id"], r["question"], r["answer"], decoy) for r in records for decoy in r["decoys"]]
    wanted = {}
    for _, question, answer, decoy in asked:
        wanted |= {(question, answer): None, (question, decoy["text"]): None}
        if "answers" in decoy:
            wanted |= {(decoy["answers"], text): None for text in (decoy["text"], answer)}
    known = dict(zip(wanted, score(list(wanted)), strict=True))
    rows = []
    for name, question, answer, decoy in asked:
        text, other = decoy["text"], decoy.get("answers")
        first = int(known[question, answer] > known[question, text])
        right = {"decoys beaten": first}
        if other is not None:
            both = int(first and known[other, text] > known[other, answer])
            right = {"pairs right both ways": both, "their first question alone": first}
        rows += [(what, decoy["kind"], name, value) for what, value in right.items()]
    return pd.DataFrame(rows, columns=["what", "kind", "id", "right"])


def contrast_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate `judged` rows by what was asked and by kind: n, the share right, its interval."""
    groups = {(what, "all"): group for what, group in rows.groupby("what", sort=False)}
    groups |= dict(iter(rows.groupby(["what", "kind"], sort=False)))
    measured = {name: (len(group), *share(group)) for name, group in groups.items()}
    index = pd.MultiIndex.from_tuples(measured, names=["what", "kind"])
    return pd.DataFrame(measured.values(), index, ["n", "right", "low", "high"]).sort_index()
