"""Translate README, notebooks, pictures: translations/<language>/*.po -> the files in a language.

    python tools/translate.py    brings the catalogues up to the English text, writes the
                                    translated files, and says what is missing (`make translations`)

A catalogue (gettext) has a message for each paragraph, heading, list item and table cell, and each
text in a picture. Code, outputs and ids are the English ones, and links' targets are numbered: a
translation cannot change them. What has no translation that holds is shown in English, with a mark.
"""

import difflib
import posixpath
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from html import escape, unescape
from pathlib import Path, PurePosixPath

import nbformat
import polib
from markdown_it import MarkdownIt
from opening import (
    LANGUAGES,
    PICTURES,
    REPOSITORY,
    ROOT,
    SOURCES,
    SWITCH,
    badges,
    in_readme,
    translated_path,
)

SITE = "site"  # what the pages say besides: the messages of site.po
TOP = "Translation of the [English original]({1}), as of commit [{2}]({3})."
MARK = "[EN]"
CHANGED = "What is marked [EN] has changed since, and is not translated yet."
WORDS = (
    TOP,
    CHANGED,
    "Notebooks",
    "Solution: show the code and its result",
    "Solution: show the code",
    "Show what it prints",
    "Hide",
)
DRAWN = re.compile(r"(?<=>)[^<>]+(?=</(?:title|desc|text)>)")  # in a picture
MARKDOWN = MarkdownIt("commonmark").enable("table")
# Code comes first, so that what looks like a link in it stays.
LINK = re.compile(r"```.*?```|`[^`\n]*`|(?<=]\()[^)\s]+(?=\))", re.DOTALL)
CODE = re.compile(r"`[^`]*`")
TAG = re.compile(r"</?[a-z][^>]*>")
TARGET = re.compile(r"(?<=]\()[^)]*(?=\))")
NUMBER = re.compile(r"(?:(?<![A-Za-z0-9.])[-+])?\d+(?:[.,]\d+)*")
SPACED = ("es", "fr")  # thousands have a narrow space: a comma would be read as the decimal one


class TranslationError(ValueError):
    """Catalogues or translated files that cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Message:
    """A piece of Markdown to translate: lines `first` to `last` (excluded), behind `prefix`."""

    context: str  # the cell's id; empty in the README
    text: str  # one line; links' targets are {1}, {2}, ...
    targets: tuple[str, ...] = ()
    first: int = 0
    last: int = 0
    prefix: str = ""
    column: int = 0  # of a table, from 1


@cache
def find_messages(text: str, context: str = "") -> list[Message]:
    """Return what there is to translate in Markdown, in order: all that has words, but for code.

    Raises:
        TranslationError: It cannot be put back: a link with a title, a table without outer bars ...
    """
    found, lines, column = [], text.split("\n"), 0
    for token in MARKDOWN.parse(text):
        if token.type in ("tr_open", "table_close"):
            column = 0
        column += token.type in ("th_open", "td_open")
        if token.type not in ("inline", "html_block"):
            continue
        targets: list[str] = []

        def number(match: re.Match, targets: list[str] = targets) -> str:
            if match[0].startswith("`"):
                return match[0]
            targets.append(match[0])
            return f"{{{len(targets)}}}"

        parts = [part.strip() for part in token.content.strip().split("\n")]
        line = LINK.sub(number, " ".join(parts))
        words = re.search(r"[^\W\d_]", TAG.sub("", CODE.sub("", TARGET.sub("", line))))
        if words and not line.startswith(("[![", SWITCH)):  # these are opening's
            first, last = token.map
            prefix = "" if column else lines[first].partition(parts[0])[0]
            found.append(Message(context, line, tuple(targets), first, last, prefix, column))
    again = put_back(text, found, lambda message: message.text, str)
    both = [" ".join(MARKDOWN.render(version).split()) for version in (text, again)]
    if both[0] != both[1] or re.search(r"]\(\S+ +\"|^\[[^]]+]: ", LINK.sub("", text), re.M):
        raise TranslationError(
            f"Markdown that cannot be taken apart for translation, in {context or 'the README'}: a "
            "hard line break, a link with a title or elsewhere, a | in a cell, or a table without "
            "outer bars. Write it otherwise"
        )
    return found


def put_back(
    text: str,
    found: list[Message],
    say: Callable[[Message], str],
    link: Callable[[str], str],
) -> str:
    """Return Markdown with what `say` says for its messages, and `link` for their targets."""
    lines = text.split("\n")
    for message in reversed(found):
        line = say(message)
        for number, target in enumerate(message.targets, start=1):
            line = line.replace(f"]({{{number}}})", f"]({link(target)})")
        if message.column:
            cells = re.split(r"(?<!\\)\|", lines[message.first])
            if message.column < len(cells):
                cells[message.column] = f" {line} "
            line = "|".join(cells)
        lines[message.first : message.last] = [message.prefix + line]
    return "\n".join(lines)


def linked_file(target: str, source: str) -> tuple[str, str]:
    """Return which file of the repository a link out of `source` leads to, or "", and its #part."""
    if target.startswith(("`", "#")) or re.match(r"[a-z]+:", target):
        return "", target
    path, mark, part = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path)), mark + part


def translated_link(target: str, source: str, language: str) -> str:
    """Return a link out of `source` as its translation has it: to the same language, if there."""
    path, part = linked_file(target, source)
    if path in SOURCES and part:
        raise TranslationError(f"{source} links to {target}: headings are translated, link without")
    here = posixpath.dirname(translated_path(source, language))
    return (path and posixpath.relpath(translated_path(path, language), here)) + part


@cache
def faults(message: Message, translation: str, language: str) -> list[str]:
    """Return what a translation has lost of, or broken in, its message."""

    def parts(text: str) -> dict[str, Counter]:
        plain = LINK.sub("", CODE.sub("", text)).replace("\u2212", "-")
        if language in SPACED:
            plain = re.sub(r"(?<=\d)[\u202f\u00a0](?=\d{3})", "", plain)
        found = {"name": CODE, "link": TARGET, "tag": TAG}
        found = {what: Counter(pattern.findall(text)) for what, pattern in found.items()}
        return found | {"number": Counter(NUMBER.findall(plain))}

    def shape(text: str) -> tuple:
        blocks, depth, inside = MARKDOWN.parse(text), 0, Counter()
        for token in (t for block in blocks for t in block.children or ()):
            depth += min(token.nesting, 0)
            signs = len(re.findall(r"[*`]|{\d+}", token.content))
            inside[token.type, depth] += signs if token.type == "text" else 1
            depth += max(token.nesting, 0)
        return [block.type for block in blocks], inside

    text = re.sub(r"(?<=\d),(?=\d{3})", "", message.text) if language in SPACED else message.text
    wanted, given, found = parts(text), parts(translation), []
    for what in wanted:
        spaced = what == "number" and language in SPACED
        hint = " (thousands with U+202F, no comma)" if spaced else ""
        found += [f"{what} {part} is missing{hint}" for part in wanted[what] - given[what]]
        if what != "number":
            found += [f"{what} {part} is not in the English" for part in given[what] - wanted[what]]
    if shape(message.text) != shape(translation) or re.search(r"\[\s*]\(", translation):
        found.append("emphasis, code, a link or a list is unbalanced, missing or new")
    if message.column and "|" in translation:
        found.append("a table's cell cannot hold a |")
    if "\n" in translation or translation != translation.strip():
        found.append("it is not one line")
    return found


class Catalogue:
    """The translations of one file into one language; `language` "" translates nothing."""

    def __init__(self, root: Path, source: str, language: str):
        stem = posixpath.basename(source).partition(".")[0].replace("README", "readme")
        self.root, self.source, self.language = root, source, language
        self.path = root / "translations" / language / f"{stem}.po"
        try:
            how = {"wrapwidth": 100, "check_for_duplicates": True}
            self.file = polib.pofile(str(self.path), **how) if self.path.exists() else None
        except (OSError, ValueError) as error:
            raise TranslationError(f"{self.path} is no gettext catalogue: {error}") from error
        if self.file is None:
            self.file = polib.POFile(wrapwidth=100)
            self.file.metadata = {
                "Project-Id-Version": "cross-encoder-reranking",
                "Language": language,
                "MIME-Version": "1.0",
                "Content-Type": "text/plain; charset=UTF-8",
                "Content-Transfer-Encoding": "8bit",
            }
        current = [entry for entry in self.file if not entry.obsolete]
        self.entries = {(entry.msgctxt or "", entry.msgid): entry for entry in current}

    @property
    def commit(self) -> str:
        """The commit of the English file that was translated."""
        return self.file.metadata.get("X-English-Commit", "")

    @cached_property
    def messages(self) -> list[Message]:
        """What the English file has to translate, each piece once."""
        if self.source == SITE:
            return [Message("", text) for text in WORDS]
        path = self.root / self.source
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            cells = [c for c in cells if c.cell_type == "markdown" and c.id != "badges"]
            found = [message for cell in cells for message in find_messages(cell.source, cell.id)]
        elif path.suffix == ".svg":
            drawn = DRAWN.findall(path.read_text(encoding="utf-8"))
            found = [Message("", unescape(text)) for text in drawn]
        else:
            found = find_messages(path.read_text(encoding="utf-8"))
        return list({(message.context, message.text): message for message in found}.values())

    def fault(self, message: Message) -> str:
        """Return why a message has no translation that holds, or nothing."""
        entry = self.entries.get((message.context, message.text))
        if entry is None:
            return "not in the catalogue: new, or changed"
        if not entry.msgstr:
            return "no translation"
        if entry.fuzzy:
            return "fuzzy: the English text has changed"
        return "; ".join(faults(message, entry.msgstr, self.language))

    def say(self, message: Message) -> str:
        """Return the translation of a message, or nothing, where none holds."""
        return "" if self.fault(message) else self.entries[message.context, message.text].msgstr

    def problems(self) -> list[str]:
        """Return a line for each message that is missing, changed or at fault."""
        name = f"{self.language} {self.path.name}"
        found = [
            f"{name} {message.context}: {why}: {message.text[:60]!r}"
            for message in self.messages
            if (why := self.fault(message))
        ]
        wanted = {(message.context, message.text) for message in self.messages}
        left = self.entries.keys() - wanted
        if left and wanted <= self.entries.keys():  # or they are what has changed
            found.append(f"{name}: {len(left)} messages are not in the English")
        return found

    def update(self, commit: str) -> None:
        """Bring the catalogue up to the English text: what resembles an old message is fuzzy."""

        def alike(one: tuple[str, str], other: tuple[str, str]) -> float:
            return difflib.SequenceMatcher(None, one[1], other[1]).ratio()

        old, entries = dict(self.entries), {}
        kept = {(m.context, m.text) for m in self.messages} & old.keys()
        spare = {key: entry for key, entry in old.items() if key not in kept and entry.msgstr}
        for message in self.messages:
            key = message.context, message.text
            entry = old.get(key) or polib.POEntry(
                msgid=message.text, msgctxt=message.context or None
            )
            if key not in kept and spare:
                near = max(spare, key=lambda k: (alike(k, key), k[0] == key[0]))
                if alike(near, key) > 0.6 and (near[0] == key[0] or near[1] == key[1]):
                    was = spare.pop(near)
                    entry.msgstr, before = was.msgstr, was.previous_msgid or near[1]
                    if before != key[1]:
                        entry.previous_msgid = before
                        entry.flags.append("fuzzy")
            if not entry.fuzzy:
                entry.previous_msgid = None
            entries[key] = entry
        self.entries = entries
        self.file[:] = entries.values()
        if commit:
            self.file.metadata["X-English-Commit"] = commit
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file.save(str(self.path))

    def word(self, text: str) -> str:
        """Return the translation of one of WORDS, or itself; of another text, a KeyError."""
        if text not in WORDS:
            raise KeyError(text)
        return self.say(Message("", text)) or text


def in_language(text: str, catalogue: Catalogue, context: str = "") -> str:
    """Return Markdown of the catalogue's file in its language, links leading to that language."""

    def say(message: Message) -> str:
        marked = re.sub(r"^((?:<[^>]*>)*)", rf"\1{MARK} ", message.text)
        return catalogue.say(message) or marked

    link = partial(translated_link, source=catalogue.source, language=catalogue.language)
    return put_back(text, find_messages(text, context), say, link)


def top_line(catalogue: Catalogue, words: Catalogue) -> str:
    """Return the line that says of which English file, at which commit, this is a translation."""
    source, commit = catalogue.source, catalogue.commit
    here = posixpath.dirname(translated_path(source, catalogue.language))
    places = posixpath.relpath(source, here), commit, f"{REPOSITORY}/blob/{commit}/{source}"
    line = words.word(TOP)
    for number, place in enumerate(places, start=1):
        line = line.replace(f"{{{number}}}", place)
    behind = any(not catalogue.say(message) for message in catalogue.messages)
    return f"> {line}" + (f" **{words.word(CHANGED)}**" if behind else "")


def written(catalogue: Catalogue, words: Catalogue) -> str:
    """Return the translated file: Markdown, or a notebook with the English code and outputs."""
    source, language = catalogue.source, catalogue.language

    def with_top(text: str) -> str:
        title, _, rest = text.partition("\n")
        return f"{title}\n\n{top_line(catalogue, words)}\n{rest}"

    def drawn(match: re.Match) -> str:
        said = catalogue.say(Message("", unescape(match[0])))
        return escape(said, quote=False) or match[0]

    if not source.endswith(".ipynb"):
        text = (catalogue.root / source).read_text(encoding="utf-8")
        if source.endswith(".svg"):  # says its language, so that signs have that language's form
            return DRAWN.sub(drawn, text).replace("<svg ", f'<svg xml:lang="{language}" ', 1)
        return in_readme(with_top(in_language(text, catalogue)), language)
    notebook = nbformat.read(catalogue.root / source, as_version=4)
    for cell in notebook.cells:
        if cell.id == "badges":
            cell.source = badges(PurePosixPath(source).stem, language)
        elif cell.cell_type == "markdown":
            cell.source = in_language(cell.source, catalogue, cell.id)
    notebook.cells[0].source = with_top(notebook.cells[0].source)
    return nbformat.writes(notebook) + "\n"


def catalogues(root: Path) -> dict[str, tuple[Catalogue, list[Catalogue]]]:
    """Return each language's catalogue of the pages' own words, and those of its files."""
    return {
        language: (
            Catalogue(root, SITE, language),
            [Catalogue(root, source, language) for source in SOURCES],
        )
        for language in LANGUAGES
    }


def check(root: Path) -> list[str]:
    """Return what is wrong with the translations, a line each: nothing, when all is well.

    A message without a translation that holds, and a file that is not what `written` returns.
    """
    found = []
    for words, files in catalogues(root).values():
        found += words.problems()
        for catalogue in files:
            found += catalogue.problems()
            path = root / translated_path(catalogue.source, catalogue.language)
            if not path.exists() or path.read_text(encoding="utf-8") != written(catalogue, words):
                found.append(f"{path.relative_to(root)} is not up to date: `make translations`")
    return found


def glossary_warnings(root: Path) -> list[str]:
    """Return where a glossary's word is translated otherwise, or as it says it is not to be."""
    found = []
    for language, (_, files) in catalogues(root).items():
        terms = read_glossary(root / "translations" / language / "glossary.md")
        for catalogue in files[: -len(PICTURES)]:  # whose lines are no sentences
            for message in catalogue.messages:
                said, text = catalogue.say(message).casefold(), CODE.sub("", message.text)
                where = f"{language} {catalogue.path.name} {message.context}"
                for term, (forms, wrong) in terms.items():
                    if not said or not re.search(rf"\b{re.escape(term)}", text, re.IGNORECASE):
                        continue
                    if not any(form.casefold() in said for form in forms):
                        found.append(f"{where}: {term} without {' / '.join(forms)}")
                    found += [
                        f"{where}: {term} as {bad}" for bad in wrong if bad.casefold() in said
                    ]
    return found


def read_glossary(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return how each English term may be rendered, and how it may not.

    A line is `| term | one / another | note |`; a note that starts with `≠ this / that:` says what
    is wrong.
    """
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    rows = [line.strip("|").split("|", 2) for line in lines if line.startswith("|")][2:]
    found = {}
    for term, forms, note in rows:
        wrong = re.match(r"\s*≠([^:]*):", note)
        listed = forms, wrong[1] if wrong else ""
        found[term.strip()] = tuple(
            [f.strip() for f in x.split(" / ") if f.strip()] for x in listed
        )
    return found


def english_commit(root: Path, source: str) -> str:
    """Return the commit that last changed an English file.

    Raises:
        TranslationError: It has changes that are not committed, the clone has no history, or git is
            not there.
    """
    ask = ["rev-parse --is-shallow-repository", f"status --porcelain -- {source}"]
    ask += [f"log -1 --format=%h --abbrev=10 -- {source}"]
    how = {"cwd": root, "check": True, "capture_output": True, "text": True}
    try:
        ran = [subprocess.run(["git", *words.split()], **how) for words in ask]
        shallow, changed, commit = (ended.stdout.strip() for ended in ran)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        raise TranslationError(f"git cannot say which commit {source} is of: {why}") from error
    if shallow == "true":
        raise TranslationError(
            "this clone has no history (--depth): `git fetch --unshallow` first, for translations "
            "name the commit of the English text"
        )
    if changed or not commit:
        raise TranslationError(
            f"{source} has changes that are not committed: commit the English text first, for its "
            "translations name that commit"
        )
    return commit


def main() -> int:
    commits = {source: english_commit(ROOT, source) for source in SOURCES}
    for words, files in catalogues(ROOT).values():
        words.update("")
        for catalogue in files:
            catalogue.update(commits[catalogue.source])
            path = ROOT / translated_path(catalogue.source, catalogue.language)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(written(catalogue, words), encoding="utf-8", newline="\n")
    print(
        *(f"warning: {line}" for line in glossary_warnings(ROOT)), *(found := check(ROOT)), sep="\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a log on Windows has few letters
    try:
        sys.exit(main())
    except TranslationError as error:
        sys.exit(str(error))
