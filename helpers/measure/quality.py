"""The whole table for a text and a question file: what each part of the pipeline is worth.

python -m helpers.measure.quality                   the embedded corpus, dev questions
python -m helpers.measure.quality --split test      its test questions
python -m helpers.measure.quality --questions my.jsonl --corpus my.txt
python -m helpers.measure.quality --questions xquad.es.json --profile multilingual
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import pandas as pd

from helpers.evaluate import compare, per_question, to_run
from helpers.hardware import choose_dtype
from helpers.index import build_index, read_text, split_text
from helpers.judgements import load_judgements, to_qrels
from helpers.measure.baselines import pipelines
from helpers.measure.command import load_embeddings, one_line, positive, printable, some_ids
from helpers.measure.intervals import questions_needed
from helpers.measure.squad import lay_out
from helpers.profiles import load_profile
from helpers.score import LocalCrossEncoder


def main() -> None:
    """Print the table of metrics for a text and its judged questions."""
    parser = argparse.ArgumentParser("python -m helpers.measure.quality", description=main.__doc__)
    parser.add_argument("--profile", help="embedded (the default), page or multilingual")
    parser.add_argument("--questions", type=Path, help="judged questions, JSONL, or SQuAD's JSON")
    parser.add_argument(
        "--corpus", type=Path, help="the text that the questions in JSONL are about"
    )
    parser.add_argument("--split", help="dev (the default for the embedded questions) or test")
    parser.add_argument("-k", type=positive, default=20, help="candidates to rerank")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or auto")
    parser.add_argument("--within", type=float, default=0.03, help="how sure you want to be")
    arguments = parser.parse_args()
    alone = arguments.questions is not None and arguments.corpus is None
    squad = alone and arguments.questions.suffix.lower() == ".json"
    if squad and arguments.split:
        parser.error("a file in SQuAD's form has no splits: expected no --split")
    if not squad and (arguments.questions is None) != (arguments.corpus is None):
        parser.error(
            "--questions and --corpus go together: the spans point into that text (only a .json in "
            "SQuAD's form has its own)"
        )
    with tempfile.TemporaryDirectory() as folder:
        measure(parser, arguments, Path(folder) if squad else None)


def measure(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, folder: Path | None
) -> None:
    """Print the table; a file in SQuAD's form is laid out in `folder`."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with one_line(parser):
        if not arguments.within > 0:
            raise ValueError(f"--within is {arguments.within}: expected more than 0, as 0.03")
        profile = load_profile(arguments.profile)
        choose_dtype(arguments.precision)  # now, not after the index
        corpus, file, split = arguments.corpus, arguments.questions, arguments.split
        if file is None:
            corpus, file, split = profile.corpus, profile.judgements, split or "dev"
        name = file.name
        if folder:
            corpus, file = lay_out(file, folder)
        questions = load_judgements(file, read_text(corpus), split)
        chunks = split_text(corpus)
        with warnings.catch_warnings(action="ignore"):  # what it warns of is printed below
            qrels = to_qrels(questions, chunks)
        judged = set(qrels["query_id"])
        measured = [question for question in questions if question.id in judged]
        left = [question for question in questions if question.id not in judged]
        reasons = {
            "the text does not answer them (no spans)": [q.id for q in left if not q.spans],
            "no chunk holds their spans": [q.id for q in left if q.spans],
        }
        said = [f"{why}: {some_ids(ids)}" for why, ids in reasons.items() if ids]
        if not measured:
            raise ValueError(f"{name}: no question can be measured: " + "; ".join(said))

    embeddings = load_embeddings(profile)
    store = build_index(corpus, embeddings, distance_strategy=profile.distance_strategy)
    cross_encoder = LocalCrossEncoder(profile.reranker_model, precision=arguments.precision)
    retrievers = pipelines(
        store, chunks, cross_encoder, embeddings, arguments.k, profile.base_weight
    )
    runs = {name: to_run(retriever, measured) for name, retriever in retrievers.items()}
    counts = pd.Series([q.kind or "all" for q in measured]).value_counts().sort_index()
    print(f"\n{name}, {split or 'all'} questions, nDCG@10")
    print(f"candidates: the top {arguments.k} of {len(chunks)} chunks")
    print("questions: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
    print("".join(f"not measured, {line}\n" for line in said))
    print(printable(compare(qrels, runs, questions=measured)).to_string())
    if len(measured) < 30:
        print(f"\n{len(measured)} questions: with thirty this would say how many you need")
        return
    base = per_question(qrels, runs["base (vectors)"])["nDCG@10"]
    print(f"\nquestions that an interval of +-{arguments.within:g} needs, by the spread of these:")
    for name in [n for n in runs if n not in ("base (vectors)", "BM25")]:
        differences = per_question(qrels, runs[name])["nDCG@10"] - base
        print(f"{name:16} {questions_needed(differences, arguments.within):5}")


if __name__ == "__main__":
    main()
