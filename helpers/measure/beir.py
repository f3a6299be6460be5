"""A collection in BEIR's layout, through the same metrics: `python -m helpers.measure.beir FOLDER`.

The folder holds `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`, as
https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset has them. Vectors find the nearest
documents, the cross-encoder reranks them, and nDCG@10 is printed for BM25 and for both orders:
ground truth that nobody here wrote. `--out` keeps the result for notebook 04.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from langchain_core.documents import Document
from pydantic_core import from_json
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import dot_score
from tqdm.auto import tqdm

from helpers.evaluate import compare
from helpers.index import read_text
from helpers.judgements import read_jsonl
from helpers.measure.baselines import BM25
from helpers.measure.command import one_line, positive, some_ids, write
from helpers.profiles import load_profile
from helpers.score import LocalCrossEncoder

HEADERS = {"score", "relevance", "grade", "label", "rel"}  # what names the last column of qrels


def read_texts(file: Path, titled: bool) -> dict[str, str]:
    """Return the text of each `_id` (a number means its digits), after its title if it has one."""
    found: dict[str, str] = {}

    def parse(line: str) -> None:
        row = from_json(line)
        name, text, title = row.get("_id"), row.get("text"), row.get("title") if titled else None
        if type(name) not in (str, int) or not str(name).strip() or "\0" in str(name):
            raise ValueError(f"_id must be a string or a whole number, got {name!r}")
        if not isinstance(text, str) or not isinstance(title, str | None):
            raise ValueError(f"text (and title) must be a string, got {text!r} ({title!r})"[:200])
        if str(name) in found:
            raise ValueError(f"_id {name!r} comes twice")
        found[str(name)] = f"{title or ''} {text}".strip()

    read_jsonl(file, parse=parse)
    return found


def read_qrels(file: Path) -> pd.DataFrame:
    """Return BEIR's three columns or TREC's four, parted by tabs, or by spaces in lines without."""
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
        if not any(cells) or (not found and cells[-1].lower() in HEADERS):
            continue
        try:
            query, *_, document, grade = cells
            if len(cells) > 4 or not query or not document or not float(grade).is_integer():
                raise ValueError
        except ValueError:
            expected = "query, document and a whole number (TREC: query, 0, document, grade)"
            raise ValueError(f"{file}, line {number}: expected {expected}, got {line!r}") from None
        if found.setdefault((query, document), int(float(grade))) != float(grade):
            raise ValueError(f"{file}, line {number}: judged before, with another grade: {line!r}")
    rows = [(*pair, grade) for pair, grade in found.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def read_collection(folder: Path) -> tuple[dict[str, str], dict[str, str], pd.DataFrame, set[str]]:
    """Read a collection, and say on stderr what of it cannot be measured.

    Returns:
        The documents; the queries that have a relevant document; their judgements; and the queries
        that are documents, too, and do not answer themselves (ArguAna has such), whose rankings
        leave that document out, as BEIR does.

    Raises:
        ValueError, OSError: A file is missing or malformed, or no query can be measured.
    """
    documents = read_texts(folder / "corpus.jsonl", titled=True)
    queries = read_texts(folder / "queries.jsonl", titled=False)
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    right = qrels[qrels["relevance"] > 0]
    asked = sorted({*right["query_id"]} & queries.keys())
    own = {*asked} & documents.keys() - {*right.doc_id[right.query_id == right.doc_id]}
    report = {
        "queries left out, queries.jsonl lacks them": {*qrels["query_id"]} - queries.keys(),
        "queries left out, nothing is relevant": {*qrels["query_id"]} - {*right["query_id"]},
        "judged documents that corpus.jsonl lacks": {*qrels["doc_id"]} - documents.keys(),
        "queries that are documents, left out of their own rankings": own,
    }
    for said, names in report.items():
        if names:
            print(f"{said}: {some_ids(sorted(names))}", file=sys.stderr)
    if not documents or not asked:
        raise ValueError(f"{folder}: no judged query to measure in {len(documents)} documents")
    return documents, {q: queries[q] for q in asked}, qrels[qrels.query_id.isin(asked)], own


def main() -> None:
    """Print nDCG@10 of vectors and of vectors reranked, with the paired interval."""
    parser = argparse.ArgumentParser("python -m helpers.measure.beir", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=positive, default=100, help="documents to rerank")
    parser.add_argument("--precision", default="fp32", help="auto: 16 bits where they are fast")
    parser.add_argument("--out", type=Path, help="also write the result here, as JSON")
    arguments = parser.parse_args()
    k = arguments.k
    with one_line(parser):
        documents, queries, qrels, own = read_collection(arguments.folder)
        profile = load_profile()
        if profile.distance_strategy != "MAX_INNER_PRODUCT":
            raise ValueError(
                f"{profile.embedding_model} is compared by distance: expected cosine or dot"
            )
        cross_encoder = LocalCrossEncoder(profile.reranker_model, precision=arguments.precision)
    bi_encoder = SentenceTransformer(profile.embedding_model)
    names, texts = list(documents), list(documents.values())
    bm25 = BM25(docs=[Document(text, id=name) for name, text in documents.items()], k=k + 1)
    options, how = (
        {"show_progress_bar": True, "convert_to_tensor": True},
        profile.embedding_settings,
    )
    vectors = bi_encoder.encode(texts, **options, **how.get("encode_kwargs", {}))
    asked = bi_encoder.encode([*queries.values()], **options, **how.get("query_encode_kwargs", {}))
    similarity = (asked @ vectors.T).cpu().numpy()
    rows: dict[str, list[tuple]] = {"BM25": [], "base": [], "reranked": []}
    asked = zip(queries.items(), similarity, strict=True)
    for (query_id, query), row in tqdm(asked, desc="Reranking", total=len(queries)):
        itself = query_id if query_id in own else None
        nearest = [i for i in np.argsort(-row, kind="stable")[: k + 1] if names[i] != itself][:k]
        scores = cross_encoder.score([(query, texts[i]) for i in nearest])
        by_words = [doc.id for doc in bm25.invoke(query) if doc.id != itself][:k]
        rows["BM25"] += [(query_id, name, float(-rank)) for rank, name in enumerate(by_words)]
        rows["base"] += [(query_id, names[i], float(row[i])) for i in nearest]
        rows["reranked"] += [(query_id, names[i], s) for i, s in zip(nearest, scores, strict=True)]
    columns = ["query_id", "doc_id", "score"]
    runs = {name: pd.DataFrame(found, columns=columns) for name, found in rows.items()}
    compared = compare(qrels, runs, base="base")

    independent = None  # this second implementation knows neither grades nor queries of `own`
    if not own and not how and qrels["relevance"].max() == 1:
        relevant = qrels[qrels["relevance"] > 0].groupby("query_id")["doc_id"].agg(set).to_dict()
        settings = {"ndcg_at_k": [10], "score_functions": {"dot": dot_score}}
        evaluator = InformationRetrievalEvaluator(queries, documents, relevant, **settings)
        independent = evaluator(bi_encoder)["dot_ndcg@10"]
    name, gain = arguments.folder.name, compared.loc["reranked"]
    command = f"python -m helpers.measure.beir {name} -k {k} --precision {arguments.precision}"
    result = {"collection": name, "command": command}
    result |= {"queries": len(queries), "documents": len(documents), "reranked candidates": k}
    result |= {"nDCG@10": compared["nDCG@10"].drop("oracle").to_dict()}
    result |= {"base by InformationRetrievalEvaluator": independent}
    result |= {"gain": gain["gain"], "95 % interval": [gain["low"], gain["high"]]}
    write(arguments.out, result)


if __name__ == "__main__":
    main()
