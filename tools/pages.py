"""Build the site: README, notebooks, guide and model card -> build/site/, with Sphinx and myst-nb.

    python tools/pages.py             build/site/index.html and the rest; nothing is executed
    python tools/pages.py linkcheck   asks every link that leaves the site whether it answers

Sphinx reads copies, in which links, folds and plots' alternative text are as it expects them.
Each language is a site of its own: English at the top, Spanish under es/.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path, PurePosixPath

import nbformat
from opening import LANGUAGES, REPOSITORY, ROOT, SOURCES, TAG, translated_path, without_switch
from translate import LINK, SITE, Catalogue, linked_file

MORE = [
    "docs/choosing.md",
    "data/reranker/README.md",
    "data/README.md",
    "helpers/endpoint/README.md",
    "CONTRIBUTING.md",
]
# Code hidden, result hidden: myst-nb's tag, and the words on the fold (almost those of tools/page).
FOLDS = {
    (True, True): ("hide-cell", "Solution: show the code and its result"),
    (True, False): ("hide-input", "Solution: show the code"),
    (False, True): ("hide-output", "Show what it prints"),
}
SPHINX = {"zh": "zh_CN"}  # Sphinx's names of languages, where they differ


def site_files() -> dict[str, dict[str, str]]:
    """For each language, which files of the repository the site has, in order, and where."""
    found = {}
    for language in ("", *LANGUAGES):
        found[language or "en"] = {
            translated_path(path, language): "index.md" if path == "README.md" else path
            for path in [*SOURCES, "docs/rank_changes.svg", *([] if language else MORE)]
        }
    return found


def rewrite_links(text: str, source: str, files: dict[str, str], root: Path) -> str:
    """Links to the site's own files stay in the site, others go to the repository at its tag.

    Args:
        text: Markdown.
        source: the path of its file in the repository.
        files: the site's files in this language, as `site_files` returns them.
        root: the repository.

    Raises:
        ValueError: a link to a file that is not there.
    """

    def replace(match: re.Match) -> str:
        target = match[0]
        path, part = linked_file(target, source)
        if not path:
            return target
        if not (root / path).exists():
            raise ValueError(f"{source} links to {target}, which is not there: expected {path}")
        if path in files:
            return posixpath.relpath(files[path], PurePosixPath(files[source]).parent) + part
        kind = "tree" if (root / path).is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/{TAG}/{path}{part}"

    return LINK.sub(replace, text)


def fold(cell: nbformat.NotebookNode, words: Catalogue) -> None:
    """Fold what JupyterLab hides, and hand on a plot's alternative text."""
    hidden = cell.metadata.get("jupyter", {})
    result = hidden.get("outputs_hidden", False) and bool(cell.outputs)
    settings = {}
    if folded := FOLDS.get((hidden.get("source_hidden", False), result)):
        tag, said = folded
        settings["code_prompt_show"] = words.word(said)
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), tag]
    plots = [o.metadata for o in cell.outputs if "image/png" in o.get("data", {})]
    alts = [plot["image/png"]["alt"] for plot in plots if "alt" in plot.get("image/png", {})]
    if len(plots) > 1 or len(alts) < len(plots):
        raise ValueError(
            f"cell {cell.id} has {len(plots)} plots, {len(alts)} with alternative text: expected "
            "one at most, which helpers.display.describe has given its text"
        )
    if alts:
        settings["image"] = {"alt": alts[0]}
    if settings:
        cell.metadata["mystnb"] = settings


def contents(places: list[str], words: Catalogue) -> str:
    """The tree of which Sphinx makes the sidebar, previous and next."""
    parts = {
        words.word("Notebooks"): [place for place in places if place.endswith(".ipynb")],
        "More": [place for place in places if place.endswith(".md") and place != "index.md"],
    }
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""])
        for caption, names in parts.items()
        if names
    )


def prepare(root: Path, files: dict[str, str], folder: Path, words: Catalogue) -> None:
    """Write the files of one language, as Sphinx shall read them, into a folder."""
    for source, place in files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        links = partial(rewrite_links, source=source, files=files, root=root)
        if source.endswith(".ipynb"):
            notebook = nbformat.read(root / source, as_version=4)
            notebook.cells = [
                c for c in notebook.cells if "setup" not in c.metadata.get("tags", [])
            ]
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = links(without_switch(cell.source))
                    continue
                fold(cell, words)
                for data in (o.data for o in cell.outputs if "text/markdown" in o.get("data", {})):
                    data["text/markdown"] = links(data["text/markdown"])
            nbformat.write(notebook, target)
        elif source.endswith(".md"):
            text = links(without_switch((root / source).read_text(encoding="utf-8")))
            text += contents(list(files.values()), words) if place == "index.md" else ""
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copy(root / source, target)


def build(root: Path, out: Path, builder: str = "html") -> None:
    """Build the pages of every language; what Sphinx warns of is an error."""
    sources = out.with_name(f"{out.name}-sources")
    for old in (out, sources):
        shutil.rmtree(old, ignore_errors=True)
    languages = site_files()
    words = {language: Catalogue(root, SITE, language) for language in languages}
    for language, files in languages.items():
        prepare(root, files, sources / language, words[language])
    for language in languages:
        target = out if language == "en" else out / language
        settings = {
            "language": SPHINX.get(language, language),
            "nb_code_prompt_hide": words[language].word("Hide"),
            "html_theme_options.repository_url": REPOSITORY,
        }
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
        command += ["-c", ROOT / "tools" / "site"]
        command += [part for item in settings.items() for part in ("-D", "=".join(item))]
        command += ["-d", sources / "doctrees" / language, sources / language, target]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    builder = (sys.argv[1:] or ["html"])[0]
    build(ROOT, ROOT / "build" / ("site" if builder == "html" else builder), builder)
