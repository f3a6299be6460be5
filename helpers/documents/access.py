"""Who may see which passages, kept by the database: an address for each kind of reader comes out.

PostgreSQL's row-level security: https://www.postgresql.org/docs/current/ddl-rowsecurity.html
"""

import secrets
import warnings
from collections.abc import Mapping, Sequence

import psycopg
import sqlalchemy as sa
from psycopg import sql

# For each kind of reader. The table's owner and superusers are bound by no policy.
ROLE = """\
CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {password};
COMMENT ON ROLE {role} IS 'a reader of passages';
ALTER ROLE {role} SET statement_timeout = '30s';
GRANT SELECT ON {table} TO {role};
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY {role} ON {table} FOR SELECT TO {role} USING (audience = ANY ({audiences}));
"""


def restrict_rows(
    owner: sa.URL, table: str, readers: Mapping[str, Sequence[str]]
) -> dict[str, sa.URL]:
    """Give each kind of reader a role of its own that sees rows of its audiences alone.

    `readers` maps a role's name to what the table's `audience` may be for it. The roles may read
    the table, write nothing and see no other table of the owner's. A role that was made here before
    is replaced. Returns the address under which each connects.

    Raises:
        TypeError: A role's audiences are one text, and no list.
        ValueError: A role of that name was not made here.
        psycopg.Error: `owner` may not make roles, or there is no such table.
    """
    if texts := [role for role, audiences in readers.items() if isinstance(audiences, str)]:
        raise TypeError(f"the audiences of {texts[0]!r} are a text: expected a list of them")
    remove_roles(owner, readers)
    urls = {}
    with _connection(owner) as connection:
        there = sql.SQL("SELECT DISTINCT audience FROM {}").format(sql.Identifier(table))
        known = {audience for (audience,) in connection.execute(there)}
        if unknown := {audience for named in readers.values() for audience in named} - known:
            warnings.warn(f"no row of {table} is for {sorted(unknown)}", stacklevel=2)
        for role, audiences in readers.items():
            password = secrets.token_urlsafe(24)
            names = {"role": sql.Identifier(role), "table": sql.Identifier(table)}
            values = {"password": sql.Literal(password), "audiences": sql.Literal(list(audiences))}
            connection.execute(sql.SQL(ROLE).format(**names, **values))
            urls[role] = owner.set(username=role, password=password)
    return urls


def remove_roles(owner: sa.URL, roles: Sequence[str]) -> None:
    """Remove roles that `restrict_rows` made; those that are not there are passed over.

    Raises:
        ValueError: A role of that name was not made here.
    """
    with _connection(owner) as connection:
        known = "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles"
        known = f"{known} WHERE rolname = ANY (%s)"
        for role, comment in connection.execute(known, [list(roles)]).fetchall():
            if comment != "a reader of passages":
                raise ValueError(f"the role {role!r} was not made here: choose another name")
            # Who may make roles may drop what they were granted only as one of them.
            drop = sql.SQL("GRANT {0} TO CURRENT_USER; DROP OWNED BY {0}; DROP ROLE {0}")
            connection.execute(drop.format(sql.Identifier(role)))


def _connection(owner: sa.URL) -> psycopg.Connection:
    _, how = sa.create_engine(owner).dialect.create_connect_args(owner)
    return psycopg.connect(**how)
