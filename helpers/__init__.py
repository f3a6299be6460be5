"""A reranking pipeline, one file a step, in the order that the data takes.

hub         a model's name -> its folder, from the Hugging Face hub if need be
profiles    which corpus and which models
index       text -> chunks -> vectors -> FAISS index -> candidates
hardware    which device, and in which precision
load        a folder -> a cross-encoder that may score
fit         pairs of any length -> what the model reads of them
score       (query, passage) pairs -> scores
rerank      candidates and scores -> ranked documents
display     ranked documents -> text, a table, a plot
judgements  questions -> judged chunks
evaluate    ranked documents -> metrics
__main__    one question on the command line: python -m helpers "..."

Notebooks 01 and 02 need no more. Each later one has a folder: `endpoint` (03), `measure` (04),
`training` (05), `scale` (06, 07), `documents` (08). Names load on first use: the import is quick.
"""

import importlib

_WHERE = {
    "build_index": "index",
    "load_profile": "profiles",
    "LocalCrossEncoder": "score",
    "plot_rank_changes": "display",
    "pretty_print_docs": "display",
    "rank_changes": "display",
    "ScoringReranker": "rerank",
    "SimilarityRetriever": "index",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"helpers has no {name!r}: expected one of {', '.join(_WHERE)}")
    return getattr(importlib.import_module(f"helpers.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
