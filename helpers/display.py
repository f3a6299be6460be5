"""What a reader sees: ranked documents as text, and what reranking moved as a table and a plot."""

import textwrap
from collections.abc import Sequence
from html import escape
from unicodedata import east_asian_width

import matplotlib.pyplot as plt
import pandas as pd
from langchain_core.documents import Document
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

# Okabe and Ito's palette, told apart by readers with any colour vision: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"
# Matplotlib's own font knows no Chinese, Japanese or Hindi; these do, on Linux, macOS and Windows.
FONTS = ["Noto Sans CJK JP", "Noto Sans Devanagari", "Arial Unicode MS"]
FONTS += ["Microsoft YaHei", "Nirmala UI"]


def pretty_print_docs(docs: Sequence[Document]) -> None:
    """Print documents as LangChain's documentation does, a rule of 100 dashes between them."""
    shown = (f"Document {n}:\n\n{doc.page_content}" for n, doc in enumerate(docs, start=1))
    print(f"\n{'-' * 100}\n".join(shown))


class RankChanges(pd.DataFrame):
    """A DataFrame that shows two decimals, and passages whole, from the left; so does its head."""

    @property
    def _constructor(self) -> type:
        return RankChanges

    def __repr__(self) -> str:
        longest = max((len(str(passage)) for passage in self.get("passage", [])), default=0)
        left = {"passage": f"{{:{longest}}}".format}
        return self.to_string(float_format="%.2f", formatters=left, justify="left", max_rows=60)

    def _repr_html_(self) -> str:
        words = self.select_dtypes(exclude="number").columns
        left = dict.fromkeys(words, lambda s: f'<div align="left">{escape(str(s))}</div>')
        # Not as a style, which GitHub drops.
        table = self.to_html(float_format="%.2f", formatters=left, escape=False, max_rows=60)
        return table.replace("passage</th>", '<div align="left">passage</div></th>')


def _wide(text: str) -> bool:
    """Tell whether most of a text's characters are twice as wide as others: Chinese, Japanese."""
    return 2 * sum(east_asian_width(character) in "FW" for character in text) > len(text)


def rank_changes(docs: Sequence[Document], width: int = 60) -> RankChanges:
    """Tabulate what `ScoringReranker` returned: rank, rank before, ranks gained, score, passage.

    Of each passage the first `width` characters are shown; of Chinese and Japanese, half as many.

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
        before, score = doc.metadata["base_rank"], round(doc.metadata["relevance_score"], 2)
        text = " ".join(doc.page_content.split())
        room = width // 2 if _wide(text) else width
        passage = textwrap.shorten(text, room, placeholder="...")
        if passage == "..." and text != "...":  # a text without spaces
            passage = text[: room - 3] + "..."
        rows.append((rank, before, before - rank, score, passage))
    columns = ["rank", "base_rank", "gained", "score", "passage"]
    return RankChanges(rows, columns=columns).set_index("rank")


def describe(figure: Figure, alt: str) -> None:
    """Give a figure the alternative text that a notebook stores with its picture.

    nbconvert and nbsphinx take it from the output's metadata, VS Code from its plain text.
    """
    shown = {"text/plain": alt}, {"image/png": {"alt": alt}}
    figure._repr_mimebundle_ = lambda **_: shown  # IPython asks for it, then draws the picture


def plot_rank_changes(docs: Sequence[Document], top_n: int = 3, title: str = "") -> Figure:
    """Draw a line for each document, from its rank before reranking to its rank after.

    The first `top_n` are thick, labelled with their score and first words, and solid where
    reranking raised them; the others are thin and grey, so that colour is never the only sign.
    """
    table = rank_changes(docs, width=34)
    title = " ".join(title.split()) or "Where reranking moved each passage"
    last = int(table["base_rank"].max()) if len(table) else 1
    figure, axes = plt.subplots(figsize=(7, 0.28 * last + 1.4), layout="constrained")
    thin = {"color": GREY, "linewidth": 0.8, "alpha": 0.6, "marker": ".", "zorder": 2}
    thick = {"linewidth": 2.5, "marker": "o", "zorder": 3, "clip_on": False}
    fonts = [font for font in FONTS if font in get_font_names()]
    text = {"family": ["sans-serif", *fonts], "parse_math": False}
    place = {"xytext": (10, 0), "textcoords": "offset points", "va": "center"}
    alt = f"“{title}”: a line for each of {len(table)} passages, from its old rank to its new one"
    for rank, before, gained, score, passage in table.itertuples():
        if rank > top_n:
            axes.plot([0, 1], [before, rank], **thin)
            continue
        colour, style = (BLUE, "-") if gained > 0 else (ORANGE, "--")
        axes.plot([0, 1], [before, rank], style, color=colour, **thick)
        axes.annotate(f"{score:.2f}  {passage}", (1, rank), **place, **text)
        moved = f"{'rises' if gained > 0 else 'falls'} from {before} to" if gained else "stays at"
        alt += f"{';' if rank > 1 else '.'} “{passage}” {moved} {rank}"
    axes.set(xlim=(-0.1, 1.02), ylim=(last + 0.7, 0.3), ylabel="rank (1 is best)")
    axes.set_title(textwrap.fill(title, 30 if _wide(title) else 60), loc="left", **text)
    axes.set_xticks([0, 1], ["vector search", "cross-encoder"])
    axes.set_yticks(range(1, last + 1))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    describe(figure, f"{alt}.")
    return figure
