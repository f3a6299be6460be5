"""A collection in BEIR's layout, through the same metrics: `python -m helpers.measure.beir FOLDER`.

The folder holds `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv` (SciFact, say). Vectors find
the 100 nearest documents, the cross-encoder reranks them, and nDCG@10 is printed for BM25 and for
both orders: ground truth that nobody here wrote. `--out` keeps the result for notebook 04.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from langchain_community.retrievers import BM25Retriever
from langchain_core.documents import Document
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim
from tqdm.auto import tqdm

from helpers.evaluate import mean_interval, per_question
from helpers.profiles import load_profile
from helpers.baselines import words
from helpers.score import LocalCrossEncoder


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
    return [
        json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()
    ]


def bm25_run(documents: dict[str, str], queries: dict[str, str], k: int) -> pd.DataFrame:
    """Ask BM25 (LangChain's retriever, words as they are) every query."""
    retriever = BM25Retriever.from_documents(
        [Document(text, metadata={"id": name}) for name, text in documents.items()],
        k=k,
        preprocess_func=words,
    )
    rows = [
        (query_id, doc.metadata["id"], float(-rank))
        for query_id, query in tqdm(queries.items(), desc="BM25")
        for rank, doc in enumerate(retriever.invoke(query))
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def main() -> None:
    """Print nDCG@10 of vectors and of vectors reranked, with the paired interval."""
    parser = argparse.ArgumentParser(prog="python -m helpers.measure.beir", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=int, default=100, help="documents to rerank")
    parser.add_argument("--precision", default="fp32", help="auto: 16 bits where they are fast")
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    arguments = parser.parse_args()
    if not (arguments.folder / "corpus.jsonl").is_file():
        parser.error(f"{arguments.folder} is not a BEIR collection: corpus.jsonl is missing")

    documents, queries, qrels = read_collection(arguments.folder)
    profile = load_profile()
    bi_encoder = SentenceTransformer(profile.embedding_model)
    cross_encoder = LocalCrossEncoder(profile.reranker_model, precision=arguments.precision)
    ids, texts = list(documents), list(documents.values())
    options = {"normalize_embeddings": True, "show_progress_bar": True, "convert_to_tensor": True}
    # normalize_embeddings: for both profiles' models this is the cosine.
    vectors = bi_encoder.encode(texts, **options)
    similarity = (bi_encoder.encode(list(queries.values()), **options) @ vectors.T).numpy()
    rows = []
    asked = zip(queries.items(), similarity, strict=True)
    for (query_id, query), row in tqdm(asked, desc="Reranking", total=len(queries)):
        nearest = np.argsort(-row, kind="stable")[: arguments.k]
        scores = cross_encoder.score([(query, texts[i]) for i in nearest])
        rows += [
            (query_id, ids[i], float(row[i]), score)
            for i, score in zip(nearest, scores, strict=True)
        ]
    runs = pd.DataFrame(rows, columns=["query_id", "doc_id", "base", "reranked"])
    values = {
        name: per_question(
            qrels, runs[["query_id", "doc_id", name]].rename(columns={name: "score"})
        )["nDCG@10"]
        for name in ("base", "reranked")
    }
    values["BM25"] = per_question(qrels, bm25_run(documents, queries, arguments.k))["nDCG@10"]

    # The same base, embedded, searched and measured by a second implementation.
    relevant = qrels[qrels["relevance"] > 0].groupby("query_id")["doc_id"].agg(set).to_dict()
    evaluator = InformationRetrievalEvaluator(
        queries, documents, relevant, ndcg_at_k=[10], score_functions={"cosine": cos_sim}
    )
    independent = evaluator.compute_all_metrics(bi_encoder)
    gain, low, high = mean_interval(values["reranked"] - values["base"])
    result = {
        "collection": arguments.folder.name,
        "command": f"python -m helpers.measure.beir {arguments.folder.name} -k {arguments.k} "
        f"--precision {arguments.precision}",
        "queries": len(queries),
        "documents": len(documents),
        "reranked candidates": arguments.k,
        "nDCG@10": {name: float(values[name].mean()) for name in ("BM25", "base", "reranked")},
        "base by InformationRetrievalEvaluator": independent["cosine"]["ndcg@k"][10],
        "gain": gain,
        "95 % interval": [low, high],
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
