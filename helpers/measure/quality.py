"""The whole table for a text and a question file: what each part of the pipeline is worth.

python -m helpers.measure.quality                                   the embedded corpus, dev questions
python -m helpers.measure.quality --split test                      its test questions
python -m helpers.measure.quality --questions my.jsonl --corpus my.txt   your own
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd

from helpers.baselines import pipelines
from helpers.evaluate import compare, load_judgements, to_qrels, to_run
from helpers.index import build_index, split_text
from helpers.profiles import ProfileError, load_profile
from helpers.score import LocalCrossEncoder


def main() -> None:
    """Print the table of metrics for a text and its judged questions."""
    parser = argparse.ArgumentParser(prog="python -m helpers.measure.quality", description=main.__doc__)
    parser.add_argument("--profile", help="embedded (the default) or hub")
    parser.add_argument("--questions", type=Path, help="judged questions, JSONL")
    parser.add_argument("--corpus", type=Path, help="the text that the questions are about")
    parser.add_argument("--split", help="dev (the default for the embedded questions) or test")
    parser.add_argument("-k", type=int, default=20, help="candidates to rerank")
    arguments = parser.parse_args()
    if (arguments.questions is None) != (arguments.corpus is None):
        parser.error("--questions and --corpus go together: the spans point into that text")

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from langchain_huggingface import HuggingFaceEmbeddings


    try:
        profile = load_profile(arguments.profile)
        corpus, file, split = arguments.corpus, arguments.questions, arguments.split
        if file is None:
            corpus, file, split = profile.corpus, profile.judgements, split or "dev"
        questions = load_judgements(file, corpus.read_text(encoding="utf-8"), split)
        chunks = split_text(corpus)
    except (ProfileError, ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")

    embeddings = HuggingFaceEmbeddings(model_name=profile.embedding_model)
    store = build_index(corpus, embeddings, distance_strategy=profile.distance_strategy)
    cross_encoder = LocalCrossEncoder(profile.reranker_model)
    answered = [question for question in questions if question.spans]
    runs = {
        name: to_run(retriever, answered)
        for name, retriever in pipelines(
            store, chunks, cross_encoder, embeddings, arguments.k, profile.base_weight
        ).items()
    }
    counts = pd.Series([q.kind or "all" for q in answered]).value_counts().sort_index()
    print(f"\n{file.name}, {split or 'all'} questions, nDCG@10")
    print(f"candidates: the top {arguments.k} of {len(chunks)} chunks")
    print("questions: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()) + "\n")
    print(compare(to_qrels(answered, chunks), runs, questions=answered).round(3).to_string())


if __name__ == "__main__":
    main()
