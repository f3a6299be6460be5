"""What a role may not see it gets by no way: filters, ids, full text, SQL. Slow: a database."""

import psycopg
import pytest
import sqlalchemy as sa
from langchain_postgres import PGEngine, PGVectorStore

from helpers.documents.access import remove_roles, restrict_rows
from helpers.documents.retrieve import PostgresRetriever

pytestmark = pytest.mark.slow
MAY = {"passenger": {"everyone"}, "crew": {"everyone", "staff"}}
MAY |= {role: {"everyone", "staff", "board"} for role in ("director", "owner")}


def seen(url, script):
    """All that a role gets to see of a script: rows, notices and the error. It is undone."""
    (_, how), shown = sa.create_engine(url).dialect.create_connect_args(url), []
    with psycopg.connect(**how) as connection:
        connection.add_notice_handler(lambda notice: shown.append(notice.message_primary))
        try:
            for statement in script.replace("ALL", "SELECT * FROM passages").split(";; "):
                if statement.startswith("COPY"):
                    with connection.cursor().copy(statement) as copy:
                        shown += [bytes(part).decode() for part in copy]
                elif (cursor := connection.execute(statement)).description:
                    shown += cursor.fetchall()
        except psycopg.Error as error:
            shown.append(error)
        connection.rollback()
    return " ".join(map(str, shown)).casefold()


def secret(shown):
    """Whether it has a word, or the file, that is the board's alone."""
    return "karvik" in shown or "board/minutes" in shown


@pytest.fixture(scope="module")
def stores(engines, embeddings):
    how, stores = {"metadata_columns": ["source", "audience"], "k": 200}, {}
    for role, engine in engines.items():
        engine = PGEngine.from_connection_string(engine.url)
        stores[role] = PGVectorStore.create_sync(engine, embeddings, "passages", **how)
    return stores


def audiences(docs):
    return {doc.metadata["audience"] for doc in docs}


@pytest.mark.parametrize("role", MAY)
def test_each_role_sees_all_that_it_may_and_no_more(stores, engines, embeddings, role):
    docs, store = stores["owner"].similarity_search("salary"), stores[role]
    ids = {doc.id for doc in docs if doc.metadata["audience"] in MAY[role]}
    assert {doc.id for doc in store.similarity_search("salary")} == ids
    assert {doc.id for doc in store.get_by_ids([doc.id for doc in docs])} == ids
    assert audiences(store.max_marginal_relevance_search("Skua", k=90)) == MAY[role]
    words = PostgresRetriever(engine=engines[role], embeddings=embeddings).invoke("Karvik Skua?")
    assert audiences(words) <= MAY[role] and secret(str(words).casefold()) == ("board" in MAY[role])


def test_no_filter_shows_a_passenger_more_and_nothing_is_written(stores):
    owner, store = stores["owner"], stores["passenger"]
    wishes = [{"audience": "board"}, {"audience": {"$in": ["board", "staff"]}}]
    wishes += [{"$or": [{"audience": "board"}, {"source": {"$like": "%minutes%"}}]}]
    for wish in [*wishes, {"audience": {"$ne": "everyone"}}, {"$not": {"audience": "everyone"}}]:
        assert "board" in audiences(owner.similarity_search("ship", filter=wish))
        assert store.similarity_search("ship", filter=wish) == []
    assert store.similarity_search("ship", filter={"audience": "' OR audience <> '"}) == []
    for key in ("audience = 'x' OR true --", "1=1) OR (true", "audience\" OR '1'='1"):
        with pytest.raises((ValueError, sa.exc.SQLAlchemyError)):
            store.similarity_search("ship", filter={key: "x"})
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        store.add_texts(["x"], [{"source": "x", "audience": "everyone"}])
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        store.delete([doc.id for doc in owner.similarity_search("dogs")])


# `peek` tells what it is given, and calls itself so cheap that it would be asked first.
ATTEMPTS = """\
ALL WHERE audience = 'board' OR true
SET ROLE postgres;; ALL
RESET ROLE;; RESET SESSION AUTHORIZATION;; ALL
SET row_security = off;; ALL
ALTER TABLE passages DISABLE ROW LEVEL SECURITY;; ALL
CREATE POLICY mine ON passages USING (true);; ALL
CREATE FUNCTION pg_temp.peek(text) RETURNS bool LANGUAGE plpgsql COST 1e-7 AS $$BEGIN \
RAISE NOTICE '%', $1; RETURN true; END$$;; \
SELECT 1 FROM passages WHERE pg_temp.peek(content)
SELECT content::int FROM passages WHERE content LIKE '%Karvik%'
SELECT key, group_id FROM upsertion_record
COPY passages TO STDOUT
UPDATE passages SET audience = 'everyone' RETURNING content
DELETE FROM passages RETURNING content
INSERT INTO passages (langchain_id, content, source, audience) SELECT 1, 'Karvik', 2, 3;; ALL
ALTER ROLE passenger SUPERUSER;; ALL
ALTER ROLE passenger BYPASSRLS;; ALL"""


@pytest.mark.parametrize("script", ATTEMPTS.split("\n"))
def test_no_sql_shows_others_what_it_shows_the_owner(engines, script):
    roles = ("passenger", "crew", "owner")
    assert [role for role in roles if secret(seen(engines[role].url, script))] == ["owner"]


ODD = ["o'neil", 'say "hi"', "x; DROP TABLE passages; --", "Größe {table}", "%s", "a\\"]


def test_names_with_quotes_are_safe_and_roles_are_replaced_and_removed(engines):
    owner = engines["owner"].url
    urls = restrict_rows(owner, "passages", {role: [*ODD, "' OR true --"] for role in ODD})
    assert [seen(url, "ALL") for url in urls.values()] == [""] * len(ODD)
    again = restrict_rows(owner, "passages", {ODD[1]: [ODD[0], "board"]})[ODD[1]]
    assert secret(seen(again, "ALL")) and "dogs" not in seen(again, "ALL")
    assert again.password != urls[ODD[1]].password and len(again.password) > 20
    with pytest.raises(psycopg.errors.UndefinedTable):
        restrict_rows(owner, "no_such_table", {"guest": ["everyone"]})
    remove_roles(owner, [*ODD, "nobody"])
    left = seen(owner, "SELECT rolname FROM pg_roles;; SELECT policyname FROM pg_policies")
    assert "passenger" in left and not [name for name in [*ODD, "guest"] if name.casefold() in left]


def test_an_owner_s_password_may_hold_any_character(engines):
    owner = engines["owner"].url.set(password="a b%20'\"@/:?#&+=\\é")
    assert seen(restrict_rows(owner, "passages", {"guest": []})["guest"], "ALL") == ""
    remove_roles(owner, ["guest"])


def test_an_owner_who_is_no_superuser_makes_and_removes_readers(engines):
    owner = engines["owner"].url
    maker = owner.set(username="maker", password="x")
    kept = "CREATE TABLE theirs AS SELECT 'everyone' AS audience"
    with engines["owner"].begin() as admin:
        admin.execute(sa.text("CREATE ROLE maker LOGIN CREATEROLE"))
        admin.execute(sa.text("GRANT CREATE ON SCHEMA public TO maker"))
    with sa.create_engine(maker).begin() as connection:
        connection.execute(sa.text(kept))
    for _ in range(2):
        url = restrict_rows(maker, "theirs", {"guest": ["everyone"]})["guest"]
        assert seen(url, "SELECT * FROM theirs") == "('everyone',)"
    remove_roles(maker, ["guest"])
    with pytest.raises(ValueError, match="'maker' was not made here"):
        restrict_rows(owner, "passages", {"maker": ["everyone"]})
    assert "guest" not in seen(owner, "SELECT rolname FROM pg_roles")
    with engines["owner"].begin() as admin:
        admin.execute(sa.text("DROP OWNED BY maker"))
        admin.execute(sa.text("DROP ROLE maker"))


def test_readers_that_would_see_nothing_by_mistake_are_named(engines):
    owner = engines["owner"].url
    with pytest.raises(TypeError, match="audiences of 'guest' are a text"):
        restrict_rows(owner, "passages", {"guest": "everyone"})
    with pytest.warns(UserWarning, match=r"no row of passages is for \['Everyone'\]"):
        assert seen(restrict_rows(owner, "passages", {"guest": ["Everyone"]})["guest"], "ALL") == ""
    remove_roles(owner, ["guest"])
