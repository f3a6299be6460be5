"""From ranked documents to metrics: judged chunks and retrievers come in, one table goes out.

The metrics are those of `ir_measures`; the intervals are SciPy's bootstrap.
"""

from collections.abc import Iterable, Mapping, Sequence

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, R, nDCG
from langchain_core.retrievers import BaseRetriever
from scipy import stats
from tqdm.auto import tqdm

from helpers.judgements import JudgementError, Question, chunk_id

METRICS = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "recall@20": R @ 20}


def to_run(
    retriever: BaseRetriever, questions: Iterable[Question], show_progress: bool = False
) -> pd.DataFrame:
    """Ask `retriever` every question: `query_id`, `doc_id` and `score`, which is minus the rank."""
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

    Raises:
        JudgementError: Nothing is judged, a document comes twice for a question, a score is NaN, or
            an id holds a NUL character (where `pytrec_eval` would cut it).
    """
    if not len(qrels):
        raise JudgementError("no question has a relevant document: there is nothing to measure")
    qrels, run = (table.astype({"query_id": str, "doc_id": str}) for table in (qrels, run))
    for name, table in {"the judgements": qrels, "the run": run}.items():
        ids = table["query_id"] + " " + table["doc_id"]
        twice = table.duplicated(["query_id", "doc_id"])
        if (wrong := ids[twice | ids.str.contains("\0", regex=False)]).size:
            raise JudgementError(f"{name}: {wrong.iloc[0]!r} comes twice or holds a NUL character")
    if run["score"].isna().any():
        raise JudgementError("a score in the run is NaN")
    results = ir_measures.iter_calc(METRICS.values(), qrels, run)
    names = {str(measure): name for name, measure in METRICS.items()}
    rows = [(result.query_id, names[str(result.measure)], result.value) for result in results]
    table = pd.DataFrame(rows, columns=["query_id", "metric", "value"])
    table = table.pivot(index="query_id", columns="metric", values="value")
    # A question that retrieved nothing is a zero, not a question left out.
    return table.reindex(sorted(qrels["query_id"].unique()), columns=list(METRICS)).fillna(0.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean and its 95 % percentile bootstrap interval.

    It draws 10,000 times. For a paired comparison, pass the differences, question by question.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or np.isnan(values).any():
        raise ValueError(f"{len(values)} values, NaN among them or none: expected numbers")
    if len(values) < 2 or np.ptp(values) == 0:
        return (float(values.mean()),) * 3
    how = {"n_resamples": 10_000, "method": "percentile", "rng": np.random.default_rng(0)}
    interval = stats.bootstrap((values,), np.mean, **how).confidence_interval
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
    kinds = pd.Series({q.id: q.kind or "other" for q in questions}, dtype=str).reindex(values.index)
    room = (values["oracle"] - values[base]).mean()
    rows = {}
    for name, found in values.items():
        gain, low, high = mean_interval(found - values[base])
        rows[name] = found.groupby(kinds).mean().to_dict() if kinds.nunique() > 1 else {}
        rows[name] |= {metric: found.mean(), "gain": gain, "low": low, "high": high}
        rows[name] |= {"gap closed": gain / room if room else 0.0}
    return pd.DataFrame.from_dict(rows, orient="index")
