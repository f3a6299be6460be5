"""Write what opens a notebook elsewhere: badges and first cell, with address and tag of pyproject.

    python tools/opening.py

A notebook in Colab, or downloaded alone, fetches this repository at its own tag; so run it when the
version or the address in pyproject.toml changes.
"""

import posixpath
import re
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY, TAG = PROJECT["urls"]["Repository"], f"v{PROJECT['version']}"
PLACE = REPOSITORY.removeprefix("https://github.com/")
BASE = ("models", "retrieval", "measuring")
# What each notebook imports: groups of packages (tools/install.py).
NEEDS = {
    "01_base_retriever": BASE,
    "02_cross_encoder_rerank": BASE,
    "03_sagemaker_endpoint": (*BASE, "endpoint"),
    "04_measure_the_gain": BASE,
    "05_train_your_own": BASE,
    "06_faster": (*BASE, "scale"),
    "07_bigger": (*BASE, "scale"),
    "08_your_own_documents": (*BASE, "documents"),
}
# What is read in LANGUAGES, too, besides English (translate.py).
PICTURES = ["docs/bi_and_cross_encoder.svg", "docs/funnel.svg"]
SOURCES = ["README.md", *(f"notebooks/{name}.ipynb" for name in NEEDS), *PICTURES]
LANGUAGES = {"es": "Español", "fr": "Français", "hi": "हिन्दी", "ja": "日本語", "zh": "简体中文"}
SWITCH = "🌐 "  # what the line that leads to the other languages starts with
CELL = """\
# @title In Colab, or alone: fetch the repository and what this notebook needs (a clone has it)
import os
import runpy
import subprocess
import sys
from pathlib import Path

needs, tag = [{groups}], "{tag}"
address = "{repository}"
if not (3, 11) <= sys.version_info < (3, 14):
    raise RuntimeError("Python 3.11 to 3.13 is needed, this kernel is " + sys.version.split()[0])
folders = [Path.cwd(), *Path.cwd().parents, Path(f"{name}-{{tag}}").resolve()]
marks = ("data/reranker/revision.json", "tools/install.py")
root = next((f for f in folders if all((f / mark).is_file() for mark in marks)), None)
if root is None:
    root, source = folders[-1], os.environ.get("REPOSITORY", address)
    git = ["git", "clone", "--quiet", "--depth=1", f"--branch={{tag}}", source, str(root)]
    env = os.environ | {{"GIT_TERMINAL_PROMPT": "0"}}
    try:
        subprocess.run(git, check=True, capture_output=True, text=True, env=env)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        raise RuntimeError(f"git could not fetch {{tag}} of {{source}}: {{why}}") from None
runpy.run_path(str(root / "tools/install.py"))["prepare"](*needs)
"""
BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) \
[![Open in GitHub Codespaces](https://github.com/codespaces/badge.svg)]({codespaces})"""


def translated_path(path: str, language: str) -> str:
    """Return where a file of the repository lies in a language: its own place, if in English."""
    if path not in SOURCES or not language:
        return path
    if path == "README.md":
        return f"README.{language}.md"
    return f"{posixpath.dirname(path)}/{language}/{posixpath.basename(path)}"


def switch(source: str, language: str) -> str:
    """Return the line that leads from a file in a language ("": English) to the others."""
    here = posixpath.dirname(translated_path(source, language))
    names = {"": "English"} | LANGUAGES
    links = {code: posixpath.relpath(translated_path(source, code), here) for code in names}
    return SWITCH + " · ".join(
        name if code == language else f"[{name}]({links[code]})" for code, name in names.items()
    )


def without_switch(text: str) -> str:
    """Return Markdown without that line: for pages that lie elsewhere."""
    return re.sub(rf"^{SWITCH}.*\n?", "", text, flags=re.M)


def badges(notebook: str, language: str = "") -> str:
    """Return a notebook's two badges and the line to the other languages, as Markdown."""
    source = f"notebooks/{notebook}.ipynb"
    path = translated_path(source, language)
    colab = f"https://colab.research.google.com/github/{PLACE}/blob/{TAG}/{path}"
    codespaces = f"https://codespaces.new/{PLACE}/tree/{TAG}"
    return f"{BADGES.format(colab=colab, codespaces=codespaces)}\n\n{switch(source, language)}"


def opened(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Put badges and first cell behind a notebook's title, in place of those that it has."""
    groups = ", ".join(f'"{group}"' for group in NEEDS[name])
    where = {"name": PROJECT["name"], "tag": TAG, "repository": REPOSITORY, "groups": groups}
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["setup"]}
    code = new_code_cell(CELL.format(**where).strip(), id="setup", metadata=hidden)
    old = [cell for cell in notebook.cells if cell.id == "setup"]
    code.execution_count = old[0].execution_count if old else None
    rest = [cell for cell in notebook.cells[1:] if cell.id not in ("badges", "setup")]
    notebook.cells[1:] = [new_markdown_cell(badges(name), id="badges"), code, *rest]
    return notebook


def main() -> None:
    """Write badges and first cells into notebooks/ and README.md."""
    for name in NEEDS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        nbformat.write(opened(nbformat.read(path, 4), name), path)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(in_readme(text), encoding="utf-8")


def in_readme(text: str, language: str = "") -> str:
    """Put badges (of notebook 02, which has the answer), languages and tag in place of the old."""
    text = re.sub(r"(?<=mybinder\.org/v2/gh/)[^?]+", f"{PLACE}/{TAG}", text)
    two = badges("02_cross_encoder_rerank", language).partition("\n")[0]
    text = re.sub(r"^\[!\[Open in Colab\].*$", two, text, flags=re.M)
    return re.sub(rf"^{SWITCH}.*$", switch("README.md", language), text, flags=re.M)


if __name__ == "__main__":
    main()
