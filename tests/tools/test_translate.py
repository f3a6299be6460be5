"""Translations: complete, up to date, with the English code, and what is not so is named."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import nbformat
import polib
import pytest
from opening import LANGUAGES, PICTURES, SOURCES, switch, translated_path
from translate import (
    DRAWN,
    SITE,
    Catalogue,
    Message,
    TranslationError,
    catalogues,
    check,
    english_commit,
    faults,
    find_messages,
    glossary_warnings,
    in_language,
    read_glossary,
    translated_link,
    written,
)

ROOT = Path(__file__).resolve().parents[2]
FORM = "emphasis, code, a link or a list is unbalanced, missing or new"
NOTEBOOKS = [source for source in SOURCES if source.endswith(".ipynb")]
FIRST = NOTEBOOKS[0]
MARKDOWN = """\
# A title

[![badge](https://example.org/x.svg)](https://example.org)

🌐 English

Some *words* that
go on [there](02_cross_encoder_rerank.ipynb) and `[not](there)`.

- one `name`
  of many
- `only code`

| what | how much |
|---|---|
| `x` | 0.5 |
| deep | [seen](../docs/a.svg) |

> quoted

<details><summary>Why</summary>

    indented code

```sh
make words
```

</details>
"""
TEXTS = [
    "A title",
    "Some *words* that go on [there]({1}) and `[not](there)`.",
    "one `name` of many",
]
TEXTS += ["what", "how much", "deep", "[seen]({1})", "quoted", "<details><summary>Why</summary>"]


# The repository's own


def test_every_translation_is_complete_and_up_to_date():
    found = check(ROOT)
    assert not found, "\n".join([*found, "mend these (CONTRIBUTING.md), then `make translations`"])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: Path(source).stem)
def test_code_and_outputs_are_the_english_ones(language, source):
    both = (ROOT / source, ROOT / translated_path(source, language))
    english, translated = (nbformat.read(path, 4) for path in both)
    assert translated.metadata == english.metadata
    for ours, theirs in zip(translated.cells, english.cells, strict=True):
        assert ours.cell_type == "markdown" or ours == theirs
        assert (ours.id, ours.metadata) == (theirs.id, theirs.metadata)


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_lead_to_files_that_are_there_in_the_same_language(language):
    for source in ["README.md", *NOTEBOOKS]:
        path = ROOT / translated_path(source, language)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [
                cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type != "code"
            ]
            text = "\n".join(cells)
        assert switch(source, language) in text
        text = "\n".join(line for line in text.split("\n") if line[:1] not in ("🌐", ">"))
        for target in re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if not re.match(r"[a-z]+:", target):
                found = (path.parent / target).resolve()
                assert found.exists(), f"{path.name}: {target}"
                assert found.relative_to(ROOT).as_posix() not in SOURCES, f"{target} is English"


def test_each_language_has_its_glossary():
    for language in LANGUAGES:
        terms = read_glossary(ROOT / "translations" / language / "glossary.md")
        wanted = "retriever reranker cross-encoder bi-encoder chunk passage endpoint threshold nDCG"
        assert len(terms) >= 40 and {*wanted.split()} <= terms.keys()
        assert all(forms for forms, _ in terms.values())
        assert any(wrong for _, wrong in terms.values())
    for line in glossary_warnings(ROOT):
        warnings.warn(line, stacklevel=1)


def test_pictures_are_the_english_ones_with_other_words():
    for language in LANGUAGES:
        for source in PICTURES:
            both = (source, translated_path(source, language))
            texts = [(ROOT / path).read_text(encoding="utf-8") for path in both]
            english, translated = [DRAWN.findall(text) for text in texts]
            texts[0] = texts[0].replace("<svg ", f'<svg xml:lang="{language}" ', 1)
            assert DRAWN.sub("", texts[0]) == DRAWN.sub("", texts[1])
            assert sum(a == b for a, b in zip(english, translated, strict=True)) < len(english) / 2


# What is found, and put back


def test_messages_are_what_has_words():
    found = find_messages(MARKDOWN, "cell")
    assert [message.text for message in found] == TEXTS
    assert {message.context for message in found} == {"cell"}
    assert found[1].targets == ("02_cross_encoder_rerank.ipynb",)
    assert [message.column for message in found if message.column] == [1, 2, 1, 2]


class Shouting(Catalogue):
    """Translates into capitals, but what `without` names."""

    def __init__(self, *without):
        super().__init__(ROOT, FIRST, "es")
        self.without = without

    def say(self, message):
        parts = re.split(r"(`.*?`|{\d}|<.*?>)", message.text)
        said = "".join(part.upper() if n % 2 == 0 else part for n, part in enumerate(parts))
        return "" if message.text in self.without else said


def test_translated_markdown_keeps_its_form():
    text = in_language(MARKDOWN, Shouting("deep", "quoted", "A title", TEXTS[-1]))
    for line in (
        "# [EN] A title",
        "SOME *WORDS* THAT GO ON [THERE](02_cross_encoder_rerank.ipynb) AND `[not](there)`.",
        "- ONE `name` OF MANY",
        "| WHAT | HOW MUCH |",
        "| `x` | 0.5 |",
        "| [EN] deep | [SEEN](../../docs/a.svg) |",
        "> [EN] quoted",
        "<details><summary>[EN] Why</summary>",
        "    indented code",
        "make words",
        "🌐 English",
    ):
        assert line in text.split("\n")
    assert len(find_messages(text)) == len(TEXTS)


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        ("02_cross_encoder_rerank.ipynb", FIRST, "02_cross_encoder_rerank.ipynb"),
        ("../README.md", FIRST, "../../README.es.md"),
        ("../data/README.md#x", FIRST, "../../data/README.md#x"),
        (FIRST, "README.md", "notebooks/es/01_base_retriever.ipynb"),
        ("docs/rank_changes.svg", "README.md", "docs/rank_changes.svg"),
        ("../docs/funnel.svg", FIRST, "../../docs/es/funnel.svg"),
        ("https://example.org/a", FIRST, "https://example.org/a"),
    ],
)
def test_a_link_leads_to_the_same_language(target, source, expected):
    assert translated_link(target, source, "es") == expected


def test_a_link_to_a_heading_that_is_translated_is_refused():
    with pytest.raises(TranslationError, match="headings are translated, link without"):
        translated_link("../README.md#in-your-own-code", FIRST, "es")


# What is at fault


@pytest.mark.parametrize(
    ("english", "translation", "fault"),
    [
        ("`a` and `b`", "`a` y b", "name `b` is missing"),
        ("one", "`uno`", "name `uno` is not in the English"),
        ("[x]({1}) [y]({2})", "[x]({1}) [y]({1})", "link {2} is missing"),
        ("0.53 of 20", "0,53 de 20", "number 0.53 is missing"),
        ("twenty", "20", ""),
        ("42,000 lines", "42,000 líneas", "number 42000 is missing"),
        ("42,000 lines", "42,000 líneas", "(thousands with U+202F, no comma)"),
        ("42,000 lines", "42\u202f000 líneas", ""),
        ("42,000 lines", "42\u00a0000 líneas", ""),
        ("4,000 lines", "4000 líneas", ""),
        ("from -0.5 to 1.5", "de 0.5 a 1.5", "number -0.5 is missing"),
        ("from -0.5 to 1.5", "de \u22120.5 a 1.5", ""),
        ("*a* b", "*a b", FORM),
        ("**a** b", "a b", FORM),
        ("**a** b", "*a* b", FORM),
        ("`a` b", "`a` `b", FORM),
        ("a", "# a", FORM),
        ("a", "- a", FORM),
        ("a", "a {1}", FORM),
        ("a", "[a](https://example.org)", "link https://example.org is not in the English"),
        ("![a]({1})", "[a]({1})", FORM),
        ("[a]({1})", "[]({1})", FORM),
        ("a", "```a", "name `` is not in the English"),
        ("<b>a</b>", "<b>a", "tag </b> is missing"),
        ("a", "a\n\nb", "it is not one line"),
    ],
)
def test_faults_are_named(english, translation, fault):
    found = faults(Message("", english), translation, "es")
    assert found == [] if not fault else fault in "; ".join(found)


def test_emphasis_that_punctuation_keeps_open_is_found():
    assert faults(Message("", "**A.** B"), "**甲。**乙", "zh")
    assert not faults(Message("", "**A.** B"), "**甲**。乙", "zh")
    assert faults(Message("", "**A.** b **C** d"), "**甲。**乙**丙**丁", "zh") == [FORM]


@pytest.mark.parametrize(
    "text", ['[a](b.md "c")', "[a]: b.md", "a  \nb", "a | b\n---|---\nc | d", "|a|\n|-|\n|b \\| c|"]
)
def test_what_cannot_be_put_back_is_refused(text):
    with pytest.raises(TranslationError, match="cannot be taken apart for translation, in cell: "):
        find_messages(text, "cell")


def test_a_cell_of_a_table_holds_no_bar():
    assert faults(Message("", "a", column=1), "a|b", "fr") == ["a table's cell cannot hold a |"]


# What happens when the English changes


@pytest.fixture
def copy(tmp_path):
    """README, notebooks and catalogues in a folder of their own."""
    for name in (
        "docs",
        "README.md",
        "notebooks",
        "translations",
        *(f"README.{code}.md" for code in LANGUAGES),
    ):
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, tmp_path / name)
    return tmp_path


def test_one_changed_english_sentence_is_named_once_for_each_language(copy):
    path = copy / FIRST
    old, new = "One question proves nothing. ", "A single question proves nothing. "
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    found = check(copy)
    for language in LANGUAGES:
        [mine] = [line for line in found if line.startswith(f"{language} ")]
        assert re.search(rf"^{language} 01_base.*po \S+: not in the catalogue.*'A single", mine)
    stale = [line for line in found if "not up to date" in line]
    assert len(stale) == len(LANGUAGES) == len(found) - len(stale)

    words, files = catalogues(copy)["fr"]
    [catalogue] = [file for file in files if file.source == FIRST]
    catalogue.update("1234567890")
    catalogue = Catalogue(copy, FIRST, "fr")
    [problem] = catalogue.problems()
    assert "fuzzy" in problem
    [entry] = [entry for entry in catalogue.file if entry.fuzzy]
    assert entry.previous_msgid.startswith(old) and entry.msgstr
    shown = written(catalogue, words)
    assert shown.count("[EN] A single question proves nothing.") == 1
    assert shown.count("[EN]") == 2, "the sentence, and the top line, which says what that means"
    assert "blob/1234567890/" in shown


def test_a_translation_edited_in_its_file_is_named(copy):
    path = copy / "README.ja.md"
    path.write_text(path.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    assert check(copy) == ["README.ja.md is not up to date: `make translations`"]


def test_a_word_against_the_glossary_is_a_warning(copy):
    path = copy / "translations" / "es" / "glossary.md"
    head = "| English | Spanish | note |\n|---|---|---|\n"
    path.write_text(f"{head}| chunk | trocito / cacho | ≠ fragment: |\n", encoding="utf-8")
    found = glossary_warnings(copy)
    for said in ("without trocito / cacho", "as fragment"):
        assert any(re.match(rf"es 01_base\S+ 01-\S+: chunk {said}", line) for line in found)


def test_what_is_no_longer_in_the_english_is_dropped_and_a_picture_stays_xml(copy):
    source, words = PICTURES[1], Catalogue(copy, SITE, "fr")
    catalogue = Catalogue(copy, source, "fr")
    entry = next(entry for entry in catalogue.file if entry.msgid == "vector search")
    entry.msgstr = "R & D < vecteurs"
    catalogue.file.append(polib.POEntry(msgid="gone", msgstr="parti"))
    catalogue.file.save(str(catalogue.path))
    catalogue = Catalogue(copy, source, "fr")
    assert catalogue.problems() == ["fr funnel.po: 1 messages are not in the English"]
    assert "R &amp; D &lt; vecteurs<" in written(catalogue, words)
    [gone] = [entry for entry in catalogue.file if entry.msgid == "gone"]
    gone.obsolete = True
    catalogue.file.save(str(catalogue.path))
    catalogue = Catalogue(copy, source, "fr")
    assert catalogue.problems() == []
    catalogue.update("")
    assert "gone" not in catalogue.path.read_text(encoding="utf-8")


def test_a_changed_message_takes_the_nearest_old_translation(copy):
    path, words = copy / "README.md", "Notebook {} takes two minutes on a laptop."
    path.write_text(f"# T\n\n{words.format('01')}\n\n{words.format('02')}\n", encoding="utf-8")
    catalogue = Catalogue(copy, "README.md", "es")
    catalogue.update("1")
    for entry in catalogue.file:
        entry.msgstr = entry.msgid.replace("Notebook", "Cuaderno")
        entry.flags.clear()
    catalogue.file.save(str(catalogue.path))

    def change(old, new):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        again = Catalogue(copy, "README.md", "es")
        again.update("2")
        fuzzy = [e for e in Catalogue(copy, "README.md", "es").file if e.fuzzy]
        return [(entry.previous_msgid, entry.msgstr) for entry in fuzzy]

    was = [(words.format("02"), words.format("02").replace("Notebook", "Cuaderno"))]
    assert change("02 takes two minutes on a", "02 takes two minutes on any") == was
    assert change("02 takes two minutes", "02 takes three minutes") == was, "what it translates"
    assert change("02 takes three minutes on any", "02 takes two minutes on a") == []


def test_a_broken_catalogue_is_one_error(copy):
    path = copy / "translations" / "hi" / f"{SITE}.po"
    path.write_text("no catalogue\n", encoding="utf-8")
    with pytest.raises(TranslationError, match=r"site\.po is no gettext catalogue"):
        catalogues(copy)
    path.write_text('msgid "a"\nmsgstr "b"\n\nmsgid "a"\nmsgstr "c"\n', encoding="utf-8")
    with pytest.raises(TranslationError, match=r"site\.po is no gettext .*already exists"):
        catalogues(copy)


def test_the_commit_is_that_of_the_english_file(tmp_path):
    with pytest.raises(TranslationError, match="git cannot say"):
        english_commit(tmp_path, "README.md")
    (tmp_path / "README.md").write_text("a")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)
    ask = ["git", "rev-parse", "HEAD"]
    head = subprocess.check_output(ask, cwd=tmp_path, text=True)
    assert english_commit(tmp_path, "README.md") == head[:10]
    shallow = ["git", "clone", "-q", "--depth=1", tmp_path.as_uri(), tmp_path / "shallow"]
    subprocess.run(shallow, check=True)
    with pytest.raises(TranslationError, match="no history .* `git fetch --unshallow` first"):
        english_commit(tmp_path / "shallow", "README.md")
    (tmp_path / "README.md").write_text("b")
    with pytest.raises(TranslationError, match="not committed: commit the English text first"):
        english_commit(tmp_path, "README.md")


def test_other_programs_can_read_the_catalogues():
    for path in (ROOT / "translations").rglob("*.po"):
        file = polib.pofile(str(path), check_for_duplicates=True)
        assert file.metadata["Language"] == path.parent.name
        assert "charset=UTF-8" in file.metadata["Content-Type"]
