"""The embedded weights are a plain BERT: any tool loads them, with nothing of this project."""

import json
import subprocess
import sys

import numpy as np
import pytest

PAIRS = [
    ("How deep is the harbour?", "It was dredged to nine metres."),
    ("How deep is the harbour?", "The band played until it rained. " * 12),
    ("why", ""),
]
# Each sets `scores` for PAIRS with the folder of the weights.
TOOLS = {
    "AutoModelForSequenceClassification": """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(folder)
assert type(model).__name__ == "BertForSequenceClassification"
texts = map(list, zip(*pairs))
tokens = AutoTokenizer.from_pretrained(folder)(*texts, padding=True, return_tensors="pt")
with torch.no_grad():
    scores = torch.sigmoid(model(**tokens).logits[:, 0])
""",
    "rerankers": """
import torch
from rerankers import Reranker
ranker = Reranker(folder, model_type="cross-encoder", verbose=0, device="cpu", dtype="float32")
logits = [ranker.rank(query=query, docs=[text]).results[0].score for query, text in pairs]
scores = torch.sigmoid(torch.tensor(logits))
""",
    "ONNX": """
import os, tempfile, numpy, onnxruntime, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
texts = map(list, zip(*pairs))
tokens = AutoTokenizer.from_pretrained(folder)(*texts, padding=True, return_tensors="pt")
names = ["input_ids", "attention_mask", "token_type_ids"]
file = os.path.join(tempfile.mkdtemp(), "model.onnx")
sizes = {0: torch.export.Dim("pairs"), 1: torch.export.Dim("tokens", max=512)}
samples = {name: tokens[name][:2, :-1].contiguous() for name in names}
how = {"input_names": names, "output_names": ["logits"], "dynamo": True, "verbose": False}
shapes = {name: sizes for name in names}
torch.onnx.export(model, (), file, kwargs=samples, dynamic_shapes=shapes, **how)
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {n: tokens[n].numpy() for n in names})[0][:, 0]
scores = 1 / (1 + numpy.exp(-logits))
""",
}
FRAME = """
import json, sys
sys.modules["helpers"] = None  # importing it is an error from here on
folder, pairs = sys.argv[1], json.loads(sys.argv[2])
{tool}
print(json.dumps([float(score) for score in scores]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_without_our_code_gives_the_scores(tool, model_dir, reference, tmp_path):
    code = FRAME.format(tool=TOOLS[tool])
    command = [sys.executable, "-W", "ignore", "-c", code, str(model_dir), json.dumps(PAIRS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(scores, reference.score(PAIRS), atol=1e-5)


def test_the_weights_are_small_and_plain(model_dir):
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert (config["num_hidden_layers"], config["hidden_size"]) == (6, 384)
    assert (model_dir / "model.safetensors").stat().st_size < 50_000_000
