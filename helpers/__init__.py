"""What the notebooks import: the steps of a reranking pipeline, each in a file of its own.

    text -> chunks -> vectors -> index (index.py) -> candidates -> scores (score.py)
    -> ranked documents (rerank.py) -> metrics (evaluate.py, report.py)

`profiles.py` says which corpus and models, `training/` is how the embedded cross-encoder was made,
`display.py` prints and draws, `endpoint/` serves, `bulk.py`
scores what `tables.py` checks, `openvino_score.py` scores in 8 bits, `bench/` measures speed.

Names load on first use, so that `import helpers` is quick.
"""

import importlib

_WHERE = {
    "EndpointCrossEncoder": "helpers.endpoint.client",
    "LocalCrossEncoder": "helpers.score",
    "Profile": "helpers.profiles",
    "ProfileError": "helpers.profiles",
    "ScoringReranker": "helpers.rerank",
    "SimilarityRetriever": "helpers.index",
    "build_index": "helpers.index",
    "load_profile": "helpers.profiles",
    "local_endpoint": "helpers.endpoint.local",
    "plot_rank_changes": "helpers.display",
    "pretty_print_docs": "helpers.display",
    "rank_changes": "helpers.display",
    "split_text": "helpers.index",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
