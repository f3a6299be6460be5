"""From ranked documents to metrics: judged questions and a retriever come in, numbers go out.

Judgements are kept as character spans of the text, so that they hold for any way of chunking it.
The metrics are those of `ir_measures`; the intervals are SciPy's bootstrap.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, R, nDCG
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from scipy import stats
from tqdm.auto import tqdm

METRICS = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "recall@20": R @ 20}


class JudgementError(ValueError):
    """A line of a judgement file that cannot be used; the message names the line and the fault."""


@dataclass(frozen=True)
class Question:
    """A question and the spans of the text that answer it (grade 2) or help (grade 1).

    `spans` holds (start, end, grade) with offsets into the decoded text, end excluded. It is empty
    for a question that the text does not answer.
    """

    id: str
    question: str
    spans: tuple[tuple[int, int, int], ...]
    kind: str = ""
    split: str = ""


def load_judgements(path: str | Path, text: str, split: str | None = None) -> list[Question]:
    """Read judged questions, one JSON object a line, and check them against `text`.

    Each line is `{"id": ..., "question": ..., "spans": [[start, end, grade], ...]}`; `kind` and
    `split` may be there too.

    Args:
        path: The JSONL file, UTF-8.
        text: The text that the spans point into.
        split: Leave out the questions of other splits; one that names no split is returned always.

    Raises:
        JudgementError: A line is malformed, an id comes twice, or a span is not in the text.
    """
    questions: list[Question] = []
    seen: set[str] = set()
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _parse(json.loads(line), len(text))
        except ValueError as error:
            raise JudgementError(f"{Path(path).name}, line {number}: {error}") from error
        if question.id in seen:
            raise JudgementError(
                f"{Path(path).name}, line {number}: id {question.id!r} comes twice"
            )
        seen.add(question.id)
        if split is None or question.split in ("", split):
            questions.append(question)
    if not questions:
        raise JudgementError(
            f"{Path(path).name} holds no question" + (f" of split {split!r}" if split else "")
        )
    return questions


def _parse(fields: object, length: int) -> Question:
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object with id, question and spans")
    unknown = fields.keys() - {"id", "question", "spans", "kind", "split"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    for key in ("id", "question"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise ValueError(f"{key!r} must be a string that is not empty, got {fields.get(key)!r}")
    for key in ("kind", "split"):
        if not isinstance(fields.get(key, ""), str):
            raise ValueError(f"{key!r} must be a string, got {fields[key]!r}")
    if not isinstance(fields.get("spans"), list):
        raise ValueError(
            f"'spans' must be a list of [start, end, grade], got {fields.get('spans')!r}"
        )
    for span in fields["spans"]:
        whole = isinstance(span, list) and len(span) == 3 and all(type(x) is int for x in span)
        if not whole or not 0 <= span[0] < span[1] <= length or span[2] not in (1, 2):
            raise ValueError(
                f"span {span!r} must be [start, end, grade] with 0 <= start < end <= {length} "
                "(the text's length) and a grade of 1 or 2"
            )
    return Question(
        fields["id"],
        fields["question"],
        tuple(tuple(span) for span in fields["spans"]),
        fields.get("kind", ""),
        fields.get("split", ""),
    )


def chunk_id(document: Document) -> str:
    """Return the name of a chunk in judgements and runs: where it starts in the text."""
    return str(document.metadata["start_index"])


def to_qrels(questions: Iterable[Question], chunks: Sequence[Document]) -> pd.DataFrame:
    """Turn span judgements into chunk judgements (`query_id`, `doc_id`, `relevance`).

    A chunk is relevant to a question when it holds at least half of the characters of one of its
    spans, or, for a span too long to fit, when at least half of the chunk lies in the span. Its
    grade is the highest grade of such a span.
    """
    rows = []
    for question in questions:
        for chunk in chunks:
            start = chunk.metadata["start_index"]
            end = start + len(chunk.page_content)
            grades = [
                grade
                for left, right, grade in question.spans
                if 2 * (min(right, end) - max(left, start)) >= min(right - left, end - start)
            ]
            if grades:
                rows.append((question.id, chunk_id(chunk), max(grades)))
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def to_run(
    retriever: BaseRetriever, questions: Iterable[Question], show_progress: bool = False
) -> pd.DataFrame:
    """Ask `retriever` every question.

    Returns:
        Columns `query_id`, `doc_id` and `score`, which is minus the rank.
    """
    rows = [
        (question.id, chunk_id(document), -rank)
        for question in tqdm(list(questions), desc="Questions", disable=not show_progress)
        for rank, document in enumerate(retriever.invoke(question.question), start=1)
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]).astype({"score": float})


def best_order(run: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """Reorder each question's documents by their judged grade: the most that reranking could do."""
    grades = run.merge(qrels, how="left", on=["query_id", "doc_id"])["relevance"].fillna(0)
    return run.assign(score=grades.to_numpy() * 1e6 + run["score"].to_numpy())


def per_question(qrels: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    """Measure a run: one row a question that has a relevant chunk, one column a metric.

    nDCG@10 takes the grades 1 and 2 as gains; MRR@10 and recall@20 count either grade as relevant.
    """
    results = ir_measures.iter_calc(METRICS.values(), qrels, run)
    names = {str(measure): name for name, measure in METRICS.items()}
    rows = [(result.query_id, names[str(result.measure)], result.value) for result in results]
    table = pd.DataFrame(rows, columns=["query_id", "metric", "value"])
    table = table.pivot(index="query_id", columns="metric", values="value")
    # A question that retrieved nothing is a zero, not a question left out.
    return table.reindex(sorted(qrels["query_id"].unique()), columns=list(METRICS)).fillna(0.0)


def mean_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, ...]:
    """Return (mean, low, high): the mean and its percentile bootstrap interval (10,000 resamples).

    For a paired comparison, pass the differences, question by question.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean()), float(values.mean())
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=10_000,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(values.mean()), float(interval.low), float(interval.high)


def compare(
    qrels: pd.DataFrame,
    runs: Mapping[str, pd.DataFrame],
    base: str = "base (vectors)",
    metric: str = "nDCG@10",
    questions: Iterable[Question] = (),
) -> pd.DataFrame:
    """Compare runs with the run called `base`.

    Returns:
        A row a run, and one for the oracle, the best order of the base's own candidates. Columns:
        the mean for each kind of the `questions` (where there are several), the mean of `metric`,
        the mean paired `gain` over the base with its 95 % interval (`low`, `high`), and
        `gap closed`, the gain as a share of what the oracle gains.
    """
    runs = dict(runs) | {"oracle": best_order(runs[base], qrels)}
    values = pd.DataFrame({name: per_question(qrels, run)[metric] for name, run in runs.items()})
    kinds = pd.Series({q.id: q.kind for q in questions}, dtype=str).reindex(values.index)
    room = (values["oracle"] - values[base]).mean()
    rows = {}
    for name, found in values.items():
        gain, low, high = mean_interval(found - values[base])
        rows[name] = found.groupby(kinds).mean().to_dict() if kinds.nunique() > 1 else {}
        rows[name] |= {metric: found.mean(), "gain": gain, "low": low, "high": high}
        rows[name] |= {"gap closed": gain / room if room else 0.0}
    return pd.DataFrame.from_dict(rows, orient="index")
