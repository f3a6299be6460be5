"""One database for the whole run: all documents as passages, and three kinds of reader."""

import pytest
import sqlalchemy as sa
from langchain_classic.indexes import SQLRecordManager
from langchain_core.indexing import index
from langchain_postgres import Column, PGEngine, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig
from langchain_text_splitters import RecursiveCharacterTextSplitter

from helpers.documents.access import restrict_rows
from helpers.documents.database import database
from helpers.documents.load import load_folder

READERS = {"passenger": ["everyone"], "crew": ["everyone", "staff"]}
READERS |= {"director": ["everyone", "staff", "board"]}


@pytest.fixture(scope="session")
def documents(model_dir):
    return load_folder(model_dir.parent / "documents", encoding="cp1252")


@pytest.fixture(scope="session")
def engines(documents, embeddings):
    """Of each kind of reader and the `owner`; `passages` is notebook 08's but for headings."""
    cuts = {"chunk_size": 500, "chunk_overlap": 0, "keep_separator": "end"}
    splitter = RecursiveCharacterTextSplitter(separators=["\n\n", "\n", ". ", " ", ""], **cuts)
    chunks, words = splitter.split_documents(documents), HybridSearchConfig("content_tsv")
    columns = [Column(name, "TEXT", nullable=False) for name in ("source", "audience")]
    how = {"id_column": Column("langchain_id", "TEXT"), "hybrid_search_config": words}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATABASE_URL", raising=False)
        with database() as url:
            engine = PGEngine.from_connection_string(url)
            engine.init_vectorstore_table("passages", 384, metadata_columns=columns, **how)
            how = {"metadata_columns": ["source", "audience"], "hybrid_search_config": words}
            store = PGVectorStore.create_sync(engine, embeddings, "passages", **how)
            records = SQLRecordManager("passages", db_url=url)
            records.create_schema()
            how = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
            assert index(chunks, records, store, **how)["num_added"] == len(chunks) > 80
            urls = {"owner": url} | restrict_rows(url, "passages", READERS)
            yield {role: sa.create_engine(url) for role, url in urls.items()}
