"""A collection in BEIR's layout, through the same metrics: `python -m helpers.measure.beir FOLDER`.

The folder holds `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`, as
https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset has them. Vectors and word search
find documents, the cross-encoder reranks them, and nDCG@10 is printed for each order: ground truth
that nobody here wrote. `--out` keeps each query's for notebook 04.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from langchain_core.documents import Document
from pydantic_core import from_json
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import dot_score
from tqdm.auto import tqdm

from helpers.evaluate import per_question
from helpers.hardware import as_onednn
from helpers.index import read_text
from helpers.judgements import read_jsonl
from helpers.measure.baselines import BM25, Remembering
from helpers.measure.command import one_line, positive, printable, some_ids, write
from helpers.measure.intervals import gains
from helpers.measure.orders import orders
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
    """Print nDCG@10 of each order of the documents, with paired intervals against vectors."""
    parser = argparse.ArgumentParser("python -m helpers.measure.beir", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=positive, default=20, help="nearest documents to rerank")
    parser.add_argument("--words", type=positive, default=100, help="BM25's documents to rerank")
    parser.add_argument("--precision", default="fp32", help="auto: 16 bits where they are fast")
    parser.add_argument("--check", action="store_true", help="measure vectors by another library")
    parser.add_argument("--out", type=Path, help="also write nDCG@10 of each query here, as CSV")
    arguments = parser.parse_args()
    k = arguments.k
    with one_line(parser):
        documents, queries, qrels, own = read_collection(arguments.folder)
        profile = load_profile()
        if profile.distance_strategy != "MAX_INNER_PRODUCT":
            raise ValueError(
                f"{profile.embedding_model} is compared by distance: expected cosine or dot"
            )
        local = LocalCrossEncoder(profile.reranker_model, precision=arguments.precision)
    cross_encoder = Remembering(local)
    bi_encoder = SentenceTransformer(profile.embedding_model)
    if bi_encoder.device.type == "cpu":
        as_onednn(bi_encoder)
    names, texts = list(documents), list(documents.values())
    bm25 = BM25(docs=[Document(text, id=name) for name, text in documents.items()], k=len(names))
    options, how = (
        {"show_progress_bar": True, "convert_to_tensor": True},
        profile.embedding_settings,
    )
    vectors = bi_encoder.encode(texts, **options, **how.get("encode_kwargs", {}))
    asked = bi_encoder.encode([*queries.values()], **options, **how.get("query_encode_kwargs", {}))
    similarity = (asked @ vectors.T).cpu().numpy()
    rows: dict[str, list[tuple]] = {}
    asked = zip(queries.items(), similarity, strict=True)
    for (query_id, query), row in tqdm(asked, desc="Reranking", total=len(queries)):
        itself = query_id if query_id in own else None
        near = {n: float(s) for n, s in zip(names, row, strict=True) if n != itself}
        words = [doc.id for doc in bm25.invoke(query) if doc.id != itself]

        def score(ids: Sequence[str], query=query) -> list[float]:
            return cross_encoder.score([(query, documents[name]) for name in ids])

        found = orders(near, words, score, k, profile.base_weight)
        best = words[: arguments.words]
        found[f"cross-encoder, BM25's {arguments.words}"] = dict(
            zip(best, score(best), strict=True)
        )
        for name, order in found.items():
            rows.setdefault(name, []).extend((query_id, doc, value) for doc, value in order.items())
    columns = ["query_id", "doc_id", "score"]
    runs = {name: pd.DataFrame(found, columns=columns) for name, found in rows.items()}
    values = pd.DataFrame({name: per_question(qrels, run)["nDCG@10"] for name, run in runs.items()})
    print(f"{arguments.folder.name}: {len(queries)} queries, {len(documents)} documents, nDCG@10")
    print(printable(gains(values, "vectors")).to_string())
    # This second implementation knows neither grades nor queries of `own`.
    if arguments.check and not own and not how and qrels["relevance"].max() == 1:
        relevant = qrels[qrels["relevance"] > 0].groupby("query_id")["doc_id"].agg(set).to_dict()
        settings = {"ndcg_at_k": [10], "score_functions": {"dot": dot_score}}
        evaluator = InformationRetrievalEvaluator(queries, documents, relevant, **settings)
        independent = evaluator(bi_encoder)["dot_ndcg@10"]
        print(
            f"vectors, by sentence-transformers' InformationRetrievalEvaluator: {independent:.4f}"
        )
    write(arguments.out, values.rename_axis("question").reset_index())


if __name__ == "__main__":
    main()
