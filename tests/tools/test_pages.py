"""The site: what Sphinx is given, and the pages that it makes."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output
from opening import LANGUAGES, REPOSITORY, TAG
from pages import FOLDS, build, fold, rewrite_links, site_files
from translate import SITE, Catalogue

ROOT = Path(__file__).resolve().parents[2]
FILES = site_files()["en"]
FIRST = "notebooks/01_base_retriever.ipynb"
HIDDEN = {"source_hidden": True, "outputs_hidden": True}
ENGLISH = Catalogue(ROOT, SITE, "en")
AT_TAG = f"{REPOSITORY}/blob/{TAG}"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("README.md", FIRST, FIRST),
        (FIRST, "../README.md#how-much-better", "../index.md#how-much-better"),
        (FIRST, "../docs/funnel.svg", "../docs/funnel.svg"),
        ("README.md", "LICENSE", f"{AT_TAG}/LICENSE"),
        ("helpers/endpoint/README.md", "wire.py", f"{AT_TAG}/helpers/endpoint/wire.py"),
        ("docs/choosing.md", "../helpers#x", f"{REPOSITORY}/tree/{TAG}/helpers#x"),
        ("README.md", "#in-your-own-code", "#in-your-own-code"),
        ("README.md", "https://example.org/a", "https://example.org/a"),
    ],
)
def test_a_link_stays_in_the_site_or_goes_to_the_repository_at_its_tag(source, target, expected):
    code = "`[x](y)`\n```\n[x](y)\n```"
    text = rewrite_links(f"[this]({target}), {code}", source, FILES, ROOT)
    assert text == f"[this]({expected}), {code}"


def test_a_link_to_a_missing_file_is_an_error():
    with pytest.raises(ValueError, match=r"README\.md links to docs/no\.md, .* expected docs/no"):
        rewrite_links("[x](docs/no.md)", "README.md", FILES, ROOT)


@pytest.mark.parametrize(
    ("hidden", "printed", "tag", "words"),
    [
        (HIDDEN, ["x"], "hide-cell", "Solution: show the code and its result"),
        (HIDDEN, [], "hide-input", "Solution: show the code"),
        ({"outputs_hidden": True}, ["x"], "hide-output", "Show what it prints"),
    ],
)
def test_what_jupyterlab_hides_is_folded(hidden, printed, tag, words):
    outputs = [new_output("stream", text=text) for text in printed]
    cell = new_code_cell("f()", outputs=outputs, metadata={"jupyter": hidden, "tags": ["a"]})
    fold(cell, ENGLISH)
    assert cell.metadata["tags"] == ["a", tag]
    assert cell.metadata["mystnb"] == {"code_prompt_show": words}


def test_a_plot_hands_on_its_alternative_text_and_none_goes_without():
    def drawn(count, **metadata):
        plot = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": metadata}
        return new_code_cell("f()", outputs=[new_output(**plot)] * count)

    described = {"image/png": {"alt": "Rising."}}
    plot, nothing = drawn(1, **described), drawn(0)
    for cell in (plot, nothing):
        fold(cell, ENGLISH)
    assert plot.metadata == {"mystnb": {"image": {"alt": "Rising."}}} and nothing.metadata == {}
    for wrong in (drawn(1), drawn(2, **described)):
        with pytest.raises(ValueError, match=r"plots, \d with alternative text: expected one at"):
            fold(wrong, ENGLISH)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder, built once."""
    out = tmp_path_factory.mktemp("pages") / "site"
    build(ROOT, out)
    return out


def read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def pages_of(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if "_static" not in page.parts]


@pytest.mark.slow
def test_every_page_is_there_with_its_folds_and_alternative_texts(site):
    made = {
        site / language.replace("en", "") / place
        for language, files in site_files().items()
        for place in [*files.values(), "search.md"]
        if not place.endswith(".svg")
    }
    assert set(pages_of(site)) == {path.with_suffix(".html") for path in made}
    for page in pages_of(site):
        soup = read(page)
        # Another h1, outside, is for printing; the search is no article.
        assert len(soup.select("article h1") or soup.select("main h1")) == 1, page
        for image in soup.select("article img"):
            assert len(image["alt"]) > 10, f"{page.name}: {image['src']} has no alternative text"
            assert not image["src"].startswith(REPOSITORY), "a picture outside docs/"
    rerank = read(site / "notebooks" / "02_cross_encoder_rerank.html")
    folds = {summary.p.get_text() for summary in rerank.select("details.hide summary")}
    assert folds == {"Show what it prints", "Solution: show the code and its result"}
    assert not rerank.select(".tag_setup")


@pytest.mark.slow
def test_no_link_inside_the_site_is_dead(site):
    found = {page: read(page) for page in pages_of(site)}
    names = {page: {tag["id"] for tag in soup.select("[id]")} for page, soup in found.items()}
    dead = []
    for page, soup in found.items():
        for tag in soup.select("[href], [src]"):
            link = urlsplit(tag.get("href") or tag.get("src"))
            if link.scheme or link.netloc:
                continue
            target = (page.parent / unquote(link.path)).resolve() if link.path else page
            anchor = unquote(link.fragment)
            if not target.is_file() or (anchor and anchor not in names.get(target, {anchor})):
                dead.append((str(page.relative_to(site)), link.geturl()))
    assert dead == []


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_a_site_of_its_own_whose_links_stay_in_it(site, language):
    files = [place for place in site_files()[language].values() if not place.endswith(".svg")]
    assert len(files) == 9
    for page in [site / language / place for place in files]:
        soup = read(page := page.with_suffix(".html"))
        assert soup.html["lang"] == {"zh": "zh-CN"}.get(language, language)
        assert re.search(r"/commit|/blob/[0-9a-f]{10}/", soup.select_one("article").decode())
        switch = soup.select_one(".language-switch").extract()
        others = {link["lang"]: (page.parent / link["href"]).resolve() for link in switch("a")}
        place = page.relative_to(site / language)
        there = {code: site / code / place for code in LANGUAGES if code != language}
        assert others == there | {"en": site / place} and all(p.is_file() for p in there.values())
        for link in soup.select("article a[href], .bd-sidebar a[href], .prev-next-area a[href]"):
            target = urlsplit(link["href"])
            if not target.scheme and target.path:
                assert (
                    (page.parent / unquote(target.path)).resolve().is_relative_to(site / language)
                ), link
    rerank = read(site / language / "notebooks" / "02_cross_encoder_rerank.html")
    folds = {words.get_text() for words in rerank.select("details.hide summary p")}
    assert len(folds) == 3 and not folds & {"Hide", *(words for _, words in FOLDS.values())}
    assert not read(site / "docs" / "choosing.html").select(".language-switch")


@pytest.fixture
def tab():
    """A browser's tab, on which pages are looked at."""
    if "SITE_CHECK" not in os.environ:
        pytest.skip("`make site-check` starts a browser")
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "no browser: expected chromium (apt-get install chromium) or google-chrome"
    quiet = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    quiet += ["disable-background-networking", "disable-component-update"]
    with sync_playwright() as playwright:
        launch = playwright.chromium.launch
        yield launch(executable_path=chromium, args=[f"--{q}" for q in quiet]).new_page()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_screen_and_axe_finds_nothing(site, scheme, tab):
    from axe_playwright_python.sync_playwright import Axe

    # The corner of a table may be empty; the theme's sidebar is no landmark.
    rules = {name: {"enabled": False} for name in ("empty-table-header", "region")}
    widths = [390, 1200] if scheme == "light" else [1200, 390]  # axe looks at the last
    wrong = []
    tab.emulate_media(color_scheme=scheme)
    for page in pages_of(site):
        tab.goto(page.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        tab.evaluate("document.getAnimations().forEach(animation => animation.finish())")
        for width in widths:
            tab.set_viewport_size({"width": width, "height": 900})
            if (wide := tab.evaluate("document.documentElement.scrollWidth")) > width:
                wrong.append(
                    f"{page.relative_to(site)} is {wide} pixels wide on a screen of {width}"
                )
        if page.relative_to(site).parts[0] in LANGUAGES and page.stem[:2] not in ("in", "02"):
            continue  # made as these two are
        for found in Axe().run(tab, options={"rules": rules}).response["violations"]:
            wrong += [
                f"{page.relative_to(site)}: {found['help']}: {n['html']}" for n in found["nodes"]
            ]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("", "logit"),
        ("es", "puntuación"),
        ("fr", "exercices"),
        ("hi", "अंश"),
        ("ja", "クロスエンコーダーとは"),
        ("zh", "交叉编码器"),
    ],
)
def test_the_search_finds_words_of_the_language(site, language, words, tab):
    tab.goto((site / language / "search.html").as_uri() + f"?q={quote(words)}")
    tab.wait_for_selector("#search-results li a")
    found = [link.get_attribute("href") for link in tab.query_selector_all("#search-results li a")]
    assert any("02_cross_encoder_rerank.html" in address for address in found), found
    tab.goto((site / language / "search.html").as_uri() + "?q=qqqqqq")
    tab.wait_for_function("document.querySelector('.search-summary').innerText.length > 0")
    assert not tab.query_selector_all("#search-results li a")
