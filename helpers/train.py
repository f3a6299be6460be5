"""Train the embedded cross-encoder: judged questions and texts come in, a model folder goes out.

    python -m helpers.train --data PATH --out build/reranker

`PATH` holds SQuAD v1.1 dev and SQuADShifts in SQuAD's JSON form (`data/README.md` names the files).
Every step uses sentence-transformers' own pieces: `mine_hard_negatives`, `CrossEncoderTrainer`, its
listwise losses, and `CrossEncoderRerankingEvaluator` on documents that are not trained on.
"""

import argparse
import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from langchain_text_splitters import RecursiveCharacterTextSplitter
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
)
from sentence_transformers.cross_encoder import losses
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.util import mine_hard_negatives
from torch.nn.functional import normalize
from transformers.trainer_utils import get_last_checkpoint

from helpers.evaluate import chunk_id, load_judgements, to_qrels
from helpers.index import split_text
from helpers.interaction_bert import from_bi_encoder
from helpers.profiles import DATA, EMBEDDED_EMBEDDING_SHA256, find_embedding
from helpers.score import choose_dtype

FILES = {
    "squad": "squad_dev_v1.1.json",
    "new_wiki": "squadshifts_new_wiki.json",
    "reddit": "squadshifts_reddit.json",
    "amazon": "squadshifts_amazon_reviews.json",
}
# Losses that take (question, passages, labels): labels are target logits for ListNet, 1 and 0 else.
LOSSES = {
    "listnet": losses.ListNetLoss,
    "lambda": losses.LambdaLoss,
    "ranknet": losses.RankNetLoss,
}
DEV_SHARE = 7  # every seventh document is kept for dev


@dataclass(frozen=True)
class Example:
    """A question, the chunks that answer it, and where it comes from."""

    question: str
    positives: tuple[str, ...]
    kind: str
    dev: bool


def read_examples(folder: Path, own_questions: Path) -> tuple[list[Example], list[str], list[str]]:
    """Read questions over SQuAD-form files, chunked as the tutorial chunks (500/100).

    Args:
        folder: Holds `FILES`.
        own_questions: `data/training_questions.jsonl`: questions of more kinds over the same texts.

    Returns:
        The examples, the chunks of the training documents, and the chunks of the dev documents. A
        document, its chunks and its questions are in training or in dev, never in both.
    """
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=500, chunk_overlap=100, add_start_index=True
    )
    own: dict[str, list[dict]] = {}
    for line in own_questions.read_text(encoding="utf-8").rstrip().split("\n"):
        fields = json.loads(line)
        own.setdefault(fields["answers"][0][0], []).append(fields)
    examples, chunks = [], {True: [], False: []}
    for name, file in FILES.items():
        articles = json.loads((folder / file).read_text(encoding="utf-8"))["data"]
        for article in articles:
            paragraphs = article["paragraphs"]
            # A file of forum posts is one article of texts that have nothing to do with each other.
            documents = [[p] for p in paragraphs] if name == "reddit" else [paragraphs]
            for document in documents:
                text = "\n\n".join(paragraph["context"] for paragraph in document)
                key = _digest(document[0]["context"] if name == "reddit" else article["title"])
                dev = int(key, 16) % DEV_SHARE == 0
                pieces = splitter.create_documents([text])
                chunks[dev] += [piece.page_content for piece in pieces]
                offsets, names = [0], []
                for paragraph in document:
                    offsets.append(offsets[-1] + len(paragraph["context"]) + 2)
                    names.append(_digest(paragraph["context"])[:10])
                starts = dict(zip(names, offsets, strict=False))
                asked = []
                for paragraph, name_of, offset in zip(document, names, offsets, strict=False):
                    for q in paragraph["qas"]:
                        for answer in q["answers"][:1]:
                            left = offset + answer["answer_start"]
                            spans = [(left, left + len(answer["text"]))]
                            asked.append((q["question"].strip(), "fact, SQuAD", spans))
                    for q in own.get(name_of, []):
                        spans = [
                            (starts[where] + left, starts[where] + right)
                            for where, left, right in q["answers"]
                        ]
                        asked.append((q["question"], q["kind"], spans))
                for question, kind, spans in asked:
                    positives = tuple(
                        piece.page_content
                        for piece in pieces
                        if any(_holds(piece, left, right) for left, right in spans)
                    )
                    if positives:
                        examples.append(Example(question, positives, kind, dev))
    return examples, chunks[False], chunks[True]


def read_judged(corpus: Path, judgements: Path, split: str) -> tuple[list[Example], list[str]]:
    """Read judged questions about a text, those that it does not answer too.

    Returns:
        The examples, whose positives are the chunks of grade 1 or 2, and all chunks.
    """
    chunks = split_text(corpus)
    texts = {chunk_id(chunk): chunk.page_content for chunk in chunks}
    text = corpus.read_text(encoding="utf-8")
    examples = []
    for question in load_judgements(judgements, text, split):
        relevant = to_qrels([question], chunks)["doc_id"]
        positives = tuple(texts[doc] for doc in relevant)
        examples.append(Example(question.question, positives, question.kind, dev=True))
    return examples, list(texts.values())


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def _holds(piece, left: int, right: int) -> bool:
    start = piece.metadata["start_index"]
    return 2 * (min(right, start + len(piece.page_content)) - max(left, start)) >= right - left


def mine_lists(
    examples: list[Example],
    corpus: list[str],
    bi_encoder: SentenceTransformer,
    *,
    negatives: int = 6,
    margin: float = 0.1,
    cache_folder: str | None = None,
) -> Dataset:
    """Give each example `negatives` passages that look right and are not.

    The columns are query, docs (the positive first) and labels (1 and 0).

    The negatives are drawn from the 40 chunks nearest to the question, those of the positive's own
    document among them. A chunk that is nearer than the positive by more than `margin` (cosine) is
    left out: it may answer the question too, without being labelled. One passage drawn at random
    from all of `corpus` comes last, so the easy case is not forgotten.
    """
    draw = random.Random(0)
    pairs = [(e.question, draw.choice(e.positives)) for e in examples]
    random.seed(0)  # mine_hard_negatives draws from Python's own generator
    mined = mine_hard_negatives(
        Dataset.from_dict({"query": [p[0] for p in pairs], "positive": [p[1] for p in pairs]}),
        bi_encoder,
        corpus=corpus,
        range_max=40,
        absolute_margin=-margin,
        num_negatives=negatives - 1,
        sampling_strategy="random",
        output_format="n-tuple",
        cache_folder=cache_folder,
        verbose=False,
    )
    others = {e.question: set(e.positives) for e in examples}
    rows = {"query": [], "docs": [], "labels": []}
    for row in mined:
        docs = [row["positive"]]
        docs += [row[c] for c in mined.column_names[2:] if row[c] not in others[row["query"]]]
        docs.append(draw.choice(corpus))
        rows["query"].append(row["query"])
        rows["docs"].append(docs)
        rows["labels"].append([1.0] + [0.0] * (len(docs) - 1))
    return Dataset.from_dict(rows)


def soften(lists: Dataset, bi_encoder: SentenceTransformer, share: float, temperature: float):
    """Replace 0/1 labels by target logits: the label mixed with the untrained model's view.

    The untrained model is MaxSim plus a quarter of the cosine over the bi-encoder's own token
    vectors (`helpers.interaction_bert` starts there). Its share of the target keeps what it knows
    of paraphrase, and gives unlabelled answers among the negatives their due.
    """
    texts = sorted({*lists["query"], *(doc for docs in lists["docs"] for doc in docs)}, key=len)
    vectors = {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_has_bfloat16()):
        for start in range(0, len(texts), 512):
            batch = texts[start : start + 512]
            tokens = bi_encoder.encode(
                batch, output_value="token_embeddings", batch_size=64, convert_to_numpy=False
            )
            for text, matrix in zip(batch, tokens, strict=True):
                matrix = matrix.float()
                mean = normalize(matrix.mean(0), dim=0)
                vectors[text] = normalize(matrix, dim=1).half(), mean

    def target(row: dict) -> dict:
        question, mean = vectors[row["query"]]
        views = torch.stack(
            [
                (question.float() @ vectors[doc][0].float().T).max(1).values.mean()
                + 0.25 * mean @ vectors[doc][1]
                for doc in row["docs"]
            ]
        )
        labels = torch.tensor(row["labels"])
        mixed = share * torch.softmax(views / temperature, 0) + (1 - share) * labels / labels.sum()
        return {"labels": (mixed + 1e-6).log().tolist()}

    return lists.map(target, desc="Targets")


def dev_evaluator(
    examples: list[Example], corpus: list[str], bi_encoder: SentenceTransformer, k: int = 20
) -> CrossEncoderRerankingEvaluator:
    """Rerank the bi-encoder's `k` nearest chunks of each dev question; nDCG@10 is what counts."""
    passages = bi_encoder.encode(corpus, normalize_embeddings=True, convert_to_tensor=True)
    questions = bi_encoder.encode(
        [e.question for e in examples], normalize_embeddings=True, convert_to_tensor=True
    )
    nearest = (questions @ passages.T).topk(k).indices.tolist()
    samples = [
        {"query": e.question, "positive": list(e.positives), "documents": [corpus[i] for i in ids]}
        for e, ids in zip(examples, nearest, strict=True)
    ]
    return CrossEncoderRerankingEvaluator(
        samples, always_rerank_positives=False, name="dev", write_csv=False
    )


def fit(
    model: CrossEncoder,
    lists: Dataset,
    out: str | Path,
    *,
    steps: int,
    evaluator: CrossEncoderRerankingEvaluator | None = None,
    evaluate_every: int = 50,
    loss: str = "listnet",
    learning_rate: float = 5e-5,
    questions_per_step: int = 16,
    seed: int = 0,
) -> list[dict]:
    """Train `model` in place and return the trainer's log (losses and dev metrics by step).

    With an evaluator, the checkpoint that is best on dev is the one kept. A run that was killed
    goes on from its last checkpoint in `out` when it is started again.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # a few hundred steps do not overfit, and dropout costs time
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=questions_per_step,
        learning_rate=learning_rate,
        # The few numbers on top start at their final scale and have further to go.
        learning_rate_mapping={r"open_bias|token_weight|joint|cosine_weight": 20 * learning_rate},
        warmup_steps=max(1, steps // 12),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        bf16=_has_bfloat16(),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if evaluator else "no",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=evaluator is not None,
        metric_for_best_model="eval_dev_ndcg@10" if evaluator else None,
        logging_steps=min(10, evaluate_every),
        seed=seed,
        report_to="none",
    )
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=lists,
        loss=LOSSES[loss](model, mini_batch_size=32),
        evaluator=evaluator,
    )
    checkpoint = get_last_checkpoint(str(out)) if Path(out).is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer.state.log_history


def _has_bfloat16() -> bool:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return choose_dtype("auto", device) is torch.bfloat16


def calibrate(
    model: CrossEncoder, evaluator: CrossEncoderRerankingEvaluator
) -> tuple[float, float]:
    """Set the model's scale and shift so that its score is the chance that a passage is relevant.

    Platt scaling (Platt, 1999): the two numbers that minimise the log loss over the candidates of
    `evaluator`'s questions, written into the weights, so that whoever loads the model gets the same
    score.

    Returns:
        The factor and the offset that were applied to the logit.
    """
    from sklearn.linear_model import LogisticRegression

    pairs, labels = [], []
    for sample in evaluator.samples:
        for document in sample["documents"]:
            pairs.append((sample["query"], document))
            labels.append(document in sample["positive"])
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    fitted = LogisticRegression(C=np.inf).fit(np.asarray(logits)[:, None], labels)
    factor, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    model.model.rescale(factor, offset)
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
    record = record | {
        "sha256": {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
        }
    }
    (folder / "revision.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train the embedded cross-encoder and save it with its card and its log."""
    parser = argparse.ArgumentParser(prog="python -m helpers.train", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the SQuAD-form files")
    parser.add_argument("--out", type=Path, default=Path("build/reranker"))
    parser.add_argument("--work", type=Path, default=Path("build/training"), help="checkpoints")
    parser.add_argument("--loss", choices=sorted(LOSSES), default="listnet")
    parser.add_argument(
        "--share", type=float, default=0.3, help="of the target from the start model"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--squad", type=int, default=1500, help="SQuAD questions beside our own")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    own_questions = DATA / "training_questions.jsonl"
    bi_encoder = SentenceTransformer(str(find_embedding()))
    examples, corpus, dev_corpus = read_examples(arguments.data, own_questions)
    draw = random.Random(arguments.seed)
    own = [e for e in examples if "SQuAD" not in e.kind]
    squad = [e for e in examples if "SQuAD" in e.kind and not e.dev]
    sampled = draw.sample(squad, arguments.squad)
    chosen = [e for e in own if not e.dev] + sampled
    draw.shuffle(chosen)
    dev = draw.sample([e for e in own if e.dev], 150)
    print(f"{len(chosen)} training questions over {len(corpus)} chunks, {len(dev)} dev questions")

    lists = mine_lists(chosen, corpus, bi_encoder, cache_folder=str(arguments.work / "mined"))
    if arguments.loss == "listnet" and arguments.share:
        lists = soften(lists, bi_encoder, arguments.share, temperature=0.04)
    evaluator = dev_evaluator(dev, dev_corpus, bi_encoder)
    model = from_bi_encoder(find_embedding(), arguments.work / "start")
    before = evaluator(model)["dev_ndcg@10"]
    log = fit(
        model,
        lists,
        arguments.work / "checkpoints",
        steps=arguments.steps,
        evaluator=evaluator,
        evaluate_every=min(100, arguments.steps),
        loss=arguments.loss,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    after = evaluator(model)["dev_ndcg@10"]
    # The address is judged completely, the training texts are not: chances are fitted to it.
    address = read_judged(DATA / "address.txt", DATA / "judgements.jsonl", "dev")
    factor, offset = calibrate(model, dev_evaluator(*address, bi_encoder))
    record = {
        "base": f"all-MiniLM-L6-v2, sha256 {EMBEDDED_EMBEDDING_SHA256}",
        "data": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (*(arguments.data / file for file in FILES.values()), own_questions)
        },
        "questions": {"own": len(chosen) - len(sampled), "SQuAD": len(sampled), "dev": len(dev)},
        "arguments": {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)},
        "dev nDCG@10": {"start": round(before, 4), "trained": round(after, 4)},
        "calibration": {"factor": round(factor, 4), "offset": round(offset, 4)},
        "log": log,
    }
    save(model, arguments.out, (DATA / "model_card.md").read_text(encoding="utf-8"), record)
    print(f"dev nDCG@10: {before:.3f} start, {after:.3f} trained")
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
