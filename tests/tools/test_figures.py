"""Every figure in the prose of README, cards and notebooks comes out of a result or an output."""

import figures
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes


def test_every_figure_in_prose_is_the_result_s():
    assert figures.faults() == []


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A repository of a README that claims one gain and a notebook that printed one number."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "claims", lambda: {"README.md": ["a gain of +0.074 [+0.036]"]})
    monkeypatch.setattr(figures, "OTHER", {"README.md": "95 %"})

    def texts(
        readme="It brings a gain\nof +0.074 [+0.036], 95 % of `0.1`.", prose="So 0.54 it is."
    ):
        (tmp_path / "README.md").write_text(readme)
        cells = [new_code_cell("f()", outputs=[new_output("stream", text="nDCG = 0.54\n")])]
        notebook = new_notebook(cells=[new_markdown_cell(prose), *cells])
        (tmp_path / "notebooks" / "04.ipynb").write_text(writes(notebook))
        return figures.faults()

    return texts


def test_what_a_result_or_an_output_says_is_known(texts):
    assert texts() == []
    assert texts(prose="So 0.54 it is,\n\n    code with 0.99\n\nand [a link](x/0.7.html).") == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"readme": "a gain of +0.084 [+0.036]"}, "README.md lacks: a gain of +0.074 [+0.036]"),
        ({"readme": "a gain of +0.074 [+0.036] in 61 %"}, "README.md: where does 61 % come from?"),
        ({"prose": "So 0.55 it is."}, "notebooks/04.ipynb: where does 0.55 come from?"),
        ({"prose": "So in 7 per cent."}, "notebooks/04.ipynb: where does 7 per cent come from?"),
    ],
)
def test_another_figure_is_named(texts, changed, said):
    assert said in texts(**changed)
