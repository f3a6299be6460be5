"""Every order of one query's candidates that is compared: similarities, words and scores come in.

Reranking here is what `ScoringReranker` does; a test holds the two together.
"""

from collections.abc import Callable, Mapping, Sequence

from scipy.special import logit

MORE = 10  # candidates that word search adds to those of vectors
RRF = 60  # the constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)

Order = dict[str, float]  # a document's id -> what it is sorted by, higher first


def candidates(near: Mapping[str, float], words: Sequence[str], k: int) -> dict[str, list[str]]:
    """Choose what is reranked: `near` is every document's similarity, `words` BM25's order.

    Returns:
        Ids, best first: `vectors`, the k nearest; `vectors + BM25`, those and word search's first
        ten; and `more vectors`, as many as that by similarity alone.
    """
    nearest = sorted(near, key=near.get, reverse=True)
    union = list(dict.fromkeys([*nearest[:k], *words[:MORE]]))
    return {
        "vectors": nearest[:k],
        "vectors + BM25": union,
        "more vectors": nearest[: len(union)],
    }


def fused(
    ids: Sequence[str], scores: Mapping[str, float], near: Mapping[str, float], weight: float
) -> Order:
    """Order by log-odds of the score and `weight` times similarity, as `base_weight` does."""
    return {
        name: float(logit(min(max(scores[name], 1e-12), 1 - 1e-12))) + weight * near[name]
        for name in ids
    }


def reciprocal_ranks(*orders: Sequence[str]) -> Order:
    """Fuse orders without scores: the sum of 1 / (60 + rank)."""
    found: Order = {}
    for order in orders:
        for rank, name in enumerate(order, start=1):
            found[name] = found.get(name, 0.0) + 1 / (RRF + rank)
    return found


def orders(
    near: Mapping[str, float],
    words: Sequence[str],
    score: Callable[[Sequence[str]], Sequence[float]],
    k: int,
    weight: float,
) -> dict[str, Order]:
    """Rank one query's documents in every way that needs no other model.

    `score` takes ids and returns the cross-encoder's scores; each is asked for once. The `fused`
    orders are there only where `weight` is not 0.
    """
    chosen = candidates(near, words, k)
    asked = list(dict.fromkeys(name for ids in chosen.values() for name in ids))
    scores = dict(zip(asked, score(asked), strict=True))
    found = {
        "BM25": reciprocal_ranks(words[:k]),
        "vectors": {name: near[name] for name in chosen["vectors"]},
    }
    found["orders of vectors and BM25"] = reciprocal_ranks(chosen["vectors"], words[:k])
    for source, ids in chosen.items():
        of = "" if source == "vectors" else f", {source}"
        found[f"cross-encoder{of}"] = {name: scores[name] for name in ids}
        if weight:
            found[f"fused{of}"] = fused(ids, scores, near, weight)
    return found
