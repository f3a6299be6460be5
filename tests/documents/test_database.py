"""A database of our own or DATABASE_URL's: it starts, it ends, and what it cannot be is named."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from helpers.documents.database import DatabaseError, database

START = """\
from helpers.documents.database import database
with database() as url:
    print(url.query['host'], flush=True)
    input()"""


def left(folder):
    """The processes that name the folder, and what lies in it."""
    found = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    return [line for line in found if str(folder) in line], [path.name for path in folder.glob("*")]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["leave", "kill"])
def test_a_database_of_our_own_is_private_and_gone_with_its_block_or_process(monkeypatch, end):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parents[2]}
    with subprocess.Popen([sys.executable, "-c", START], text=True, **how) as process:
        data = Path(process.stdout.readline().strip())
        assert left(data)[0] and data.stat().st_mode & 0o077 == 0
        process.kill() if end == "kill" else process.stdin.close()
    until = time.monotonic() + 600 * (end == "kill")
    while (left(data)[0] or data.parent.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    assert left(data.parent) == ([], []) and not data.parent.exists()


@pytest.mark.slow
def test_a_database_that_is_named_is_used_and_left_running(engines, monkeypatch):
    url = engines["owner"].url.set(drivername="postgres").render_as_string(hide_password=False)
    with database(url) as by_argument:
        monkeypatch.setenv("DATABASE_URL", url)
        with database() as by_environment:
            assert by_argument == by_environment == engines["owner"].url
    with engines["owner"].connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM passages")) > 80
    monkeypatch.setattr(sa.Connection, "scalar", lambda *_: 0)
    with pytest.raises(DatabaseError, match="no pgvector: https://"), database():
        pass


BAD = {"postgresql://me:secret@127.0.0.1:1/x": "cannot be reached", "passages": "cannot be reached"}
BAD |= {"mysql+pymysql://me:secret@127.0.0.1/x": "is for mysql: expected"}
BAD |= {"postgresql://me:secret@127.0.0.1:port/x": "port", "": "OSError: no room; set DATABASE_URL"}


@pytest.mark.parametrize("url", BAD)
def test_what_cannot_be_used_is_refused_without_its_password(monkeypatch, url):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr("helpers.documents.database.SERVE", "raise OSError('no room')")
    with pytest.raises(DatabaseError, match=BAD[url]) as refusal, database(url):
        pass
    assert "secret" not in str(refusal.value)
