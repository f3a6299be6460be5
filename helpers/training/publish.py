"""Calibrate trained weights and lay them out as `data/reranker`.

    python -m helpers.training.publish build/training/all/best

The average of several checkpoints is published when several folders are named. The card comes from
`data/model_card.md`, and `revision.json` gets the sha256 of every file and how each stage went.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import CrossEncoder
from sklearn.linear_model import LogisticRegression

from helpers.evaluate import Question, chunk_id, load_judgements, to_qrels
from helpers.index import SimilarityRetriever, build_index, split_text
from helpers.profiles import DATA, EMBEDDED_EMBEDDING_SHA256, Profile, find_embedding
from helpers.training.read import (
    CONTRAST,
    FILES,
    NEAR_MISSES,
    OWN_DOCUMENTS,
    OWN_QUESTIONS,
    TEACHER,
)


def average(folders: Sequence[Path]) -> CrossEncoder:
    """Load the first folder with the mean of all folders' weights."""
    model = CrossEncoder(str(folders[0]), max_length=512)
    states = [CrossEncoder(str(folder)).model.state_dict() for folder in folders]
    model.model.load_state_dict(
        {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    )
    return model


def candidates(model: CrossEncoder, store, chunks, questions: Sequence[Question]) -> pd.DataFrame:
    """Score each question's twenty candidates.

    Returns:
        `query_id`, `logit`, `similarity` (above the mean of the question's candidates) and
        `relevant` (1 or 0), a row a candidate.
    """
    qrels = to_qrels(questions, chunks)
    relevant = set(qrels[["query_id", "doc_id"]].itertuples(index=False, name=None))
    retriever, rows = SimilarityRetriever(store=store), []
    for question in questions:
        docs = retriever.invoke(question.question)
        logits = model.predict(
            [(question.question, doc.page_content) for doc in docs],
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        similarities = np.array([doc.metadata["similarity"] for doc in docs])
        for doc, logit, above in zip(docs, logits, similarities - similarities.mean(), strict=True):
            marked = int((question.id, chunk_id(doc)) in relevant)
            rows.append((question.id, float(logit), float(above), marked))
    return pd.DataFrame(rows, columns=["query_id", "logit", "similarity", "relevant"])


def fit_base_weight(rows: pd.DataFrame) -> float:
    """Return how much similarity counts beside a logit, by logistic regression on the rows."""
    fitted = LogisticRegression(C=np.inf).fit(rows[["logit", "similarity"]], rows["relevant"])
    of_logit, of_similarity = fitted.coef_[0]
    return float(of_similarity / of_logit)


def calibrate(model: CrossEncoder, logits: np.ndarray, marks: np.ndarray) -> tuple[float, float]:
    """Make the score of a first passage the chance that it is relevant.

    Platt scaling (Platt, 1999): the factor and the offset that minimise the log loss over `logits`
    and `marks` (1: relevant), worked into the classifier's weights, so that every loader applies
    them. The order of passages does not change.

    Returns:
        The factor and the offset.
    """
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], marks)
    factor, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    with torch.no_grad():
        model.model.classifier.weight.mul_(factor)
        model.model.classifier.bias.mul_(factor).add_(offset)
    return factor, offset


def save(model: CrossEncoder, folder: str | Path, card: str, record: dict) -> None:
    """Save in half precision, with a model card and the sha256 of each file in `revision.json`."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    model.model.half()
    model.save_pretrained(str(folder), create_model_card=False)
    model.model.float()
    # Stored in half precision, computed in single: half is slow on processors.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_record(folder, record)


def write_record(folder: Path, record: dict) -> None:
    """Write `revision.json`: `record` and the sha256 of every other file in `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "revision.json")
    record = record | {"sha256": {p.relative_to(folder).as_posix(): _sha256(p) for p in files}}
    (folder / "revision.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Average, calibrate and save."""
    parser = argparse.ArgumentParser(prog="python -m helpers.training.publish")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of the SQuAD-form files")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--out", type=Path, default=DATA / "reranker")
    arguments = parser.parse_args()

    from langchain_huggingface import HuggingFaceEmbeddings

    corpus = DATA / "address.txt"
    store = build_index(
        corpus,
        HuggingFaceEmbeddings(model_name=str(find_embedding())),
        distance_strategy=Profile.distance_strategy,
    )
    questions = load_judgements(
        DATA / "judgements.jsonl", corpus.read_text(encoding="utf-8"), "dev"
    )
    model = average(arguments.folders)
    rows = candidates(model, store, split_text(corpus), questions)
    weight = fit_base_weight(rows)
    rows["together"] = rows["logit"] + weight * rows["similarity"]
    first = rows.loc[rows.groupby("query_id")["together"].idxmax()]
    factor, offset = calibrate(model, first["together"].to_numpy(), first["relevant"].to_numpy())
    files = [arguments.data / file for file in (*FILES.values(), NEAR_MISSES)]
    record = {
        "base": f"all-MiniLM-L6-v2, sha256 {EMBEDDED_EMBEDDING_SHA256}",
        "data": {
            path.name: _sha256(path)
            for path in (*files, OWN_QUESTIONS, OWN_DOCUMENTS, CONTRAST, TEACHER)
        },
        "averaged checkpoints": len(arguments.folders),
        "calibration": {
            "factor": round(factor, 4),
            "offset": round(offset, 4),
            "base weight": round(factor * weight, 2),
            "first passages": len(first),
            "relevant": int(first["relevant"].sum()),
        },
        "stages": {
            log.parent.name: json.loads(log.read_text(encoding="utf-8"))
            for log in sorted(arguments.work.glob("*/log.json"), reverse=True)
        },
    }
    save(model, arguments.out, (DATA / "model_card.md").read_text(encoding="utf-8"), record)
    print(json.dumps(record["calibration"]))


if __name__ == "__main__":
    main()
