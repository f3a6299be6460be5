"""What cutting a long document costs, and what windows cost: `python -m helpers.measure.windows`.

Each document is six paragraphs of a Wikipedia article, about twice what the cross-encoder reads,
joined out of SQuAD 1.1 (https://arxiv.org/abs/1606.05250, CC BY-SA 4.0); a question's document is
the one that its paragraph lies in. Ten candidates by vectors are reranked twice.
"""

import argparse
import json
import random
import time
from pathlib import Path

import pandas as pd
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from tqdm.auto import tqdm

from helpers.evaluate import compare
from helpers.index import read_text
from helpers.measure.command import one_line, positive, write
from helpers.profiles import load_profile
from helpers.score import LocalCrossEncoder


def read_squad(path: Path, paragraphs: int, questions: int) -> tuple[list[Document], list[tuple]]:
    """Return documents of so many paragraphs, and so many (id, question, document's id), seeded."""
    documents, asked = [], []
    for article in json.loads(read_text(path))["data"]:
        parts = article["paragraphs"]
        for start in range(0, len(parts) - paragraphs + 1, paragraphs):
            name, some = f"{article['title']}#{start}", parts[start : start + paragraphs]
            documents.append(Document("\n\n".join(part["context"] for part in some), id=name))
            asked += [(qa["id"], qa["question"], name) for part in some for qa in part["qas"]]
    return documents, random.Random(0).sample(asked, questions)


def main() -> None:
    """Print nDCG@10 of vectors, of documents cut, and of windows, with what each took."""
    parser = argparse.ArgumentParser("python -m helpers.measure.windows", description=main.__doc__)
    parser.add_argument("squad", type=Path, help="SQuAD 1.1, its dev set: dev-v1.1.json")
    parser.add_argument("--questions", type=positive, default=150)
    parser.add_argument("-k", type=positive, default=10, help="documents to rerank")
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    arguments = parser.parse_args()
    from langchain_huggingface import HuggingFaceEmbeddings

    with one_line(parser):
        profile = load_profile()
        documents, asked = read_squad(arguments.squad, 6, arguments.questions)
    embeddings = HuggingFaceEmbeddings(
        model_name=profile.embedding_model, **profile.embedding_settings
    )
    store = InMemoryVectorStore.from_documents(documents, embeddings)
    rows = {"base (vectors)": []}
    found = [store.similarity_search_with_score(question, arguments.k) for _, question, _ in asked]
    for (id, _, _), candidates in zip(asked, found, strict=True):
        rows["base (vectors)"] += [(id, doc.id, score) for doc, score in candidates]
    pairs = [
        (q, doc.page_content)
        for (_, q, _), docs in zip(asked, found, strict=True)
        for doc, _ in docs
    ]
    seconds, cut, tokens = {}, {}, {}
    for name, windows in (("cut", False), ("windows", True)):
        model = LocalCrossEncoder(profile.reranker_model, windows=windows)
        start, scores = time.perf_counter(), []
        for first in tqdm(range(0, len(pairs), 50), desc=name):
            logits, _ = model.logits(pairs[first : first + 50])
            scores += model.activate(logits)
        seconds[name], cut[name] = time.perf_counter() - start, model.cut
        tokens[name] = model.count_tokens(pairs)
        ids = [(id, doc_id) for id, doc_id, _ in rows["base (vectors)"]]
        rows[name] = [(*pair, score) for pair, score in zip(ids, scores, strict=True)]
    columns = ["query_id", "doc_id", "score"]
    runs = {name: pd.DataFrame(found, columns=columns) for name, found in rows.items()}
    qrels = pd.DataFrame(
        [(id, name, 1) for id, _, name in asked], columns=["query_id", "doc_id", "relevance"]
    )
    compared = compare(qrels, runs)
    against_cut = compare(qrels, runs, base="cut").loc["windows"]
    result = {"documents": len(documents), "questions": len(asked), "candidates": arguments.k}
    result |= {"nDCG@10": compared["nDCG@10"].to_dict()}
    result |= {"windows over cut": against_cut[["gain", "low", "high"]].to_dict()}
    result |= {"pairs cut": cut, "tokens read": tokens}
    result |= {"times the seconds of cutting": seconds["windows"] / seconds["cut"]}
    write(arguments.out, result)


if __name__ == "__main__":
    main()
