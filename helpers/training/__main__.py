"""Train the embedded cross-encoder: question sets and texts come in, a model folder goes out.

    python -m helpers.training --data FOLDER --stage words
    python -m helpers.training --data FOLDER --stage all --start build/training/words/best

`FOLDER` holds the files that `data/README.md` names. A run that was stopped goes on from its last
checkpoint when the same command is given again. The model is a `BertForSequenceClassification`
and the loop is sentence-transformers' `CrossEncoderTrainer`.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
)
from transformers.trainer_utils import get_last_checkpoint

from helpers.evaluate import chunk_id, load_judgements, to_qrels
from helpers.index import split_text
from helpers.profiles import DATA, find_embedding
from helpers.score import auto_precision
from helpers.training import lists as make
from helpers.training.dev import DevEvaluator, Sample, candidates
from helpers.training.loss import PairListLoss
from helpers.training.read import (
    OWN,
    SENTENCE_END,
    TEACHER,
    Paragraph,
    chunk,
    fingerprint,
    read_contrast,
    read_paragraphs,
)

# The share of a stage's lists that comes from each source.
STAGES = {
    "words": {"sentences": 0.4, "near": 0.3, "questions": 0.15, "contrast": 0.15},
    "all": {"sentences": 0.11, "near": 0.11, "questions": 0.15, "chunks": 0.28, "contrast": 0.35},
    "chunks": {
        "sentences": 0.08,
        "near": 0.08,
        "questions": 0.13,
        "chunks": 0.46,
        "contrast": 0.25,
    },
}


def sources(
    folder: Path, bi_encoder: SentenceTransformer, seed: int
) -> dict[str, Iterator[make.List]]:
    """Return an endless stream of lists for each source, all from training documents."""
    draw = random.Random(seed)
    everything = read_paragraphs(folder)
    paragraphs = [p for p in everything if not p.dev]
    asked = draw.sample(_answered_sentences(paragraphs), 12_000)
    pool = sorted({a for _, a in asked} | set(draw.sample(_all_sentences(paragraphs), 6_000)))
    vectors = bi_encoder.encode(pool, normalize_embeddings=True)
    questions = bi_encoder.encode([q for q, _ in asked], normalize_embeddings=True)

    def nearest(i: int) -> tuple[np.ndarray, np.ndarray]:
        cosines = vectors @ questions[i]
        ids = np.argpartition(-cosines, 20)[:20]
        ids = ids[np.argsort(-cosines[ids])]
        return ids, cosines[ids]

    taught = _taught(everything)
    facts = [row for row in taught if "SQuAD" in row[0].kind]
    own = {q for p in paragraphs if p.document.startswith(OWN) for q, _, _ in p.questions}
    taught = [row for row in taught if "SQuAD" not in row[0].kind] + draw.sample(facts, 1200)
    taught += [row for row in taught if row[0].question in own]  # these count twice
    contrast = read_contrast("train")
    return {
        "sentences": _forever(lambda: make.sentence_lists(paragraphs, draw)),
        "near": _forever(lambda: make.near_lists(asked, pool, nearest, draw)),
        "questions": _forever(lambda: make.question_lists(paragraphs, draw)),
        "chunks": _forever(lambda: make.chunk_lists(taught, draw)),
        "contrast": _forever(lambda: make.contrast_lists(contrast, draw)),
    }


def _forever(start) -> Iterator[make.List]:
    return itertools.chain.from_iterable(start() for _ in itertools.count())


def _all_sentences(paragraphs: list[Paragraph]) -> list[str]:
    found = {s.strip() for p in paragraphs for s in SENTENCE_END.split(p.text)}
    return sorted(s for s in found if 30 < len(s) < 400)


def _answered_sentences(paragraphs: list[Paragraph]) -> list[tuple[str, str]]:
    """Return (question, sentence) for every question that one sentence of its paragraph answers."""
    found = []
    for paragraph in paragraphs:
        sentences = paragraph.sentences()
        for question, _, spans in paragraph.questions:
            if len(spans) == 1:
                held = [s for s in sentences if s[0] <= spans[0][0] and spans[0][1] <= s[1]]
                found += [(question, paragraph.text[a:b].strip()) for a, b in held[:1]]
    return found


def _taught(paragraphs: list[Paragraph]) -> list[tuple]:
    """Return chunk questions of training with their candidates and the teacher's logits.

    `TEACHER` names questions and chunks by `fingerprint`, so that it holds none of their texts.
    """
    questions, chunks = chunk(paragraphs)
    texts = {fingerprint(text): text for text in chunks[False]}
    with np.load(TEACHER) as kept:
        ends = np.cumsum(kept["candidates"], dtype=int)[:-1]
        names, logits = np.split(kept["chunk"], ends), np.split(kept["logit"], ends)
        known = {
            int(question): ([texts[int(n)] for n in name], logit.astype(float).tolist())
            for question, name, logit in zip(kept["question"], names, logits, strict=True)
        }
    found = [(q, *known.get(fingerprint(q.question), ((), ()))) for q in questions if not q.dev]
    return [row for row in found if set(row[0].positives) & set(row[1])]


def dev_sets(folder: Path, bi_encoder: SentenceTransformer) -> dict[str, list[Sample]]:
    """Return the samples a checkpoint is chosen by: the address's dev half, and dev documents."""
    corpus = DATA / "address.txt"
    chunks = split_text(corpus)
    texts = {chunk_id(c): c.page_content for c in chunks}
    judged = load_judgements(DATA / "judgements.jsonl", corpus.read_text(encoding="utf-8"), "dev")
    judged = [q for q in judged if q.spans]
    qrels = to_qrels(judged, chunks)
    graded = [
        {texts[row.doc_id]: row.relevance for row in qrels[qrels.query_id == q.id].itertuples()}
        for q in judged
    ]
    asked, pieces = chunk(read_paragraphs(folder))
    own = [q for q in asked if q.dev and "SQuAD" not in q.kind]
    own = random.Random(0).sample(own, 150)
    return {
        "address": candidates(
            [q.question for q in judged], graded, list(texts.values()), bi_encoder
        ),
        "documents": candidates(
            [q.question for q in own],
            [dict.fromkeys(q.positives, 1) for q in own],
            pieces[True],
            bi_encoder,
        ),
    }


def mix(streams: dict[str, Iterator[make.List]], shares: dict[str, float], size: int, seed: int):
    """Draw `size` lists from the streams by their shares."""
    draw = random.Random(seed)
    names = draw.choices(list(shares), list(shares.values()), k=size)
    rows = [next(streams[name]) for name in names]
    queries, documents, labels = (list(column) for column in zip(*rows, strict=True))
    return Dataset.from_dict({"queries": queries, "documents": documents, "labels": labels})


def load(folder: str | Path) -> CrossEncoder:
    """Load a backbone or an earlier stage for training: no dropout, word embeddings frozen."""
    model = CrossEncoder(
        str(folder),
        num_labels=1,
        max_length=512,
        # On processors plain attention trains nearly twice as fast as PyTorch's fused one.
        model_kwargs={"attn_implementation": "eager"},
        config_kwargs={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    )
    model.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return model


def main() -> None:
    """Train one stage and keep its best checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m helpers.training", description=main.__doc__)
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
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    bf16 = auto_precision("cuda" if torch.cuda.is_available() else "cpu") == "bf16"
    bi_encoder = SentenceTransformer(
        str(find_embedding()), model_kwargs={"attn_implementation": "eager"}
    )
    evaluator = DevEvaluator(dev_sets(arguments.data, bi_encoder), read_contrast("dev"), bf16)
    streams = sources(arguments.data, bi_encoder, arguments.seed)
    dataset = mix(
        streams, STAGES[arguments.stage], arguments.steps * arguments.lists, arguments.seed
    )
    model = load(arguments.start or find_embedding())
    out = arguments.work / arguments.stage
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=str(out),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.lists,
            learning_rate=arguments.learning_rate,
            warmup_steps=min(100, arguments.steps // 12),
            lr_scheduler_type="constant_with_warmup" if arguments.constant else "linear",
            weight_decay=0.01,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            eval_strategy="steps",
            eval_steps=arguments.evaluate_every,
            save_strategy="steps",
            save_steps=arguments.evaluate_every,
            save_total_limit=6,
            load_best_model_at_end=True,
            metric_for_best_model="eval_" + evaluator.primary_metric,
            greater_is_better=True,
            logging_steps=50,
            seed=arguments.seed,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        loss=PairListLoss(model),
        evaluator=evaluator,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.is_dir() else None)
    model.save_pretrained(str(out / "best"), create_model_card=False)
    settings = {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)}
    log = {
        "lists": len(dataset),
        "shares": STAGES[arguments.stage],
        "arguments": settings,
        "best step": trainer.state.best_global_step,
        "log": trainer.state.log_history,
    }
    (out / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
