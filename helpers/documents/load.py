"""From a folder of files to documents that know their source, title and page.

PDF by LangChain's loader; HTML becomes Markdown, so that tables keep their rows.
"""

import contextlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from langchain_community.document_loaders import PyPDFLoader
from langchain_core.documents import Document
from markdownify import markdownify

ASIDE = ["script", "style", "nav", "footer", "template", "noscript"]  # of a page, not of its text


class LoadError(ValueError):
    """A file that cannot be read; the message names it and says what to do."""


def load_folder(folder: str | Path, encoding: str | None = None) -> list[Document]:
    """Read every file under `folder`: one document a file, of a PDF one a page.

    `metadata` has `source` (the path within the folder, with `/`), `title` (the file's own, else
    its first line, else its name), `audience` (the first folder of the path, "" without one) and
    `page` (counted from 1, for a PDF; None else). Hidden files are left out. What is not UTF-8 and
    declares nothing else is read in `encoding`, which its `metadata["encoding"]` then says. Of a
    web page `<main>` is read, where it has one. A warning names a PDF's pages without text.

    Raises:
        LoadError: The folder holds no file, or a file is of no type in `READERS`, cannot be read,
            or has no text (scanned pages have none until a program has recognised it).
    """
    folder, documents, wrong = Path(folder), [], []
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    found = {name: paths[name] for name in sorted(paths) if "/." not in f"/{name.as_posix()}"}
    if not found:
        what = "holds no file" if folder.is_dir() else "is no folder"
        raise LoadError(f"{folder} {what}: expected files of {', '.join(READERS)}")
    for name, path in found.items():
        if path.suffix.lower() not in READERS:
            known = f"expected {', '.join(READERS)}: convert it, or add a reader to READERS"
            wrong.append(f"{name.as_posix()}: no reader for {path.suffix or 'it'!r}; {known}")
            continue
        try:
            pages = READERS[path.suffix.lower()](path, encoding)
        except Exception as error:  # each library has its own
            wrong.append(f"{name.as_posix()} cannot be read: {error}")
            continue
        where = {"source": name.as_posix(), "audience": name.parts[0] if name.parent.name else ""}
        for page in pages:
            facts = {"title": _first_line(page.page_content) or path.stem, "page": None}
            page.metadata = facts | page.metadata | where
        full = [page for page in pages if page.page_content.strip()]
        empty = [page.metadata["page"] for page in pages if not page.page_content.strip()]
        if not full:
            wrong.append(f"{name.as_posix()} has no text{': a scan?' * (empty != [None])}")
        elif empty:
            warnings.warn(f"{name.as_posix()}: no text on pages {empty}, left out", stacklevel=2)
        documents += full
    if wrong:
        raise LoadError("\n".join(wrong))
    return documents


def _first_line(text: str) -> str:
    """Return the first line that says something, without the marks of a heading."""
    lines = (re.sub(r"^#+\s*", "", line).strip() for line in text.splitlines())
    return next(filter(None, lines), "")


def _decode(raw: bytes, encoding: str | None, declared: str | None = None) -> tuple[str, dict]:
    """Return the text, and for the metadata its encoding, if that is not UTF-8."""
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8-sig"), {}
    for name in filter(None, (declared, encoding)):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            text = raw.decode(name)
            if not re.search("[\x80-\x9f]", text):  # controls, which Latin-1 finds in cp1252
                return text, {"encoding": name}
    tried = " nor ".join(filter(None, ("UTF-8", declared, encoding)))
    how = "name its encoding, as load_folder(folder, encoding='cp1252') does"
    raise LoadError(f"its bytes are not {tried}: {how}")


def _read_text(path: Path, encoding: str | None) -> list[Document]:
    text, more = _decode(path.read_bytes(), encoding)
    text, head = "\n".join(text.splitlines()), ""
    if found := re.match(r"---\n(.*?)\n---\n", text, re.DOTALL):  # Markdown's front matter
        text, head = text[found.end() :], found[1]
    if named := re.search(r"(?m)^title: *(.*)", head):
        more["title"] = named[1].strip("\"' ")
    return [Document(text, metadata=more)]


def _read_html(path: Path, encoding: str | None) -> list[Document]:
    raw = path.read_bytes()
    declared = EncodingDetector.find_declared_encoding(raw, is_html=True)
    text, more = _decode(raw, encoding, declared)
    soup = BeautifulSoup(text, "lxml")
    for tag in soup(ASIDE):
        tag.decompose()
    heading = soup.title or soup.h1
    title = " ".join(heading.get_text(" ").split()) if heading else path.stem
    text = markdownify(str(soup.main or soup.body or soup), heading_style="ATX", wrap=False)
    return [Document(re.sub(r"\n{3,}", "\n\n", text), metadata={"title": title} | more)]


def _read_pdf(path: Path, encoding: str | None) -> list[Document]:
    pages = PyPDFLoader(path, mode="page").load()
    for page in pages:
        title = page.metadata.get("title") or path.stem
        # LangChain counts pages from 0, a viewer from 1. Lines of print are joined to sentences.
        page.metadata = {"title": title, "page": page.metadata["page"] + 1}
        page.page_content = re.sub(r"(?<![.!?:\n])\n(?!\n)", " ", page.page_content)
    return pages


READERS: dict[str, Callable[[Path, str | None], list[Document]]] = {
    ".md": _read_text,
    ".txt": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
