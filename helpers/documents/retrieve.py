"""From a question to candidates: what is near by vectors and what shares words, in one query."""

import json

import sqlalchemy as sa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, PositiveInt

# `plainto_tsquery` makes of a question the words that must all be there; here any of them will do.
CANDIDATES = """
WITH near AS (
  SELECT langchain_id FROM {table} ORDER BY embedding <=> CAST(:vector AS vector) LIMIT :k
), asked AS (
  SELECT CAST(replace(CAST(plainto_tsquery(CAST(:language AS regconfig), :question) AS text),
                      ''' & ''', ''' | ''') AS tsquery) AS words
), worded AS (
  SELECT langchain_id FROM {table}, asked WHERE content_tsv @@ words
  ORDER BY ts_rank_cd(content_tsv, words) DESC, langchain_id LIMIT :words
)
SELECT langchain_id, content, 1 - (embedding <=> CAST(:vector AS vector)) AS similarity,
       CAST(to_jsonb(passages) - ARRAY['langchain_id', 'content', 'embedding', 'content_tsv']
            AS text) AS metadata
FROM {table} AS passages
WHERE langchain_id IN (SELECT langchain_id FROM near UNION SELECT langchain_id FROM worded)
ORDER BY similarity DESC, langchain_id
"""


class PostgresRetriever(BaseRetriever):
    """The `k` nearest passages and the `words` best by full text, nearest first.

    Of a table as `PGVectorStore` makes it with a `HybridSearchConfig`. Each passage carries
    `metadata["similarity"]`, its cosine with the question, which `ScoringReranker(base_weight=...)`
    reads. What the role of `engine` may not see is not found.

    Attributes:
        engine: A SQLAlchemy engine; its role needs SELECT on the table, no more.
        table: The table's name, as SQL spells it.
        embeddings: What the passages were embedded with.
        language: PostgreSQL's name for the language whose endings and stop words are left out.
    """

    engine: sa.Engine
    embeddings: Embeddings
    table: str = "passages"
    k: PositiveInt = 20
    words: PositiveInt = 10
    language: str = "english"

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def _get_relevant_documents(self, query: str, *, run_manager) -> list[Document]:
        if "\0" in query:
            raise ValueError("the question has a NUL character, which is no text")
        vector = self.embeddings.embed_query(query)
        asked = {"vector": str(list(vector)), "question": query, "language": self.language}
        statement = sa.text(CANDIDATES.format(table=self.table))
        with self.engine.connect() as connection:
            rows = connection.execute(statement, asked | {"k": self.k, "words": self.words}).all()
        return [Document(row.content, id=row.langchain_id, metadata=_metadata(row)) for row in rows]


def _metadata(row: sa.Row) -> dict:
    columns = json.loads(row.metadata)
    return (
        (columns.pop("langchain_metadata", None) or {}) | columns | {"similarity": row.similarity}
    )
