"""Does the cross-encoder read both texts? `python -m helpers.measure.reading`.

The model, the judged questions and the contrast questions come in; `data/results/reading.json` goes
out, which notebooks 04 and 05 show: contrast pairs beside controls, ranking with the attention
between the two texts closed, ranking before training, and whether the best score tells questions
that the text answers from those that it does not.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.evaluate import (
    Question,
    chunk_id,
    load_judgements,
    mean_interval,
    per_question,
    to_qrels,
    to_run,
)
from helpers.index import SimilarityRetriever, build_index, split_text
from helpers.measure.contrast import (
    contrast_table,
    cosines,
    few_shared_words,
    judged,
    passage_alone,
)
from helpers.profiles import DATA, find_embedding, load_profile
from helpers.baselines import ChunkAndSentence, pipelines
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder, bounded_batches
from helpers.training.read import read_contrast


class ClosedCrossEncoder(BaseCrossEncoder):
    """The same weights with the attention between question and passage closed.

    The tokens of each text attend to their own text alone; [CLS], from which the score is read,
    attends to both. What it then knows is what two texts say that were read apart.
    """

    def __init__(self, folder: str | Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()

    @torch.inference_mode()
    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return one logit a pair."""
        tokens = self.tokenizer(
            *map(list, zip(*text_pairs, strict=True)), truncation=True, max_length=512
        )
        scores = [0.0] * len(text_pairs)
        for batch in bounded_batches([len(ids) for ids in tokens["input_ids"]], 4096):
            rows = {name: [column[i] for i in batch] for name, column in tokens.items()}
            padded = self.tokenizer.pad(rows, return_tensors="pt", verbose=False)
            real, second = padded["attention_mask"].bool(), padded["token_type_ids"].bool()
            same = second[:, :, None] == second[:, None, :]
            same[:, :, 0] = False  # nobody sees [CLS] but itself: it would be a bridge
            same[:, 0, :] = True
            visible = (same & real[:, None, :])[:, None]
            logits = self.model(
                input_ids=padded["input_ids"],
                token_type_ids=padded["token_type_ids"],
                attention_mask=torch.where(visible, 0.0, torch.finfo(torch.float32).min),
            ).logits
            for i, logit in zip(batch, logits[:, 0].tolist(), strict=True):
                scores[i] = logit
        return scores


def untrained(folder: Path) -> Path:
    """Save the backbone with a new head to `folder`: what training started from."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(find_embedding(), num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_embedding()).save_pretrained(folder)
    return folder


def area(answerable: Sequence[float], unanswerable: Sequence[float]) -> dict[str, float]:
    """Return the area under the ROC curve of the best scores, with its 95 % interval."""

    def auc(yes: np.ndarray, no: np.ndarray) -> float:
        return roc_auc_score([1] * len(yes) + [0] * len(no), np.concatenate([yes, no]))

    interval = bootstrap(
        (np.asarray(answerable), np.asarray(unanswerable)),
        auc,
        n_resamples=2000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = auc(np.asarray(answerable), np.asarray(unanswerable))
    return {
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "AUC": float(value),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def ranking(
    store, chunks, questions: Sequence[Question], models: dict, embeddings, base_weight: float
) -> dict:
    """Return nDCG@10 of each model over the store's twenty, and the change against vectors."""
    qrels = to_qrels(questions, chunks)
    values = {}
    for name, model in models.items():
        weight = base_weight if name == "cross-encoder" else 0.0
        retrievers = pipelines(store, chunks, model, embeddings, base_weight=weight)
        values.setdefault(
            "vectors", per_question(qrels, to_run(retrievers["base (vectors)"], questions))
        )
        values[name] = per_question(qrels, to_run(retrievers["reranked"], questions))
        if weight:
            values["fused"] = per_question(qrels, to_run(retrievers["fused"], questions))
    values = {name: table["nDCG@10"] for name, table in values.items()}
    rows = {}
    for name, found in values.items():
        rows[name] = {"nDCG@10": float(found.mean())}
        for other in ("vectors", "cross-encoder"):
            if other != name:
                gain, low, high = mean_interval(found - values[other])
                rows[name][f"against {other}"] = [gain, low, high]
    return rows


def first_passages(
    store, chunks, model: BaseCrossEncoder, questions, base_weight: float
) -> list[list[float]]:
    """Return each question's first passage after reranking: its score, and 1 if it is relevant."""
    qrels = to_qrels(questions, chunks)
    relevant = set(qrels[["query_id", "doc_id"]].itertuples(index=False, name=None))
    reranker = ScoringReranker(model=model, top_n=1, base_weight=base_weight)
    retriever, found = SimilarityRetriever(store=store), []
    for question in questions:
        docs = retriever.invoke(question.question)
        [best] = reranker.compress_documents(docs, question.question)
        found.append(
            [best.metadata["relevance_score"], int((question.id, chunk_id(best)) in relevant)]
        )
    return found


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m helpers.measure.reading")
    parser.add_argument("--model", help="a cross-encoder's folder (default: the embedded one)")
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument("--data", type=Path, help="folder with speeches/ and span_qa/")
    parser.add_argument("--questions", type=int, help="only the first so many (a quick look)")
    parser.add_argument("--work", type=Path, default=Path("build/untrained"))
    parser.add_argument("--out", type=Path, default=DATA / "results" / "reading.json")
    arguments = parser.parse_args()

    from langchain_huggingface import HuggingFaceEmbeddings

    profile = load_profile("embedded")
    folder = arguments.model or profile.reranker_model
    embeddings = HuggingFaceEmbeddings(model_name=profile.embedding_model)
    model = LocalCrossEncoder(folder)
    models = {
        "untrained start": LocalCrossEncoder(untrained(arguments.work)),
        "attention closed": ClosedCrossEncoder(folder),
        "chunk + sentence": ChunkAndSentence(embeddings),
        "cross-encoder": model,
    }
    result = {"command": "python -m helpers.measure.reading", "contrast": {}, "ranking": {}}
    scorers: dict[str, Callable] = {
        "few shared words": few_shared_words,
        "vectors": cosines(embeddings),
        "passage alone": passage_alone(model.score),
        "attention closed": models["attention closed"].score,
        "cross-encoder": model.score,
    }
    for split in arguments.splits:
        records = read_contrast(split)[: arguments.questions]
        result["contrast"][split] = {
            name: {
                f"{what}: {kind}": [int(row.n), row.right, row.low, row.high]
                for (what, kind), row in contrast_table(judged(records, score)).iterrows()
            }
            for name, score in scorers.items()
        }
    sets: dict[str, tuple[Path, Path, str | None]] = {
        f"address, {split}": (profile.corpus, profile.judgements, split)
        for split in arguments.splits
    }
    if arguments.data:
        speech = arguments.data / "speeches" / "state_of_the_union_2022.txt"
        sets["speech"] = (speech, DATA / "judgements_state_of_the_union_2022.jsonl", None)
        for name in ("finance", "pubmed"):
            span_qa = arguments.data / "span_qa"
            sets[name] = (span_qa / f"{name}.txt", span_qa / f"{name}.jsonl", None)
    for name, (corpus, judgements, split) in sets.items():
        questions = load_judgements(judgements, corpus.read_text(encoding="utf-8"), split)
        store = build_index(corpus, embeddings, distance_strategy=profile.distance_strategy)
        chunks = split_text(corpus)
        asked = [q for q in questions if q.spans][: arguments.questions]
        if arguments.questions:
            questions = asked + [q for q in questions if not q.spans][: arguments.questions]
        result["ranking"][name] = ranking(
            store, chunks, asked, models, embeddings, profile.base_weight
        )
        first = first_passages(store, chunks, model, questions, profile.base_weight)
        result.setdefault("first passages", {})[name] = first
        without = {
            "all": [q for q in questions if not q.spans],
            "near misses": [q for q in questions if not q.spans and q.kind != "far"],
            "far": [q for q in questions if q.kind == "far"],
        }
        if without["all"]:
            best = {q.id: score for q, (score, _) in zip(questions, first, strict=True)}
            result.setdefault("answerable or not", {})[name] = {
                kind: area([best[q.id] for q in asked], [best[q.id] for q in some])
                for kind, some in without.items()
                if some
            }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
