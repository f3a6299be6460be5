"""Sphinx's settings; tools/pages.py makes what they are applied to."""

import sys
from pathlib import Path

import regex
from sphinx.search import SearchLanguage

sys.path.insert(0, str(Path(__file__).parents[1]))
from opening import LANGUAGES

project = html_title = "Cross-encoder reranking"
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # what cells print as Markdown may hold tables and links, too
myst_heading_anchors = 4  # links to headings work as on GitHub
linkcheck_anchors = False  # many sites, GitHub too, make theirs in the browser
linkcheck_retries = 3

html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_repository_button": True,
    "use_download_button": False,  # it would hand out the copies, which lack the cell that sets up
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search is in the sidebar
    "footer_content_items": [],
    "article_header_end": ["language_switch.html", "article-header-buttons.html"],
}
templates_path = ["."]
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False


# Signs of scripts without spaces: Chinese characters, Hiragana, Katakana.
SIGNS = r"\u3005\u3040-\u30ff\u3400-\u9fff"


class BySigns(SearchLanguage):
    """Words as they are, with their marks; of Chinese and Japanese each sign and each two.

    Sphinx's own search takes a query in these languages for one word, and parts Devanagari at its
    marks.
    """

    def split(self, text):
        found = []
        for run in regex.findall(rf"[{SIGNS}]+|(?V1)[[\w\p{{M}}]--[{SIGNS}]]+", text):
            if regex.match(rf"[{SIGNS}]", run):
                found += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
            else:
                found.append(run)
        return found

    js_splitter_code = rf"""
var splitQuery = (query) =>
  (query.match(/[{SIGNS}]+|(?:(?![{SIGNS}])[\p{{L}}\p{{N}}\p{{M}}_])+/gu) || []).flatMap((run) =>
    run.length > 1 && /^[{SIGNS}]/.test(run)
      ? [...Array(run.length - 1).keys()].map((i) => run.slice(i, i + 2))
      : [run]);
"""


def add_languages(app, page, template, context, doctree):
    """Tell the language switch where this page lies in each language that has it."""
    context["here"] = here = Path(app.srcdir).name
    top = context["content_root"] + ("" if here == "en" else "../")
    context["languages"] = {
        code: (name, f"{top}{'' if code == 'en' else code + '/'}{page}.html")
        for code, name in ({"en": "English"} | LANGUAGES).items()
        if any(Path(app.srcdir).parent.glob(f"{code}/{page}.*"))
    }


def setup(app):
    for code in ("hi", "ja", "zh"):
        app.add_search_language(type(f"BySigns_{code}", (BySigns,), {"lang": code}))
    app.connect("html-page-context", add_languages)
