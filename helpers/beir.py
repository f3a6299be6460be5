"""A collection in BEIR's layout, through the same metrics: `python -m helpers.beir FOLDER`.

The folder holds `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv` (SciFact, say). Vectors find
the 100 nearest documents, the cross-encoder reranks them, and nDCG@10 is printed for both orders:
ground truth that nobody here wrote.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from helpers.evaluate import mean_interval, per_question
from helpers.profiles import load_profile


def read_collection(folder: Path) -> tuple[dict[str, str], dict[str, str], pd.DataFrame]:
    """Return documents (title and text), the judged queries, and the qrels of the test split."""
    documents, queries = (
        {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in _lines(file)}
        for file in (folder / "corpus.jsonl", folder / "queries.jsonl")
    )
    qrels = pd.read_csv(folder / "qrels" / "test.tsv", sep="\t", dtype=str)
    qrels.columns = ["query_id", "doc_id", "relevance"]
    qrels["relevance"] = qrels["relevance"].astype(int)
    return documents, {q: queries[q] for q in sorted(set(qrels["query_id"]))}, qrels


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def main() -> None:
    """Print nDCG@10 of vectors and of vectors reranked, with the paired interval."""
    parser = argparse.ArgumentParser(prog="python -m helpers.beir", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=int, default=100, help="documents to rerank")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, where it is fast")
    arguments = parser.parse_args()

    documents, queries, qrels = read_collection(arguments.folder)
    profile = load_profile()
    bi_encoder = SentenceTransformer(profile.embedding_model)
    cross_encoder = CrossEncoder(profile.reranker_model)
    ids, texts = list(documents), list(documents.values())
    options = {"normalize_embeddings": True, "show_progress_bar": True}
    # normalize_embeddings: for both profiles' models this is the cosine.
    similarity = bi_encoder.encode(list(queries.values()), **options) @ (
        bi_encoder.encode(texts, **options).T
    )
    rows = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bf16):
        for (query_id, query), row in zip(queries.items(), similarity, strict=True):
            nearest = np.argsort(-row, kind="stable")[: arguments.k]
            scores = cross_encoder.predict(
                [(query, texts[i]) for i in nearest], show_progress_bar=False
            )
            rows += [
                (query_id, ids[i], float(row[i]), float(score))
                for i, score in zip(nearest, scores, strict=True)
            ]
    runs = pd.DataFrame(rows, columns=["query_id", "doc_id", "base", "reranked"])
    values = {
        name: per_question(
            qrels, runs[["query_id", "doc_id", name]].rename(columns={name: "score"})
        )["nDCG@10"]
        for name in ("base", "reranked")
    }
    gain, low, high = mean_interval(values["reranked"] - values["base"])
    print(f"\n{arguments.folder.name}: {len(queries)} queries, {len(documents)} documents, nDCG@10")
    print(f"  base      {values['base'].mean():.3f}")
    print(f"  reranked  {values['reranked'].mean():.3f} (top {arguments.k})")
    print(f"  gain      {gain:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
