"""Every figure in prose, and the result it comes from: `python tools/figures.py`.

`data/results` in; a line out for each sentence that a text should hold and does not, and for each
figure (a decimal, a percentage) that no result, no output of its notebook and no list below knows.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from helpers.evaluate import mean_interval
from helpers.index import read_text, split_text
from helpers.judgements import load_judgements, to_qrels
from helpers.measure.intervals import area, share

ROOT = Path(__file__).resolve().parent.parent
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)+|\d+(?: ?%| per cent)")
PAGE = "the page's method"
PLAIN = "chunk + sentence"
HYBRID = "fused, vectors + BM25", "fused, more vectors"
TEST, DEV, SPEECH = "address, test", "address, dev", "speech"


@cache
def table(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "results" / f"{name}.csv")


@cache
def judged(name: str) -> pd.DataFrame:
    """Return a set's rows, one a question: `SciFact`, or a set of ranking.csv."""
    return table("scifact") if name == "SciFact" else table("ranking").query("set == @name")


def mean(name: str, column: str) -> str:
    return f"{judged(name)[column].mean():.3f}"


@cache
def gain(name: str, column: str, base: str = "vectors") -> str:
    return interval(mean_interval(judged(name)[column] - judged(name)[base]))


@cache
def form(kind: str, column: str) -> str:
    """Return the gain over vectors on the short queries of one form."""
    some = judged("address, short queries").query("kind == @kind")
    return interval(mean_interval(some[column] - some["vectors"]))


def interval(found: tuple[float, float, float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def closed(name: str) -> str:
    means = judged(name)[["vectors", "fused", "oracle"]].mean()
    return f"{(means['fused'] - means['vectors']) / (means['oracle'] - means['vectors']):.2f}"


@cache
def right(what: str, kind: str = "", scorer: str = "cross-encoder") -> tuple[int, int, int]:
    """Return per cent of the contrast comparisons of the test subjects, with the interval."""
    rows = table("contrast").query("split == 'test' and what == @what")
    rows = rows[rows["kind"] == kind] if kind else rows
    return tuple(round(100 * x) for x in share(rows.assign(right=rows[scorer])))


@cache
def auc(split: str, kind: str) -> str:
    """Return the area for near misses or far subjects on a half of the address, two decimals."""
    lines = (ROOT / "data" / "judgements.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = {row["id"]: row["kind"] for row in map(json.loads, lines) if not row["spans"]}
    first = table("scores").query(f"rank == 1 and set == 'address, {split}'")
    said = first["question"].map(kinds).replace("unanswerable", "near")
    found = area(first["score"][said.isna()], first["score"][said == kind])
    return f"{found['AUC']:.2f}"


# How README and the card call a set, and what ranking.csv does.
SETS = {
    "86 on the embedded address, test half": TEST,
    "129 short queries on the address": "address, short queries",
    "70 on the 2022 State of the Union": SPEECH,
    "97 on annual reports": "finance",
    "99 on PubMed articles": "pubmed",
    "SciFact's 300 test claims": "SciFact",
}
CARD = {"embedded address, test (86)": TEST, "embedded address, dev (86)": DEV}
CARD |= {"short queries on the address (129)": "address, short queries"}
CARD |= {"State of the Union 2022 (70)": SPEECH, "annual reports (97)": "finance"}
CARD |= {"PubMed articles (99)": "pubmed", "SciFact test (300)": "SciFact"}


def rows(names: dict[str, str]) -> list[str]:
    columns = ("vectors", "cross-encoder", "fused")
    return [
        f"| {said} | {' | '.join(mean(name, c) for c in columns)} | {gain(name, 'fused')} |"
        for said, name in names.items()
    ]


def checkpoints() -> list[str]:
    """Return the cells of the card's table of checkpoints, from the record beside the weights."""
    record = json.loads((ROOT / "data" / "reranker" / "revision.json").read_text(encoding="utf-8"))
    logs = [row for stage in record["stages"].values() for row in stage["log"]]
    names = ("eval_dev_both", "eval_dev_ndcg_address", "eval_dev_ndcg_documents")
    found = [[row[name] for name in names] for row in logs if names[0] in row]
    return ["| {:.2f} | {:.3f} | {:.3f} |".format(*row) for row in found]


def recalls(name: str) -> str:
    return f"{mean(name, 'recall, vectors + BM25')} against {mean(name, 'recall, more vectors')}"


def kappa() -> str:
    """Return Cohen's kappa of the two judges of the address over all chunks, relevant or not."""
    corpus, both = ROOT / "data" / "address.txt", []
    chunks = split_text(corpus)
    for file in ("second_judgements.jsonl", "judgements.jsonl"):
        questions = load_judgements(ROOT / "data" / file, read_text(corpus))
        asked = [q for q in questions if not both or q.id in both[0][0]]
        found = set(to_qrels(asked, chunks)[["query_id", "doc_id"]].itertuples(index=False))
        both.append(({q.id for q in asked}, set(map(tuple, found))))
    pairs = [(q, chunk.metadata["chunk_id"]) for q in both[0][0] for chunk in chunks]
    return f"{cohen_kappa_score(*[[pair in found for pair in pairs] for _, found in both]):.2f}"


def seconds(variant: str) -> str:
    """Return what a hundred pairs of real lengths took on the bench's larger model."""
    bench = json.loads((ROOT / "data" / "results" / "bench.json").read_text(encoding="utf-8"))
    asked = {"model": "12 x 768", "workload": "100 real", "variant": variant}
    [row] = [row for row in bench["speed"]["rows"] if asked.items() <= row.items()]
    return f"{row['seconds']:.1f} s"


def claims() -> dict[str, list[str]]:
    """Return, for each text, sentences that it holds, with the figures that results give them."""
    pairs, kinds = right("pairs right both ways"), ("attribute", "entity", "condition")
    attribute, entity, condition = (right("pairs right both ways", kind)[0] for kind in kinds)
    others = ("vectors", "attention closed", "few shared words")
    by_vectors, by_closed, by_words = (right("pairs right both ways", "", s)[0] for s in others)
    beaten = {k: right("decoys beaten", k)[0] for k in ("heading", "absence", "negation", "echo")}
    echoes = right("decoys beaten", "echo", "few shared words")[0]
    closing = float(mean(TEST, "attention closed")) - float(mean(TEST, "cross-encoder"))
    readme = [
        *rows(SETS),
        f"own order is not surely above vectors ({gain(TEST, 'cross-encoder')})",
        f"in {pairs[0]} % [{pairs[1]}, {pairs[2]}]; vectors do so in {by_vectors} %",
        f"closed in {by_closed} %",
        f"{gain(TEST, 'fused', PLAIN)} on the address's test half",
        f"{gain(SPEECH, 'fused', PLAIN)} on the speech and {gain('pubmed', 'fused', PLAIN)} on the",
        f"{beaten['heading']} % of headings",
        f"{beaten['absence']} % of sentences",
        f"its words {beaten['echo']} %, where counting words does as well ({echoes} %)",
        f"falls from {mean(TEST, 'cross-encoder')} to {mean(TEST, 'attention closed')}",
        f"(AUC {auc('test', 'far')} on the test half",
        f"leaves open ({auc('test', 'near')})",
        f"(fused {form('fragment', 'fused')}, alone {form('fragment', 'cross-encoder')})",
        f"is {recalls('pubmed')}, on the annual reports {recalls('finance')}.",
        f"({gain('pubmed', *HYBRID)} and {gain('finance', *HYBRID)})",
        f"two cores took {seconds(PAGE)} the way",
        f"{seconds('HuggingFaceCrossEncoder')} with",
        f"{seconds('LocalCrossEncoder')} with",
        f"{seconds('LocalCrossEncoder, auto')} with",
        f"{seconds('OpenVINO, int8')} with OpenVINO in 8 bits",
    ]
    card = [
        *rows(CARD),
        *checkpoints(),
        f"({gain(TEST, 'cross-encoder')} on test)",
        f"the fused mean falls ({form('fragment', 'fused')})",
        f"more ({form('fragment', 'cross-encoder')})",
        f"{pairs[0]} % [{pairs[1]}, {pairs[2]}] of 922 pairs (attribute {attribute} %, entity"
        f" {entity} %, condition {condition} %; vectors {by_vectors} %, attention closed"
        f" {by_closed} %, few shared words {by_words} %)",
        ", ".join(f"{kind} {found} %" for kind, found in beaten.items()),
        f"words {right('decoys beaten', '', 'few shared words')[0]} % of all of them",
        f"costs {-closing:.3f} nDCG@10 on the address",
        f"(far subjects {auc('test', 'far')}, near misses {auc('test', 'near')})",
    ]
    found = {"README.md": readme, "data/model_card.md": card}
    found["data/README.md"] = [f"a Cohen's kappa of {kappa()} (relevant or not)"]
    return found


# What is no result: versions, licences, levels of confidence, settings.
OTHER: dict[str, str] = {
    "README.md": "95 %, 3.11, 3.13, 1.9, 4.0, 0.03",
    # The last line: of weights that were not published, measured then, by those commits' code.
    "data/model_card.md": "95 %, 1.1, 2.0, 0.3, 4.0, 22.7, "
    "0.811, 0.812, 0.81, 0.82, 0.83, 0.003, 0.814, 0.842, 0.717, 16 %",
    "data/README.md": "1.1, 2.0, 4.0",
    "notebooks/02_cross_encoder_rerank.ipynb": "95 %, 0.25",
    "notebooks/03_sagemaker_endpoint.ipynb": "0.269",  # dollars an hour
    "notebooks/04_measure_the_gain.ipynb": "95 %, 0.5, 0.03, 0.05, 0.3, 0.2, 0.4, 0.6, 1.17",
    "notebooks/05_train_your_own.ipynb": "95 %, 0.3",
    "notebooks/06_faster.ipynb": "95 %",
    "notebooks/07_bigger.ipynb": "0.95",
    "notebooks/08_your_own_documents.ipynb": "1.1.0, 0.0.19",  # versions
}


def prose(path: Path) -> str:
    """Return a text without its code, on one line; of a notebook, its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```|^ {4}.*?$|`[^`\n]*`|\]\([^)]*\)", " ", text, flags=re.S | re.M)
    return " ".join(text.split())


def printed(path: Path) -> set[str]:
    """Return the figures that a notebook's outputs show; README tells of notebook 02's."""
    if path.name == "README.md":
        path = path.parent / "notebooks" / "02_cross_encoder_rerank.ipynb"
    if path.suffix != ".ipynb" or not path.exists():
        return set()
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    shown = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return set(re.findall(r"\d+(?:\.\d+)?", " ".join(shown)))


def faults() -> list[str]:
    """Return a line for each sentence that is missing and each figure that nobody knows."""
    said, found = claims(), []
    for path in [ROOT / name for name in said] + sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        name, text = path.relative_to(ROOT).as_posix(), prose(path)
        known = printed(path) | set(OTHER.get(name, "").split(", "))
        for sentence in said.get(name, []):
            if sentence not in text:
                found.append(f"{name} lacks: {sentence}")
            known |= {*FIGURE.findall(sentence)}
        for figure in FIGURE.findall(text):
            if not {figure, figure.rstrip("% ")} & known:
                found.append(f"{name}: where does {figure} come from?")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    sys.exit("\n".join(faults()))
