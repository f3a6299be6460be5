"""A folder of files to documents: what is read of each type, and what is refused by name."""

import pytest
from pypdf import PdfWriter

from helpers.documents.load import LoadError, load_folder
from helpers.profiles import DATA


def read(folder, name, raw):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return load_folder(folder, encoding="iso-8859-1")[-1]


def test_the_documents_know_their_source_title_audience_and_page(documents):
    facts = [doc.metadata for doc in documents]
    assert len({fact["source"] for fact in facts}) == 11 and all(fact["title"] for fact in facts)
    assert all(fact["source"].startswith(fact["audience"] + "/") for fact in facts)
    pages = [
        d for d in documents if d.metadata["title"] == "Conditions of carriage of Saltmere Ferries"
    ]
    assert [page.metadata["page"] for page in pages] == [1, 2, 3, 4]
    assert "no radar and stays when less than 800 metres can be seen." in pages[2].page_content
    ((text, fact),) = [(d.page_content, d.metadata) for d in documents if "encoding" in d.metadata]
    assert fact["encoding"] == "cp1252" and fact["source"] == "everyone/notice_piers.txt"
    assert all(said in text for said in ("“E-22” means", "£1.50", "“Café Müller”", "Renée"))


def test_a_row_of_a_table_is_one_line_and_what_is_around_the_text_is_left_out(documents):
    text = "\n".join(doc.page_content for doc in documents)
    assert "| Bicycle | £2.00 | £2.00 | not carried |" in text.split("\n")
    asides = ("visitCounter", "font-family", "Start page", "Entries are shown", "cookie")
    assert [aside for aside in asides if aside in text] == []


def test_marks_line_ends_and_hidden_files_are_left_out_and_titles_fall_back(tmp_path):
    for raw in (b"\xef\xbb\xbf# Tea\r\n\r\nHot, \xc2\xa31.\r\n", "# Tea\r\rHot, £1."):
        doc = read(tmp_path, "a/b.MD", raw)
        facts = {"title": "Tea", "page": None, "source": "a/b.MD", "audience": "a"}
        assert doc.page_content == "# Tea\n\nHot, £1." and doc.metadata == facts
    assert read(tmp_path, "b.htm", "<h1>Tea \n<b>hot</b></h1>x").metadata["title"] == "Tea hot"
    assert read(tmp_path, "c.md", "##\n#\n").metadata["title"] == "c"
    assert read(tmp_path, ".git/config", b"\0").metadata["source"] == "c.md"


@pytest.mark.parametrize("head", ["", "<meta charset='{}'>", "<title>T</title>"])
@pytest.mark.parametrize("frame", ["<p>{}</p>", "<main><p>{}</p></main><div>aside</div>"])
@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8"])
def test_html_is_read_with_and_without_main_and_a_declaration(tmp_path, head, frame, encoding):
    text = "The Café Müller opens at seven, and tea costs £2. The naïve façade is from Orléans."
    html = f"<html>{head.format(encoding)}{frame.format(text)}</html>"
    doc = read(tmp_path, "cafe.html", html.encode(encoding))
    assert doc.page_content.split("T\n")[-1].strip() == text
    assert doc.metadata["title"] == ("T" if "title" in head else "cafe")
    assert doc.metadata.get("encoding", "utf-8") == encoding


BAD = {"a.csv: no reader for '.csv'; expected .md": "a,b", "a.md has no text": " \n"}
BAD |= {"b.html has no text": "<nav>x</nav>", "b.pdf cannot be read": b"%PDF-1.7\nbroken"}
BAD |= {"a.pdf has no text: a scan": None, "/ holds no file: expected": ""}


@pytest.mark.parametrize("said", BAD)
def test_what_cannot_be_read_is_named(tmp_path, said):
    writer, blank = PdfWriter(), tmp_path / ".blank"
    writer.add_blank_page(200, 200)
    writer.write(blank)
    name, raw = said.split(" ")[0].strip(":,/") or ".hidden", BAD[said]
    with pytest.raises(LoadError, match=said.strip("/")):
        read(tmp_path, name, blank.read_bytes() if raw is None else raw)


WRONG = {"a.txt": "Tea: £1", "b.html": "<meta charset='utf-9'>Tea: £1"}
WRONG |= {"c.html": "<meta charset='utf-8'>Tea: £1"}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_utf_8_is_not_guessed(tmp_path, name):
    (tmp_path / name).write_bytes(WRONG[name].encode("cp1252"))
    with pytest.raises(LoadError, match="its bytes are not UTF-8.*: name its encoding"):
        load_folder(tmp_path)
    with pytest.raises(LoadError, match="its bytes are not UTF-8.* nor shift_jisx: name its"):
        load_folder(tmp_path, encoding="shift_jisx")
    [doc] = load_folder(tmp_path, encoding="cp1252")
    assert doc.page_content.strip() == "Tea: £1" and doc.metadata["encoding"] == "cp1252"


def test_what_is_utf_8_is_read_as_that_whatever_encoding_is_named(tmp_path):
    doc = read(tmp_path, "a.txt", "Café\x85 opens at nine.")
    assert doc.page_content.splitlines()[0] == "Café" and "encoding" not in doc.metadata


def test_front_matter_names_a_title_and_pages_without_text_are_named(tmp_path):
    doc = read(tmp_path, "a.md", "---\ntitle: 'Tea'\ntags: [x]\n---\n# Learn C#\nHot.")
    assert doc.metadata["title"] == "Tea" and doc.page_content == "# Learn C#\nHot."
    assert read(tmp_path, "b.md", "# Learn C#\nHot.").metadata["title"] == "Learn C#"
    writer = PdfWriter(DATA / "documents" / "staff" / "safety_drills.pdf")
    writer.add_blank_page(200, 200)
    (tmp_path / "a.md").unlink(), (tmp_path / "b.md").unlink()
    writer.write(tmp_path / "c.pdf")
    with pytest.warns(UserWarning, match=r"c.pdf: no text on pages \[3\], left out"):
        assert [doc.metadata["page"] for doc in load_folder(tmp_path)] == [1, 2]
