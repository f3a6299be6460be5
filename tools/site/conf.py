"""Sphinx's settings; tools/pages.py makes what they are applied to."""

from pathlib import Path

from babel import Locale

project = html_title = "Cross-encoder reranking"
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # what cells print as Markdown may hold tables and links, too
nb_code_prompt_hide = "Hide"
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


def add_languages(app, page, template, context, doctree):
    """Tell the language switch where this page lies in each language that has it."""
    top = context["content_root"] + ("" if app.config.language == "en" else "../")
    folders = sorted(f for f in Path(app.srcdir).parent.iterdir() if any(f.glob(f"{page}.*")))
    context["languages"] = {
        folder.name: (
            Locale.parse(folder.name).get_display_name().capitalize(),
            f"{top}{'' if folder.name == 'en' else folder.name + '/'}{page}.html",
        )
        for folder in folders
    }


def setup(app):
    app.connect("html-page-context", add_languages)
