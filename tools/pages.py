"""Build the site: README, notebooks, guide and model card -> build/site/, with Sphinx and myst-nb.

    python tools/pages.py             build/site/index.html and the rest; nothing is executed
    python tools/pages.py linkcheck   asks every link that leaves the site whether it answers

Sphinx reads copies, in which links, folds and plots' alternative text are as it expects them.
Each language is a site of its own: English at the top, es under es/ once README.es.md is there.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path, PurePosixPath

import nbformat
from opening import REPOSITORY, TAG

ROOT = Path(__file__).resolve().parents[1]
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
# Code comes first, so that what looks like a link in it stays.
LINK = re.compile(r"```.*?```|`[^`\n]*`|(?<=]\()[^)\s]+(?=\))", re.DOTALL)


def site_files(root: Path) -> dict[str, dict[str, str]]:
    """For each language, which files of the repository the site has, in order, and where."""
    found = {}
    for readme in [root / "README.md", *sorted(root.glob("README.*.md"))]:
        language = readme.name[len("README") : -len(".md")].lstrip(".")
        notebooks = sorted(p.name for p in (root / "notebooks" / language).glob("[0-9]*.ipynb"))
        files = {
            posixpath.join("notebooks", language, name): f"notebooks/{name}" for name in notebooks
        }
        same = [f"docs/{path.name}" for path in (root / "docs").glob("*.svg")]
        same += [] if language else MORE
        found[language or "en"] = {readme.name: "index.md"} | files | {name: name for name in same}
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
        if target.startswith(("`", "#")) or re.match(r"[a-z]+:", target):
            return target
        path, mark, anchor = target.partition("#")
        path = posixpath.normpath(PurePosixPath(source).parent / path)
        if not (root / path).exists():
            raise ValueError(f"{source} links to {target}, which is not there: expected {path}")
        if path in files:
            return (
                posixpath.relpath(files[path], PurePosixPath(files[source]).parent) + mark + anchor
            )
        kind = "tree" if (root / path).is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/{TAG}/{path}{mark}{anchor}"

    return LINK.sub(replace, text)


def fold(cell: nbformat.NotebookNode) -> None:
    """Fold what JupyterLab hides, and hand on a plot's alternative text."""
    hidden = cell.metadata.get("jupyter", {})
    result = hidden.get("outputs_hidden", False) and bool(cell.outputs)
    settings = {}
    if folded := FOLDS.get((hidden.get("source_hidden", False), result)):
        tag, settings["code_prompt_show"] = folded
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


def contents(places: list[str]) -> str:
    """The tree of which Sphinx makes the sidebar, previous and next."""
    parts = {
        "Notebooks": [place for place in places if place.endswith(".ipynb")],
        "More": [place for place in places if place.endswith(".md") and place != "index.md"],
    }
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""])
        for caption, names in parts.items()
        if names
    )


def prepare(root: Path, files: dict[str, str], folder: Path) -> None:
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
                    cell.source = links(cell.source)
                    continue
                fold(cell)
                for data in (o.data for o in cell.outputs if "text/markdown" in o.get("data", {})):
                    data["text/markdown"] = links(data["text/markdown"])
            nbformat.write(notebook, target)
        elif source.endswith(".md"):
            text = links((root / source).read_text(encoding="utf-8"))
            text += contents(list(files.values())) if place == "index.md" else ""
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copy(root / source, target)


def build(root: Path, out: Path, builder: str = "html") -> None:
    """Build the pages of every language; what Sphinx warns of is an error."""
    sources = out.with_name(f"{out.name}-sources")
    for old in (out, sources):
        shutil.rmtree(old, ignore_errors=True)
    languages = site_files(root)
    for language, files in languages.items():
        prepare(root, files, sources / language)
    for language in languages:
        target = out if language == "en" else out / language
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
        command += ["-c", ROOT / "tools" / "site", "-D", f"language={language}"]
        command += ["-D", f"html_theme_options.repository_url={REPOSITORY}"]
        command += ["-d", sources / "doctrees" / language, sources / language, target]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    builder = (sys.argv[1:] or ["html"])[0]
    build(ROOT, ROOT / "build" / ("site" if builder == "html" else builder), builder)
