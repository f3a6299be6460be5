"""The inference.py of notebook 03: the test takes it out of the notebook, as a reader does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import nbformat
import numpy as np
import pytest

from helpers.endpoint.local import local_endpoint

ROOT = Path(__file__).parents[2]
CELLS = nbformat.read(ROOT / "notebooks" / "03_sagemaker_endpoint.ipynb", 4).cells
(CELL,) = [cell.source for cell in CELLS if cell.source.startswith("%%writefile")]
CODE = CELL.partition("\n")[2] + "\n"
BAD = ["", "{", "[]", "{}", "[[]]", '{"pairs": null}', '{"text_pairs": "ab"}', '{"pairs": ["ab"]}']
BAD += [f'{{"text_pairs": [["a", "b"], {pair}]}}' for pair in ('["a"]', '["a", null]', '["a", 1]')]
BAD += ['{"pairs": {}}', '{"text_pairs": [{"a": 1, "b": 2}]}', '{"text_pairs": [["a", "b", "c"]]}']


def test_it_is_short_and_in_the_house_style():
    assert CELL.count("\n") < 40
    ruff = [sys.executable, "-m", "ruff"]
    for how in (["check"], ["format", "--check"]):
        command = [*ruff, *how, "--stdin-filename", "notebooks/inference.py", "-"]
        subprocess.run(command, input=CODE, text=True, cwd=ROOT, check=True)


def test_the_hub_only_at_a_commit_and_no_score_that_is_no_number(tmp_path, monkeypatch):
    asked, names = [], {}
    exec(CODE, names)
    labels = type("Model", (), {"num_labels": 1})
    names["CrossEncoder"] = lambda name, revision=None: asked.append((name, revision)) or labels
    for name, revision in (("", ""), ("", "0" * 40), ("of/hub", ""), ("of/hub", "main")):
        monkeypatch.setenv("HF_MODEL_ID", name)
        monkeypatch.setenv("HF_MODEL_REVISION", revision)
        with pytest.raises(ValueError, match="without HF_MODEL_REVISION"):
            names["model_fn"](tmp_path)
    monkeypatch.setenv("HF_MODEL_REVISION", "0" * 40)
    names["model_fn"](tmp_path)
    assert asked == [("of/hub", "0" * 40)]
    labels.num_labels = 3
    with pytest.raises(ValueError, match="3 labels"):
        names["model_fn"](tmp_path)
    model = type("Model", (), {"predict": lambda self, pairs, **_: np.array([np.nan])})()
    for body, said in (('{"pairs": [["a", "b"]]}', "not JSON compliant"), ("{", "must be {")):
        with pytest.raises(ValueError, match=said):  # an older toolkit gives no context
            names["transform_fn"](model, body, "application/json", "application/json")


@pytest.mark.slow
def test_langchains_client_gets_the_models_scores(model_dir, reference, odd_pairs, tmp_path):
    from langchain_community.cross_encoders import SagemakerEndpointCrossEncoder

    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(CODE)
    with local_endpoint(folder, workers=1) as endpoint, endpoint.environment():
        client = SagemakerEndpointCrossEncoder(endpoint_name=endpoint.name, region_name="us-east-1")
        scores = client.score(odd_pairs)
        np.testing.assert_allclose(scores, reference.score(odd_pairs), atol=1e-5, rtol=0)
        assert client.score([]) == []

        def ask(body):
            headers = {"Content-Type": "application/json"}
            url = f"{endpoint.container_url}/invocations"
            return httpx.post(url, content=body, headers=headers, timeout=600)

        for body in BAD:
            answer = ask(body)
            assert answer.status_code == 400, body
            assert answer.json()["error"].startswith("the body must be"), body
        for body in (b'{"pairs": [["a", "\xff"]]}', b'{"pairs": [["a", "\\ud800"]]}'):
            assert ask(body).status_code == 500  # as the notebook says of text that is none
        assert ask(json.dumps({"pairs": odd_pairs})).json()["scores"] == scores
