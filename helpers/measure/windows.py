"""What cutting a long document costs, and what windows cost: `python -m helpers.measure.windows`.

Each document is six paragraphs of a Wikipedia article, about twice what the cross-encoder reads,
joined out of SQuAD 1.1's dev set (https://arxiv.org/abs/1606.05250, CC BY-SA 4.0); a question's
document is the one that its paragraph lies in. Asked is what the embedded cross-encoder was not
trained on, the articles that `helpers.training` keeps for dev. Ten candidates are reranked twice.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

import pandas as pd
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from tqdm.auto import tqdm

from helpers.evaluate import best_order, per_question
from helpers.index import read_text
from helpers.measure.command import load_embeddings, one_line, positive, printable, write
from helpers.measure.intervals import gains
from helpers.profiles import load_profile
from helpers.score import LocalCrossEncoder

HELD_OUT = 7  # as helpers.training.read.DEV_SHARE


def read_squad(path: Path, paragraphs: int, questions: int) -> tuple[list[Document], list[tuple]]:
    """Return documents of so many paragraphs, and so many (id, question, document's id), seeded.

    ValueError: the articles that were not trained on have fewer questions.
    """
    documents, asked = [], []
    for article in json.loads(read_text(path))["data"]:
        parts = article["paragraphs"]
        number = int(hashlib.sha1(article["title"].encode()).hexdigest(), 16)
        for start in range(0, len(parts) - paragraphs + 1, paragraphs):
            name, some = f"{article['title']}#{start}", parts[start : start + paragraphs]
            documents.append(Document("\n\n".join(part["context"] for part in some), id=name))
            if number % HELD_OUT == 0:
                asked += [(qa["id"], qa["question"], name) for part in some for qa in part["qas"]]
    if len(asked) < questions:
        raise ValueError(f"{path}: {len(asked)} questions were not trained on, not {questions}")
    return documents, random.Random(0).sample(asked, questions)


def main() -> None:
    """Print nDCG@10 of vectors, of documents cut and of windows, and write each question's."""
    parser = argparse.ArgumentParser("python -m helpers.measure.windows", description=main.__doc__)
    parser.add_argument("squad", type=Path, help="SQuAD 1.1, its dev set: dev-v1.1.json")
    parser.add_argument("--questions", type=positive, default=150)
    parser.add_argument("-k", type=positive, default=10, help="documents to rerank")
    parser.add_argument("--precision", default="fp32", help="auto: 16 bits where they are fast")
    parser.add_argument("--out", type=Path, help="also write each question's here, as CSV")
    arguments = parser.parse_args()
    with one_line(parser):
        profile = load_profile()
        documents, asked = read_squad(arguments.squad, 6, arguments.questions)
    embeddings = load_embeddings(profile)
    store = InMemoryVectorStore.from_documents(documents, embeddings)
    found = [store.similarity_search_with_score(question, arguments.k) for _, question, _ in asked]
    orders = {"vectors": [score for docs in found for _, score in docs]}
    ids = [(id, doc.id) for (id, *_), docs in zip(asked, found, strict=True) for doc, _ in docs]
    pairs = [
        (q, doc.page_content)
        for (_, q, _), docs in zip(asked, found, strict=True)
        for doc, _ in docs
    ]
    counts = pd.DataFrame(ids, columns=["query_id", "doc_id"])
    for name, windows in (("cut", False), ("windows", True)):
        model = LocalCrossEncoder(
            profile.reranker_model, precision=arguments.precision, windows=windows
        )
        orders[name] = []
        for first in tqdm(range(0, len(pairs), 50), desc=name):
            orders[name] += model.activate(model.logits(pairs[first : first + 50])[0])
        counts[f"tokens, {name}"] = [model.count_tokens([pair]) for pair in pairs]
    qrels = pd.DataFrame(
        [(id, name, 1) for id, _, name in asked], columns=["query_id", "doc_id", "relevance"]
    )
    runs = {name: counts[["query_id", "doc_id"]].assign(score=s) for name, s in orders.items()}
    runs["oracle"] = best_order(runs["vectors"], qrels)
    values = pd.DataFrame({name: per_question(qrels, run)["nDCG@10"] for name, run in runs.items()})
    print(f"{len(documents)} documents, {len(asked)} questions, {arguments.k} candidates, nDCG@10")
    print(printable(gains(values, "vectors")).to_string())
    tokens = counts.drop(columns="doc_id").groupby("query_id").sum()
    tokens["documents cut"] = (
        counts[counts["tokens, cut"] < counts["tokens, windows"]].groupby("query_id").size()
    )
    values = values.join(tokens.fillna(0).astype(int))
    write(arguments.out, values.rename_axis("question").reset_index())


if __name__ == "__main__":
    main()
