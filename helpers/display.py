"""What a reader sees: ranked documents as text, and what reranking moved as a table and a plot.

`rank_changes` and `plot_rank_changes` read what `ScoringReranker` leaves in the metadata.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from langchain_core.documents import Document
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by readers with any colour vision: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"


def pretty_print_docs(docs: Sequence[Document]) -> None:
    """Print documents as LangChain's documentation does, a rule of 100 dashes between them."""
    print(
        f"\n{'-' * 100}\n".join(
            f"Document {number}:\n\n{doc.page_content}" for number, doc in enumerate(docs, start=1)
        )
    )


def rank_changes(docs: Sequence[Document], width: int = 60) -> pd.DataFrame:
    """Tabulate reranked documents: rank now, rank before, ranks gained, score, first words.

    Args:
        docs: What `ScoringReranker` returned, best first.
        width: Characters of each passage to show.

    Raises:
        ValueError: A document carries no score or no base rank.
    """
    rows = []
    for rank, doc in enumerate(docs, start=1):
        if not {"relevance_score", "base_rank"} <= doc.metadata.keys():
            raise ValueError(
                f"document {rank} has no relevance_score or base_rank in its metadata; "
                "rank changes are drawn from what ScoringReranker returns"
            )
        before = doc.metadata["base_rank"]
        text = " ".join(doc.page_content.split())
        passage = textwrap.shorten(text, width, placeholder="...")
        if passage == "..." and text != "...":  # a text without spaces: Chinese, Japanese
            passage = text[: width - 3] + "..."
        rows.append(
            {
                "rank": rank,
                "base_rank": before,
                "gained": before - rank,
                "score": round(doc.metadata["relevance_score"], 2),
                "passage": passage,
            }
        )
    columns = ["rank", "base_rank", "gained", "score", "passage"]
    return pd.DataFrame(rows, columns=columns).set_index("rank")


def plot_rank_changes(docs: Sequence[Document], top_n: int = 3, title: str = "") -> Figure:
    """Draw a line for each document, from its rank before reranking to its rank after.

    The first `top_n` are thick, labelled with their score, and solid where reranking raised them;
    the others are thin and grey, so that colour is never the only sign.
    """
    table = rank_changes(docs)
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(table) + 1.4), layout="constrained")
    for rank, row in table.iterrows():
        chosen = rank <= top_n
        colour = (BLUE if row["gained"] > 0 else ORANGE) if chosen else GREY
        style = "-" if row["gained"] > 0 or not chosen else "--"
        axes.plot(
            [0, 1],
            [row["base_rank"], rank],
            style,
            color=colour,
            linewidth=2.5 if chosen else 0.8,
            alpha=1 if chosen else 0.6,
            marker="o" if chosen else ".",
            zorder=3 if chosen else 2,
        )
        if chosen:
            axes.annotate(
                f"score {row['score']:.2f}",
                (1, rank),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
    last = int(table["base_rank"].max()) if len(table) else 1
    axes.set(
        xlim=(-0.1, 1.3),
        ylim=(last + 0.7, 0.3),
        ylabel="rank (1 is best)",
        title=title or "Where reranking moved each passage",
    )
    axes.set_xticks([0, 1], ["vector search", "cross-encoder"])
    axes.set_yticks(range(1, last + 1))
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    return figure
