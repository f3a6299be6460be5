"""Ask one question on the command line: `python -m helpers "What is the plan for the economy?"`."""

import argparse
import os
import sys
import warnings
from pathlib import Path

QUESTION = "What is the plan for the economy?"


def main() -> None:
    """Print the passages that vector search finds and the ones the cross-encoder puts on top."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=main.__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--profile", help="embedded (the default), page or multilingual")
    parser.add_argument("-k", type=int, default=20, help="candidates from vector search")
    parser.add_argument("--top-n", type=int, default=3, help="passages to show")
    parser.add_argument("--plot", type=Path, help="also draw the rank changes (.svg, .png, .pdf)")
    chosen = parser.parse_args()
    if min(chosen.k, chosen.top_n) < 1:
        parser.error("-k and --top-n: expected whole numbers of at least 1")
    if not chosen.question.strip() or any("\ud800" <= c <= "\udfff" for c in chosen.question):
        parser.error("the question is blank or not UTF-8: expected words")
    if chosen.plot and (chosen.plot.suffix not in (".svg", ".png", ".pdf")):
        parser.error(f"--plot {chosen.plot}: expected a name that ends in .svg, .png or .pdf")

    sys.stdout.reconfigure(errors="backslashreplace")  # a log on Windows has few letters
    print("Loading the models and indexing the text ...", file=sys.stderr, flush=True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from langchain_huggingface import HuggingFaceEmbeddings

    from helpers.index import SimilarityRetriever, build_index
    from helpers.profiles import ProfileError, load_profile
    from helpers.rerank import ScoringReranker
    from helpers.score import LocalCrossEncoder

    try:
        profile = load_profile(chosen.profile)
        model = LocalCrossEncoder(profile.reranker_model)
    except (ProfileError, ValueError) as error:  # or a model that gives no score
        parser.exit(1, f"{error}\n")
    settings, distance = profile.embedding_settings, profile.distance_strategy
    embeddings = HuggingFaceEmbeddings(model_name=profile.embedding_model, **settings)
    store = build_index(profile.corpus, embeddings, distance_strategy=distance)
    retriever = store.as_retriever(search_kwargs={"k": chosen.k})
    if distance == "MAX_INNER_PRODUCT":
        retriever = SimilarityRetriever(store=store, k=chosen.k)
    docs = retriever.invoke(chosen.question)
    reranker = ScoringReranker(model=model, base_weight=profile.base_weight)
    reranked = reranker.compress_documents(docs, chosen.question)
    if chosen.plot:
        from helpers.display import plot_rank_changes

        figure = plot_rank_changes(reranked, chosen.top_n, title=chosen.question)
        # An SVG without its date is the same file each time.
        figure.savefig(chosen.plot, metadata={"Date": None} if chosen.plot.suffix == ".svg" else {})

    print(f"\n{'=' * 100}\nQuestion: {chosen.question}\n{'=' * 100}")
    print(f"\nVector search puts these {chosen.top_n} of {len(docs)} candidates first:\n")
    for rank, doc in enumerate(docs[: chosen.top_n], start=1):
        print(f"{rank}. {doc.page_content}\n")
    print(f"The cross-encoder reads all {len(docs)}, and these come first:\n")
    for rank, doc in enumerate(reranked[: chosen.top_n], start=1):
        score, before = doc.metadata["relevance_score"], doc.metadata["base_rank"]
        print(f"{rank}. (score {score:.2f}, was rank {before}) {doc.page_content}\n")


if __name__ == "__main__":
    main()
