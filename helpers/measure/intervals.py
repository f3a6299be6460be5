"""Intervals in which the bootstrap draws questions: of paired gains, of shares, of areas."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score

from helpers.evaluate import mean_interval


def gains(values: pd.DataFrame, base: str) -> pd.DataFrame:
    """Compare columns of `values` (a row a question, a column a way) with the column `base`.

    Returns:
        A row a way: its `mean`, and the mean paired `gain` with its 95 % interval, `low` to `high`.
    """
    rows = {n: mean_interval(found - values[base]) for n, found in values.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["gain", "low", "high"])
    table.insert(0, "mean", values.mean())
    return table


def questions_needed(differences: Sequence[float], within: float = 0.03) -> int:
    """Say how many questions a 95 % interval of plus or minus `within` needs.

    From the spread of the paired `differences` of a first sample, thirty or more: the square of
    1.96 standard deviations over `within`.
    """
    return int(np.ceil((1.96 * np.std(differences, ddof=1) / within) ** 2))


def share(rows: pd.DataFrame, resamples: int = 4000) -> tuple[float, float, float]:
    """Return the mean of `right` and its 95 % interval.

    The bootstrap draws questions, not comparisons: those of one question stand or fall together.
    With the difference of two scorers in `right`, the interval is that of the paired difference.
    Where all are right or all wrong no draw differs: then it is Wilson's, of so many questions.
    """
    if set(rows["right"]) in ({0}, {1}):
        n, value = rows["id"].nunique(), float(rows["right"].iloc[0])
        low, high = binomtest(round(value * n), n).proportion_ci(method="wilson")
        return value, float(low), float(high)
    by_question = rows.groupby("id")["right"].agg(["sum", "count"]).to_numpy(float)
    draw = np.random.default_rng(0).integers(0, len(by_question), (resamples, len(by_question)))
    sums = by_question[draw].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(rows["right"].mean()), float(low), float(high)


def area(answerable: Sequence[float], unanswerable: Sequence[float]) -> dict[str, float]:
    """Return the area under the ROC curve of the best scores, with its 95 % interval."""

    def auc(yes: np.ndarray, no: np.ndarray) -> float:
        return roc_auc_score([1] * len(yes) + [0] * len(no), np.concatenate([yes, no]))

    both = np.asarray(answerable), np.asarray(unanswerable)
    settings = {"n_resamples": 2000, "vectorized": False, "method": "percentile"}
    interval = bootstrap(both, auc, rng=np.random.default_rng(0), **settings).confidence_interval
    sizes = {"answerable": len(answerable), "unanswerable": len(unanswerable)}
    return sizes | {"AUC": float(auc(*both)), "low": interval.low, "high": interval.high}
