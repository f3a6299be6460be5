"""What fewer bits cost in nDCG, question by question: `python -m helpers.scale.precision`.

Every judged question of the embedded address comes in, a CSV goes out: its half (`set`), its id,
the order that is judged, nDCG@10 of that order in each precision, and Kendall's tau of the scores
behind it with those in fp32. The `fused` order is the pipeline's, with the vectors' similarity,
`cross-encoder` the model's own; `auto` is called by what it was.
"""

import argparse
from pathlib import Path

import pandas as pd
from langchain_huggingface import HuggingFaceEmbeddings
from scipy.stats import kendalltau
from tqdm.auto import tqdm

from helpers.evaluate import per_question
from helpers.hardware import auto_precision
from helpers.index import SimilarityRetriever, build_index, read_text, split_text
from helpers.judgements import chunk_id, load_judgements, to_qrels
from helpers.profiles import DATA, load_profile
from helpers.rerank import ScoringReranker
from helpers.scale.openvino import OpenVINOCrossEncoder
from helpers.scale.workloads import calibration_pairs
from helpers.score import LocalCrossEncoder

ORDERS = {"fused": "relevance_score", "cross-encoder": "cross_encoder_score"}
FIRST = ["set", "question", "order"]


def measure_precision(questions: int | None = None) -> pd.DataFrame:
    """Return the table; of each half, the first `questions` that the text answers."""
    profile, kinds = load_profile("embedded"), dict.fromkeys(("fp32", auto_precision("cpu")))
    folder, how = profile.reranker_model, {"precision": "int8", "calibration": calibration_pairs()}
    models = {kind: LocalCrossEncoder(folder, device="cpu", precision=kind) for kind in kinds}
    models["int8"] = OpenVINOCrossEncoder(folder, **how)
    embed = HuggingFaceEmbeddings(model_name=profile.embedding_model, **profile.embedding_settings)
    retriever = SimilarityRetriever(store=build_index(profile.corpus, embed), k=20)
    text, chunks, tables = read_text(profile.corpus), split_text(profile.corpus), []
    for half in ("dev", "test"):
        asked = [q for q in load_judgements(profile.judgements, text, half) if q.spans][:questions]
        found, scores = {q: retriever.invoke(q.question) for q in asked}, {}
        for name, model in models.items():
            reranker, rows = ScoringReranker(model=model, base_weight=profile.base_weight), []
            for q, docs in tqdm(found.items(), desc=f"{half}, {name}"):
                ranked = reranker.compress_documents(docs, q.question)
                # As they came: of equal scores the nearer stays first, as in use.
                ranked.sort(key=lambda doc: doc.metadata["base_rank"])
                for doc in ranked:
                    rows.append((q.id, chunk_id(doc), *map(doc.metadata.get, ORDERS.values())))
            scores[name] = pd.DataFrame(rows, columns=["query_id", "doc_id", *ORDERS])
        qrels = to_qrels(asked, chunks)
        tables += [_compare(qrels, scores, order).assign(set=half) for order in ORDERS]
    table = pd.concat(tables).reset_index(names="question").round(6)
    return table[[*FIRST, *table.columns.difference(FIRST, sort=False)]]


def _compare(qrels: pd.DataFrame, scores: dict[str, pd.DataFrame], order: str) -> pd.DataFrame:
    """Measure one order: a row a question, nDCG@10 for each precision, then each tau."""
    table, by_question = pd.DataFrame(), {}
    for name, run in scores.items():
        by_question[name] = run.groupby("query_id")[order]
        ranks = by_question[name].rank(ascending=False, method="first")
        table[name] = per_question(qrels, run.assign(score=-ranks))["nDCG@10"]
    exact = by_question.pop("fp32")
    for name, fewer in by_question.items():
        taus = [kendalltau(exact.get_group(q), fewer.get_group(q)).statistic for q in table.index]
        table[f"{name} tau"] = taus
    return table.assign(order=order)


def main() -> None:
    """Measure and write the table."""
    name = "python -m helpers.scale.precision"
    parser = argparse.ArgumentParser(prog=name, description=main.__doc__)
    parser.add_argument("--questions", type=int, help="of each half; by default all")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "precision.csv")
    asked = parser.parse_args()
    table = measure_precision(asked.questions)
    table.to_csv(asked.out, index=False)
    print(table.groupby(["set", "order"]).mean(numeric_only=True).round(4).to_string())


if __name__ == "__main__":
    main()
