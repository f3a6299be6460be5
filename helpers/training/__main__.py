"""Train the embedded cross-encoder: question sets and texts come in, a model folder goes out.

    python -m helpers.training --data FOLDER --stage words
    python -m helpers.training --data FOLDER --stage all --start build/training/words/best
    python -m helpers.training --data FOLDER --stage chunks --start build/training/all/best

`FOLDER` holds the files that `data/README.md` names. A run that was stopped goes on from its last
checkpoint when the same command is given again. The model is a `BertForSequenceClassification`
and the loop is sentence-transformers' `CrossEncoderTrainer`.
"""

import argparse
import json
import random
from collections.abc import Iterator
from functools import partial
from itertools import chain, repeat
from operator import call
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from helpers.hardware import auto_precision
from helpers.index import read_text, split_text
from helpers.judgements import chunk_id, load_judgements, read_jsonl, to_qrels
from helpers.profiles import DATA, find_embedding
from helpers.training import lists as make
from helpers.training import read
from helpers.training.dev import DevEvaluator, Sample, candidates
from helpers.training.loss import PairListLoss

# The share of a stage's lists that comes from each source.
SOURCES = ("sentences", "near", "questions", "chunks", "contrast")
STAGES = {
    "words": dict(zip(SOURCES, (0.4, 0.3, 0.15, 0, 0.15), strict=True)),
    "all": dict(zip(SOURCES, (0.11, 0.11, 0.15, 0.28, 0.35), strict=True)),
    "chunks": dict(zip(SOURCES, (0.08, 0.08, 0.13, 0.46, 0.25), strict=True)),
}


def sources(folder: Path, bi_encoder, seed: int) -> dict[str, Iterator[make.List]]:
    """Return an endless stream of lists for each source, all from training documents."""
    draw = random.Random(seed)
    everything = read.read_paragraphs(folder)
    paragraphs = [p for p in everything if not p.dev]
    cut = {s.strip() for p in paragraphs for s in read.SENTENCE_END.split(p.text)}
    asked = draw.sample(_answered_sentences(paragraphs), 12_000)
    others = draw.sample(sorted(s for s in cut if 30 < len(s) < 400), 6_000)
    pool = sorted({answer for _, answer in asked} | set(others))
    vectors = bi_encoder.encode(pool, normalize_embeddings=True)
    questions = bi_encoder.encode([q for q, _ in asked], normalize_embeddings=True)

    def nearest(i: int) -> tuple[np.ndarray, np.ndarray]:
        cosines = vectors @ questions[i]
        ids = np.argpartition(-cosines, 20)[:20]
        ids = ids[np.argsort(-cosines[ids])]
        return ids, cosines[ids]

    taught = _taught(everything)
    facts = [row for row in taught if "SQuAD" in row[0].kind]
    own = {q for p in paragraphs if p.document.startswith(read.OWN) for q, _, _ in p.questions}
    taught = [row for row in taught if "SQuAD" not in row[0].kind] + draw.sample(facts, 1200)
    taught += [row for row in taught if row[0].question in own]  # these count twice
    contrast = read_jsonl(read.CONTRAST, "train")
    starts = {
        "sentences": partial(make.sentence_lists, paragraphs, draw),
        "near": partial(make.near_lists, asked, pool, nearest, draw),
        "questions": partial(make.question_lists, paragraphs, draw),
        "chunks": partial(make.chunk_lists, taught, draw),
        "contrast": partial(make.contrast_lists, contrast, draw),
    }
    # Each starts anew, in another order, when it has come to its end.
    return {name: chain.from_iterable(map(call, repeat(start))) for name, start in starts.items()}


def _answered_sentences(paragraphs: list[read.Paragraph]) -> list[tuple[str, str]]:
    """Return (question, sentence) for every question that one sentence of its paragraph answers."""
    found = []
    for paragraph in paragraphs:
        sentences = paragraph.sentences()
        for question, _, spans in paragraph.questions:
            if len(spans) == 1:
                held = [s for s in sentences if s[0] <= spans[0][0] and spans[0][1] <= s[1]]
                found += [(question, paragraph.text[a:b].strip()) for a, b in held[:1]]
    return found


def _taught(paragraphs: list[read.Paragraph]) -> list[tuple]:
    """Return chunk questions of training with their candidates and the teacher's logits.

    `TEACHER` names questions and chunks by `fingerprint`, so that it holds none of their texts.
    """
    questions, chunks = read.chunk(paragraphs)
    texts = {read.fingerprint(text): text for text in chunks[False]}
    with np.load(read.TEACHER) as kept:
        ends = np.cumsum(kept["candidates"], dtype=int)[:-1]
        split = [np.split(kept[name], ends) for name in ("chunk", "logit")]
        taught = dict(zip(kept["question"].tolist(), zip(*split, strict=True), strict=True))
    found = []
    for q in questions:
        if not q.dev and (known := taught.get(read.fingerprint(q.question))):
            candidates = [texts[name] for name in known[0].tolist()]
            if set(q.positives) & set(candidates):
                found.append((q, candidates, known[1].tolist()))
    return found


def dev_sets(folder: Path, bi_encoder: SentenceTransformer) -> dict[str, list[Sample]]:
    """Return the samples a checkpoint is chosen by: the address's dev half, and dev documents."""
    corpus = DATA / "address.txt"
    chunks = split_text(corpus)
    texts = {chunk_id(c): c.page_content for c in chunks}
    judged = load_judgements(DATA / "judgements.jsonl", read_text(corpus), "dev")
    address: dict[str, dict[str, int]] = {q.question: {} for q in judged if q.spans}
    asked = {q.id: q.question for q in judged}
    for query_id, doc_id, grade in to_qrels(judged, chunks).itertuples(index=False):
        address[asked[query_id]][texts[doc_id]] = grade
    questions, pieces = read.chunk(read.read_paragraphs(folder))
    own = [q for q in questions if q.dev and "SQuAD" not in q.kind]
    own = random.Random(0).sample(own, 150)
    documents = [(q.question, dict.fromkeys(q.positives, 1)) for q in own]
    return {
        "address": candidates(list(address.items()), list(texts.values()), bi_encoder),
        "documents": candidates(documents, pieces[True], bi_encoder),
    }


def mix(streams: dict[str, Iterator[make.List]], shares: dict[str, float], size: int, seed: int):
    """Draw `size` lists from the streams by their shares."""
    draw = random.Random(seed)
    names = draw.choices(list(shares), list(shares.values()), k=size)
    columns = zip(*(next(streams[name]) for name in names), strict=True)
    return Dataset.from_dict(dict(zip(("queries", "documents", "labels"), columns, strict=True)))


def load(folder: str | Path) -> CrossEncoder:
    """Load a backbone or an earlier stage for training: no dropout, word embeddings frozen."""
    # On processors plain attention trains nearly twice as fast as PyTorch's fused one.
    settings = {"num_labels": 1, "model_kwargs": {"attn_implementation": "eager"}}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = CrossEncoder(str(folder), max_length=512, config_kwargs=dropout, **settings)
    model.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return model


def main() -> None:
    """Train one stage and keep its best checkpoint."""
    parser = argparse.ArgumentParser("python -m helpers.training", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the SQuAD-form files")
    parser.add_argument("--stage", choices=list(STAGES), required=True)
    parser.add_argument("--start", type=Path, help="weights to start from (default: the backbone)")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lists", type=int, default=24, help="lists per step")
    parser.add_argument("--learning-rate", type=float, default=1.2e-4)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--constant", action="store_true", help="no decay of the learning rate")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    torch.manual_seed(chosen.seed)
    eager = {"attn_implementation": "eager"}
    bi_encoder = SentenceTransformer(str(find_embedding()), model_kwargs=eager)
    model = load(chosen.start or find_embedding())
    device = model.device.type
    bf16 = auto_precision(device) == "bf16"
    dev = read_jsonl(read.CONTRAST, "dev")
    evaluator = DevEvaluator(dev_sets(chosen.data, bi_encoder), dev, bf16)
    streams, shares = sources(chosen.data, bi_encoder, chosen.seed), STAGES[chosen.stage]
    dataset = mix(streams, shares, chosen.steps * chosen.lists, chosen.seed)
    out = chosen.work / chosen.stage
    settings = {"output_dir": str(out), "max_steps": chosen.steps, "seed": chosen.seed}
    settings |= {"per_device_train_batch_size": chosen.lists, "weight_decay": 0.01}
    settings |= {"learning_rate": chosen.learning_rate}
    settings |= {"warmup_steps": min(100, chosen.steps // 12)}
    settings |= {"lr_scheduler_type": "constant_with_warmup" if chosen.constant else "linear"}
    settings |= {"bf16": bf16, "use_cpu": device == "cpu", "report_to": "none"}
    settings |= {"eval_strategy": "steps", "eval_steps": chosen.evaluate_every}
    settings |= {"save_steps": chosen.evaluate_every, "save_total_limit": 6, "logging_steps": 50}
    settings |= {"metric_for_best_model": f"eval_{evaluator.primary_metric}"}
    settings |= {"load_best_model_at_end": True, "disable_tqdm": True}
    settings = {"args": CrossEncoderTrainingArguments(**settings), "evaluator": evaluator}
    settings |= {"train_dataset": dataset, "loss": PairListLoss(model)}
    trainer = CrossEncoderTrainer(model, **settings)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.is_dir() else None)
    model.save_pretrained(str(out / "best"), create_model_card=False)
    log = {
        "lists": len(dataset),
        "shares": shares,
        "arguments": {k: v for k, v in vars(chosen).items() if not isinstance(v, Path)},
        "best step": trainer.state.best_global_step,
        "log": trainer.state.log_history,
    }
    (out / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
