"""From a model's name to its folder: a folder of yours, or a name on the Hugging Face hub.

Weights come as safetensors alone: a pickle can run code when it is loaded.
"""

import json
import re
from pathlib import Path

WANTED = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
SPARED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]  # the same weights once more
PROMPTS = {"encode_kwargs": ("document", "passage", "corpus"), "query_encode_kwargs": ("query",)}


class ModelError(RuntimeError):
    """A model that cannot be had; the message says what is missing and how to get it."""


def find_model(model: str | Path, revision: str | None = None) -> Path:
    """Return the folder of `model`, downloaded first if it has to be.

    Args:
        model: A folder, or a name such as `BAAI/bge-reranker-base`. A folder goes first.
        revision: A commit, a branch or a tag of the hub's repository, by default `main`.

    Raises:
        ModelError: It is neither here nor on the hub, or holds no configuration or no safetensors.
    """
    if (folder := Path(model).expanduser()).is_dir():
        return _whole(folder, f"{model} holds no model")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise ModelError(f"{model} is no folder, and no name on the hub, such as BAAI/bge-m3")
    from huggingface_hub import constants, snapshot_download

    how = {"revision": revision, "allow_patterns": WANTED, "ignore_patterns": SPARED}
    at = f" at revision {revision}" if revision else ""
    fault: Exception | None = None
    for local in (False, True):  # the hub first, for a commit too: the cache may hold a part
        try:
            found = snapshot_download(str(model), local_files_only=local, **how)
            return _whole(Path(found), f"{model}{at} is not whole")
        except Exception as error:  # of the network, of the hub, of the cache
            fault = fault or error
    if isinstance(fault, ModelError):
        raise fault
    command = f"hf download {model}{f' --revision {revision}' if revision else ''}"
    raise ModelError(
        f"{model}{at} is no folder here, nor can it be had from the hub's cache "
        f"({constants.HF_HUB_CACHE}) or the hub ({fault}). Where there is a network, `{command}` "
        "fills the cache, which HF_HOME can bring here; or give the folder of a model"
    ) from fault


def _whole(folder: Path, fault: str) -> Path:
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise ModelError(f"{fault}: expected config.json in its folder")
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(
            f"{fault}: expected weights as *.safetensors. Pickled ones are not loaded, for they "
            "can run code; many repositories hold both, some at another revision"
        )
    return folder


def read_embedding(folder: Path, prompts: dict | None = None) -> tuple[str, dict]:
    """Return the distance that an embedding model was saved with, and its `embedding_settings`.

    `helpers.profiles.Profile` says what takes them. `prompts` stand in for those that were saved. A
    model that names no distance is compared by the cosine, as sentence-transformers does; the
    Manhattan distance is a ModelError.
    """
    files = (folder / "config_sentence_transformers.json", folder / "modules.json")
    saved, modules = (json.loads(f.read_text("utf-8")) if f.is_file() else {} for f in files)
    kinds = {module["type"].rpartition(".")[2] for module in modules}
    distance = saved.get("similarity_fn_name") or "cosine"
    if distance not in ("cosine", "dot", "euclidean"):
        said = f"the embedding {folder} was trained for the distance {distance!r}"
        raise ModelError(f"{said}: expected one for cosine, dot or euclidean")
    unequal = distance == "cosine" and "Normalize" not in kinds  # of length 1, dot is the cosine
    settings = dict.fromkeys(PROMPTS, {"normalize_embeddings": True} if unequal else {})
    prompts = {k: text for k, text in (prompts or saved.get("prompts") or {}).items() if text}
    if prompts or kinds & {"Router", "Asym"}:  # LangChain's class asks for neither by itself
        for how, names in PROMPTS.items():
            prompt = next(filter(None, map(prompts.get, names)), "")
            settings[how] = settings[how] | {"task": names[0], "prompt": prompt}
    strategy = "EUCLIDEAN_DISTANCE" if distance == "euclidean" else "MAX_INNER_PRODUCT"
    return strategy, {how: what for how, what in settings.items() if what}
