"""From a model's folder to a cross-encoder that may score, or the reason why it may not."""

import threading
import warnings
from pathlib import Path

from sentence_transformers import CrossEncoder

from helpers.hardware import check_device
from helpers.hub import find_model

HEADS = ("ForSequenceClassification", "ForCausalLM")


class ThreadSafe(CrossEncoder):
    """A fast tokenizer keeps its truncation as state, which threads would change for others."""

    lock = threading.RLock()

    def preprocess(self, *args, **settings):
        with self.lock:
            return super().preprocess(*args, **settings)


def load_model(model, revision: str | None = None, device: str | None = None) -> ThreadSafe:
    """Load a cross-encoder from a folder or the hub; `docs/choosing.md` names some.

    Raises:
        ModelError: The model cannot be had (`helpers.hub`).
        ValueError: There is no such device; or the model has no head for scores or more than two
            labels, needs code of its own, or has no fast tokenizer.
    """
    folder, device = str(find_model(model, revision)), check_device(device)
    safe = {"model_kwargs": {"use_safetensors": True}, "trust_remote_code": False}
    try:
        client = ThreadSafe(folder, device=device, local_files_only=True, **safe)
    except ValueError as error:
        if "trust_remote_code" not in f"{error}":
            raise
        raise ValueError(f"{model} needs Python code of its own, which is not run") from error
    if (labels := client.num_labels) > 2:
        said = f"{model} gives {labels} labels and no score: expected one or two"
        raise ValueError(f"{said}. Three, as a rule, say whether one text follows from another")
    kind, saved = type(client.transformers_model).__name__, client.config.architectures
    head, language = HEADS
    if kind.endswith(head) and saved and not saved[0].endswith(head):
        said = f"{model} is a {saved[0]} without a head for scores, which would be random"
        raise ValueError(f"{said}: expected one of *{' or *'.join(HEADS)}")
    modules = Path(folder, "modules.json")
    if kind.endswith(HEADS) and modules.is_file() and "Pooling" in modules.read_text("utf-8"):
        raise ValueError(f"{model} was saved as an embedding model: expected a cross-encoder")
    if not client.tokenizer.is_fast:
        raise ValueError(f"{model} has no fast tokenizer: expected a tokenizer.json")
    if kind.endswith(language) and "document" not in str(client.tokenizer.chat_template):
        said = "has no chat template for a query and a document: is it a reranker?"
        warnings.warn(f"{model} is a language model that {said}", stacklevel=3)
    return client
