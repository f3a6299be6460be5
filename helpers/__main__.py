"""Ask one question on the command line: `python -m helpers "What is the plan for the economy?"`."""

import argparse
import os
import warnings

QUESTION = "What is the plan for the economy?"


def main() -> None:
    """Print the passages that vector search finds and the ones the cross-encoder puts on top."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=main.__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--profile", help="embedded (the default) or hub")
    parser.add_argument("-k", type=int, default=20, help="candidates from vector search")
    parser.add_argument("--top-n", type=int, default=3, help="passages to show")
    parser.add_argument("--plot", help="also draw the rank changes into this file (svg, png)")
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from langchain_huggingface import HuggingFaceEmbeddings

    from helpers import (
        LocalCrossEncoder,
        ProfileError,
        ScoringReranker,
        SimilarityRetriever,
        build_index,
        load_profile,
    )

    try:
        profile = load_profile(arguments.profile)
    except ProfileError as error:
        parser.exit(1, f"{error}\n")
    index = build_index(
        profile.corpus,
        HuggingFaceEmbeddings(model_name=profile.embedding_model),
        distance_strategy=profile.distance_strategy,
    )
    docs = SimilarityRetriever(store=index, k=arguments.k).invoke(arguments.question)
    reranker = ScoringReranker(
        model=LocalCrossEncoder(profile.reranker_model), base_weight=profile.base_weight
    )
    reranked = reranker.compress_documents(docs, arguments.question)
    if arguments.plot:
        from helpers import plot_rank_changes

        figure = plot_rank_changes(reranked, arguments.top_n, title=arguments.question)
        figure.savefig(arguments.plot, metadata={"Date": None} if "svg" in arguments.plot else None)

    print(f"\n{'=' * 100}\nQuestion: {arguments.question}\n{'=' * 100}")
    print(f"\nVector search puts these {arguments.top_n} of {len(docs)} candidates first:\n")
    for rank, doc in enumerate(docs[: arguments.top_n], start=1):
        print(f"{rank}. {doc.page_content}\n")
    print(f"The cross-encoder reads all {len(docs)} and puts these first:\n")
    for rank, doc in enumerate(reranked[: arguments.top_n], start=1):
        score, before = doc.metadata["relevance_score"], doc.metadata["base_rank"]
        print(f"{rank}. (score {score:.2f}, was rank {before}) {doc.page_content}\n")


if __name__ == "__main__":
    main()
