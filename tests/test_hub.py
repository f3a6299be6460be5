"""A model is a folder, or a name on the hub, of which only safetensors are downloaded."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from langchain_huggingface import HuggingFaceEmbeddings
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from helpers.hub import ModelError, find_model, read_embedding
from helpers.score import LocalCrossEncoder

NAME, COMMIT = "BAAI/bge-reranker-base", "2cfc18c9415c912f9d8155881c133215df768a70"
# What the hub keeps beside the weights; the models that are made here have pickles in their place.
BESIDE = ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "model.msgpack", "run.py"]
PAIRS = [("How deep is the harbour?", "Nine metres."), ("How deep?", "The band played.")]


def write(path, content=b"\x80\x04not to be loaded"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# A folder


def test_a_folder_is_returned_as_it_is(tiny_bert, monkeypatch):
    folder = tiny_bert()
    assert find_model(folder) == find_model(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model(folder.name) == Path(folder.name) and find_model(f"~/{folder.name}") == folder


def test_a_folder_that_is_not_whole_is_named(tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path} holds no model: expected config.json"):
        find_model(tmp_path)
    write(tmp_path / "config.json", b"{}")
    write(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"expected weights as \*.safetensors. Pickled ones"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    "name", ["", "reranker", "no/such/folder", "a b/c", "https://a.b/c", "../x/y"]
)
def test_what_is_neither_a_folder_nor_a_name_is_no_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no folder, and no name on the hub|holds no model"):
        find_model(name)


# The hub, as a server on this machine lays it out


@pytest.fixture
def hub(tiny_bert, tmp_path, monkeypatch):
    """Serves a tiny model under NAME; `asked` is what was asked for, `cache` where it should go."""
    folder, asked = shutil.copytree(tiny_bert(), tmp_path / "served"), []
    for name in BESIDE:
        write(folder / name)

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            path = self.path.partition("?")[0]
            asked.append((self.command, path))
            file = folder / path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
            if path in (f"/api/models/{NAME}/revision/{at}" for at in (COMMIT, "main")):
                body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode()
            elif path == f"/api/models/{NAME}/tree/{COMMIT}":
                files = [path for path in folder.rglob("*") if path.is_file()]
                body = json.dumps([entry(path) for path in files]).encode()
            elif path.startswith(f"/{NAME}/resolve/{COMMIT}/") and file.is_file():
                body = file.read_bytes()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    def entry(file):
        sha = hashlib.sha1(file.read_bytes()).hexdigest()
        name, size = file.relative_to(folder).as_posix(), file.stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": sha}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    server.asked, server.folder, server.cache = asked, folder, tmp_path / "cache"
    yield server
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_model_is_downloaded_once_and_then_works_offline(hub, monkeypatch, revision):
    expected = LocalCrossEncoder(hub.folder).score(PAIRS)
    assert LocalCrossEncoder(NAME, revision=revision).score(PAIRS) == expected
    files = {
        path.rpartition(f"/resolve/{COMMIT}/")[2] for _, path in hub.asked if "resolve" in path
    }
    assert files >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not files & {*BESIDE}
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert LocalCrossEncoder(NAME, revision=revision).score(PAIRS) == expected
    assert find_model(NAME, revision).name == COMMIT
    assert hub.asked == []


def test_a_commit_of_which_the_cache_holds_a_part_is_completed(hub):
    """As it is after its weights alone were loaded: without its templates scores would differ."""
    folder = find_model(NAME, COMMIT)
    (folder / "tokenizer.json").unlink()
    assert (find_model(NAME, COMMIT) / "tokenizer.json").is_file()


@pytest.mark.parametrize("offline", [True, False])
def test_what_cannot_be_had_is_named_with_how_to_get_it(hub, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    name = NAME if offline else "nobody/nothing"
    with pytest.raises(ModelError) as caught:
        LocalCrossEncoder(name, revision=COMMIT)
    said = f"{caught.value}"
    assert said.startswith(f"{name} at revision {COMMIT} is no folder here, nor can it be had")
    assert str(hub.cache) in said and f"`hf download {name} --revision {COMMIT}`" in said


def test_a_repository_of_pickles_is_refused(hub):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected weights as \*.safetensors"):
        find_model(NAME, COMMIT)
    assert not any("bin" in path for _, path in hub.asked)


# What an embedding model was saved with


@pytest.fixture(scope="module")
def embedding(tiny_bert, tmp_path_factory):
    """Saves a tiny embedding model with what it is told, in a folder."""
    from transformers import BertModel

    bert = str(tiny_bert(BertModel))

    def save(normal=False, **how):
        model, folder = SentenceTransformer(bert, device="cpu", **how), tmp_path_factory.mktemp("e")
        if normal:
            model.append(Normalize())
        model.save(str(folder))
        return folder

    return save


BOTH = {"prompts": {"query": "ask: ", "document": "say: "}}
SAVED = [
    ({}, "MAX_INNER_PRODUCT", True),
    ({"similarity_fn_name": "cosine"}, "MAX_INNER_PRODUCT", True),
    ({"normal": True}, "MAX_INNER_PRODUCT", True),
    ({"similarity_fn_name": "dot"}, "MAX_INNER_PRODUCT", False),
    ({"similarity_fn_name": "euclidean"}, "EUCLIDEAN_DISTANCE", False),
    ({**BOTH, "normal": True}, "MAX_INNER_PRODUCT", True),
    ({**BOTH, "similarity_fn_name": "dot"}, "MAX_INNER_PRODUCT", False),
    ({"prompts": {"query": "ask: "}, "default_prompt_name": "query"}, "MAX_INNER_PRODUCT", True),
]


@pytest.mark.parametrize(("how", "distance", "unit"), SAVED)
def test_langchain_embeds_as_sentence_transformers_would(embedding, how, distance, unit):
    folder = embedding(**how)
    strategy, settings = read_embedding(folder)
    assert strategy == distance
    assert bool(settings) == ("prompts" in how or (unit and "normal" not in how))
    ours = HuggingFaceEmbeddings(model_name=str(folder), **settings)
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = ["The harbour is deep.", "Nine metres."]
    found = [ours.embed_query(texts[0]), *ours.embed_documents(texts)]
    wanted = [theirs.encode_query(texts[0], normalize_embeddings=unit)]
    wanted += [*theirs.encode_document(texts, normalize_embeddings=unit)]
    assert [pytest.approx(vector.tolist(), abs=1e-5) for vector in wanted] == found
    assert (ours.embed_query(texts[0]) != ours.embed_documents(texts[:1])[0]) == ("prompts" in how)


def test_a_distance_that_no_index_here_has_is_refused(embedding):
    with pytest.raises(ModelError, match="'manhattan': expected one for cosine, dot or euclidean"):
        read_embedding(embedding(similarity_fn_name="manhattan"))


def test_a_folder_of_transformers_alone_is_compared_by_the_cosine(tiny_bert):
    distance, settings = read_embedding(tiny_bert())
    assert distance == "MAX_INNER_PRODUCT"
    assert settings["encode_kwargs"] == {"normalize_embeddings": True}
