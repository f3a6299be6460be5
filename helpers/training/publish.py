"""Calibrate trained weights and lay them out as `data/reranker`.

    python -m helpers.training.publish build/training/all/best --data FOLDER

The card comes from `data/model_card.md`, and `revision.json` gets the sha256 of every file and how
each stage went.
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

from helpers.index import SimilarityRetriever, build_index, read_text, split_text
from helpers.judgements import Question, chunk_id, load_judgements, to_qrels
from helpers.profiles import DATA, EMBEDDED_EMBEDDING_SHA256, find_embedding
from helpers.training import read


def candidates(model: CrossEncoder, store, chunks, questions: Sequence[Question]) -> pd.DataFrame:
    """Score each question's twenty candidates.

    Returns:
        `query_id`, `logit`, `similarity` (above the mean of the question's candidates) and
        `relevant` (1 or 0), a row a candidate.
    """
    qrels = to_qrels(questions, chunks)
    relevant = set(qrels[["query_id", "doc_id"]].itertuples(index=False, name=None))
    retriever = SimilarityRetriever(store=store)
    found = [(q, doc) for q in questions for doc in retriever.invoke(q.question)]
    pairs = [(q.question, doc.page_content) for q, doc in found]
    settings = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}
    rows = pd.DataFrame({"query_id": [q.id for q, _ in found]})
    rows["logit"] = model.predict(pairs, **settings).astype(float)
    rows["similarity"] = [doc.metadata["similarity"] for _, doc in found]
    rows["similarity"] -= rows.groupby("query_id")["similarity"].transform("mean")
    rows["relevant"] = [int((q.id, chunk_id(doc)) in relevant) for q, doc in found]
    return rows


def calibrate(model: CrossEncoder, logits: np.ndarray, marks: np.ndarray) -> tuple[float, float]:
    """Make the score of a first passage the chance that it is relevant.

    Platt scaling (Platt, 1999): the factor and the offset, which are returned, that minimise the
    log loss over `logits` and `marks` (1: relevant). They are worked into the classifier's weights,
    so that every loader applies them. The order of passages does not change.
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
    _write(folder / "config.json", config | {"dtype": "float32"})
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sha256 = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    _write(folder / "revision.json", record | {"sha256": sha256})


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Average, calibrate and save."""
    parser = argparse.ArgumentParser("python -m helpers.training.publish")
    parser.add_argument("folder", type=Path, help="of the trained weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of the SQuAD-form files")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--out", type=Path, default=DATA / "reranker")
    arguments = parser.parse_args()

    from langchain_huggingface import HuggingFaceEmbeddings

    corpus = DATA / "address.txt"
    store = build_index(corpus, HuggingFaceEmbeddings(model_name=str(find_embedding())))
    questions = load_judgements(DATA / "judgements.jsonl", read_text(corpus), "dev")
    model = CrossEncoder(str(arguments.folder), max_length=512)
    rows = candidates(model, store, split_text(corpus), questions)
    # How much similarity counts beside a logit.
    fitted = LogisticRegression(C=np.inf).fit(rows[["logit", "similarity"]], rows["relevant"])
    weight = float(fitted.coef_[0, 1] / fitted.coef_[0, 0])
    rows["together"] = rows["logit"] + weight * rows["similarity"]
    first = rows.loc[rows.groupby("query_id")["together"].idxmax()]
    factor, offset = calibrate(model, first["together"].to_numpy(), first["relevant"].to_numpy())
    files = [arguments.data / file for file in (*read.FILES.values(), read.NEAR_MISSES)]
    files += [read.OWN_QUESTIONS, read.OWN_DOCUMENTS, read.CONTRAST, read.TEACHER]
    logs = sorted(arguments.work.glob("*/log.json"), reverse=True)
    calibration = {"factor": round(factor, 4), "offset": round(offset, 4)}
    calibration |= {"base weight": round(factor * weight, 2), "first passages": len(first)}
    calibration |= {"relevant": int(first["relevant"].sum())}
    record = {"base": f"all-MiniLM-L6-v2, sha256 {EMBEDDED_EMBEDDING_SHA256}"}
    record |= {"data": {path.name: _sha256(path) for path in files}, "calibration": calibration}
    record |= {"stages": {log.parent.name: json.loads(read_text(log)) for log in logs}}
    save(model, arguments.out, read_text(DATA / "model_card.md"), record)
    print(json.dumps(calibration))


if __name__ == "__main__":
    main()
