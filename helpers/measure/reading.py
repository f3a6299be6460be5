"""Does the cross-encoder read both texts? `python -m helpers.measure.reading`.

The model, the judged questions and the contrast questions come in; `data/results/reading.json` goes
out, which notebooks 04 and 05 show: contrast pairs beside controls, ranking with the attention
between the two texts closed, ranking before training, and whether the best score tells questions
that the text answers from those that it does not.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from langchain_classic.retrievers import ContextualCompressionRetriever
from scipy.stats import bootstrap
from sentence_transformers import CrossEncoder
from sklearn.metrics import roc_auc_score

from helpers.evaluate import compare, to_run
from helpers.index import SimilarityRetriever, build_index, read_text, split_text
from helpers.judgements import chunk_id, load_judgements, read_jsonl, to_qrels
from helpers.measure import contrast
from helpers.measure.baselines import ChunkAndSentence, Remembering
from helpers.measure.command import one_line, positive, write
from helpers.profiles import DATA, find_embedding, load_profile
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder

# Within --data, but for the speech's judgements.
SETS = {name: (f"span_qa/{name}.txt", f"span_qa/{name}.jsonl") for name in ("finance", "pubmed")}
SPEECH = "state_of_the_union_2022"
SETS = {"speech": (f"speeches/{SPEECH}.txt", DATA / f"judgements_{SPEECH}.jsonl")} | SETS


class ClosedCrossEncoder(LocalCrossEncoder):
    """The same weights with the attention between question and passage closed.

    The tokens of each text attend to their own text alone; [CLS], from which the score is read,
    attends to both. What it then knows is what two texts say that were read apart.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.client.model.base_model.register_forward_pre_hook(_close, with_kwargs=True)


def _close(_, args: tuple, features: dict) -> tuple[tuple, dict]:
    real, second = features["attention_mask"].bool(), features["token_type_ids"].bool()
    same = second[:, :, None] == second[:, None, :]
    same[:, :, 0] = False  # nobody sees [CLS] but itself: it would be a bridge
    same[:, 0, :] = True
    visible = (same & real[:, None, :])[:, None]
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
    return args, features | {"attention_mask": mask}


def untrained() -> LocalCrossEncoder:
    """Return what training started from: the backbone with a new head."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        start = CrossEncoder(str(find_embedding()), num_labels=1, device="cpu")
        start.save_pretrained(folder, create_model_card=False)
        return LocalCrossEncoder(folder)


def area(answerable: Sequence[float], unanswerable: Sequence[float]) -> dict[str, float]:
    """Return the area under the ROC curve of the best scores, with its 95 % interval."""

    def auc(yes: np.ndarray, no: np.ndarray) -> float:
        return roc_auc_score([1] * len(yes) + [0] * len(no), np.concatenate([yes, no]))

    both = np.asarray(answerable), np.asarray(unanswerable)
    settings = {"n_resamples": 2000, "vectorized": False, "method": "percentile"}
    interval = bootstrap(both, auc, rng=np.random.default_rng(0), **settings).confidence_interval
    sizes = {"answerable": len(answerable), "unanswerable": len(unanswerable)}
    return sizes | {"AUC": float(auc(*both)), "low": interval.low, "high": interval.high}


def ranking(base: SimilarityRetriever, qrels, questions, rerankers: dict) -> dict[str, dict]:
    """Return nDCG@10 of each reranker over the base's twenty, and the change against others."""
    runs = {"vectors": to_run(base, questions)}
    for name, reranker in rerankers.items():
        both = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=base)
        runs[name] = to_run(both, questions)
    rows: dict[str, dict] = {}
    for other in ("vectors", "cross-encoder"):
        for name, row in compare(qrels, runs, base=other).drop(index="oracle").iterrows():
            found = rows.setdefault(name, {"nDCG@10": row["nDCG@10"]})
            if name != other:
                found[f"against {other}"] = row[["gain", "low", "high"]].tolist()
    return rows


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser("python -m helpers.measure.reading", description=main.__doc__)
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument("--data", type=Path, help="folder with speeches/ and span_qa/")
    parser.add_argument("--questions", type=positive, help="only the first so many (a quick look)")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "reading.json")
    arguments = parser.parse_args()
    count, splits = arguments.questions, arguments.splits

    from langchain_huggingface import HuggingFaceEmbeddings

    with one_line(parser):
        profile = load_profile("embedded")
        address = (profile.corpus, profile.judgements)
        sets = {f"address, {split}": (*address, split) for split in splits}
        if arguments.data:
            sets |= {name: (*(arguments.data / f for f in SETS[name]), None) for name in SETS}
        asked = {
            n: load_judgements(file, read_text(text), s) for n, (text, file, s) in sets.items()
        }
    embeddings = HuggingFaceEmbeddings(
        model_name=profile.embedding_model, **profile.embedding_settings
    )
    model = Remembering(LocalCrossEncoder(profile.reranker_model))
    closed = ClosedCrossEncoder(profile.reranker_model)
    models = {"untrained start": untrained(), "attention closed": closed}
    models |= {"chunk + sentence": ChunkAndSentence(embeddings), "cross-encoder": model}
    scorers = {"few shared words": contrast.few_shared_words}
    scorers |= {"vectors": contrast.cosines(embeddings)}
    scorers |= {"passage alone": contrast.passage_alone(model.score)}
    scorers |= {"attention closed": closed.score, "cross-encoder": model.score}
    rerankers = {name: ScoringReranker(model=scorer) for name, scorer in models.items()}
    fused = ScoringReranker(model=model, base_weight=profile.base_weight)
    result = {"command": "python -m helpers.measure.reading", "contrast": {s: {} for s in splits}}
    result |= {"ranking": {}, "first passages": {}, "answerable or not": {}}
    for split, measured in result["contrast"].items():
        records = read_jsonl(contrast.CONTRAST, split)[:count]
        for name, score in scorers.items():
            rows = contrast.contrast_table(contrast.judged(records, score)).iterrows()
            measured[name] = {": ".join(i): [int(r.n), r.right, r.low, r.high] for i, r in rows}
    for name, questions in asked.items():
        corpus = sets[name][0]
        base = SimilarityRetriever(store=build_index(corpus, embeddings, show_progress=False))
        answered = [q for q in questions if q.spans][:count]
        idle = [q for q in questions if not q.spans][:count]
        qrels = to_qrels(answered, split_text(corpus))
        relevant = set(qrels[["query_id", "doc_id"]].itertuples(index=False, name=None))
        result["ranking"][name] = ranking(base, qrels, answered, rerankers | {"fused": fused})
        first = {}
        for q in (answered + idle) if count else questions:
            [best, *_] = fused.compress_documents(base.invoke(q.question), q.question)
            first[q.id] = [
                best.metadata["relevance_score"],
                int((q.id, chunk_id(best)) in relevant),
            ]
        result["first passages"][name] = list(first.values())
        kinds = {"all": idle, "near misses": [q for q in idle if q.kind != "far"]}
        for kind, some in (kinds | {"far": [q for q in idle if q.kind == "far"]}).items():
            if some:
                areas = result["answerable or not"].setdefault(name, {})
                areas[kind] = area(*([first[q.id][0] for q in side] for side in (answered, some)))
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 4))
    write(arguments.out, rounded)


if __name__ == "__main__":
    main()
