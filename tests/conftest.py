"""What the tests share: both engines behind one fixture, and the folder of real data."""

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from kpi_helpers.sources import connect

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})  # as in reports, for kernels of notebooks
ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"
DEBIAN = Path("/usr/lib/postgresql/15/bin")
PLACES = itertools.count()  # a schema or file of its own for each table that a test stores


@pytest.fixture(scope="session")
def real_data():
    """Function from the name of a public dataset to its folder; the test is skipped where it is absent."""

    def folder(name):
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"{name} is not here: put the public datasets into ../shared/data beside the checkout")
        return REAL_DATA / name

    return folder


@pytest.fixture(scope="session")
def cdnow_orders():
    """The sample of CDNOW as orders, its dates read as YYYYMMDD."""
    import pandas as pd

    if not (path := REAL_DATA / "cdnow" / "CDNOW_sample.txt").is_file():
        pytest.skip("cdnow is not here: put the public datasets into ../shared/data beside the checkout")
    names = ["master", "customer_id", "on", "discs", "revenue"]
    rows = pd.read_csv(path, sep=r"\s+", header=None, names=names, dtype="str")
    days = pd.to_datetime(rows["on"], format="%Y%m%d")
    return pd.DataFrame(
        {"customer_id": rows["customer_id"], "ordered_at": days, "revenue": rows["revenue"].astype(float)}
    )


@pytest.fixture(scope="session")
def postgres_url():
    """URL of a PostgreSQL 15 of our own on loopback; it is stopped and thrown away at the end."""
    binaries = _postgres_15()
    if binaries is None:
        told = "PostgreSQL 15 is not installed. On Debian or Ubuntu: apt install postgresql-15"
        if os.environ.get("CI") == "true" or os.environ.get("KPI_REQUIRE_POSTGRES") == "1":
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    home, account = Path(tempfile.mkdtemp(prefix="kpi-pg-")), {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = _unprivileged()
        os.chown(home, account["user"], account["group"])
    try:
        init = ["initdb", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8", "-A", "trust", "-U", "postgres"]
        _run(binaries, [*init, "-D", "data"], home, account)
        yield f"postgresql://postgres@127.0.0.1:{_start(binaries, home, account)}/postgres"
        _run(binaries, ["pg_ctl", "stop", "-w", "-m", "immediate", "-D", "data"], home, account)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _postgres_15():
    """Folder of the server's programs: Debian's place first, then PATH."""
    found = shutil.which("pg_ctl")
    for folder in [DEBIAN, *([Path(found).resolve().parent] if found else [])]:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            said = subprocess.run([folder / "initdb", "--version"], capture_output=True, text=True, check=True)
            if " 15." in said.stdout:
                return folder
    return None


def _unprivileged():
    """Arguments of `subprocess.run` that step down from root."""
    import pwd

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    who = known.get("postgres") or known["nobody"]
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def _start(binaries, home, account, attempts=5):
    """Start the server on a free port and return the port; another program may take it first."""
    for attempt in range(attempts):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = f"-F -p {port} -k {home} -c listen_addresses=127.0.0.1 -c max_connections=30"
        command = ["pg_ctl", "start", "-w", "-t", "60", "-D", "data", "-l", "server.log", "-o", settings]
        try:
            _run(binaries, command, home, account)
        except RuntimeError:
            if attempt == attempts - 1:
                raise
        else:
            return port
    return None


def _run(binaries, command, home, account):
    with (home / "programs.log").open("a+b") as said:  # a pipe would be held open by the server
        done = subprocess.run(
            [binaries / command[0], *command[1:]], cwd=home, stdout=said, stderr=said, check=False, **account
        )
        if done.returncode:
            logs = "\n".join(log.read_text(errors="replace") for log in sorted(home.glob("*.log")))
            raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{logs}")


class Engine:
    """One database engine: loads typed rows and connects to them as a user would."""

    def __init__(self, name, home, url=None):
        self.name = name
        self._home, self._url = home, url
        self._sources = []

    def source(self, table_rows, name="channel_daily", mapping=None):
        """Store `table_rows` as the table `name` in a place of its own, and connect to it.

        `table_rows` is a DataFrame, where NaN means missing, or an Arrow table, where it does not, or a dict of
        either by the name of the table; `mapping` is a dict as `connect` takes it.
        """
        tables = table_rows if isinstance(table_rows, dict) else {name: table_rows}
        place, mapping = f"place_{next(PLACES)}", dict(mapping or {})
        target = self._url or self._home / f"{place}.duckdb"
        for each, rows in tables.items():
            if isinstance(rows, pd.DataFrame):
                rows = pa.Table.from_pandas(rows, preserve_index=False)
            if self._url is None:
                with duckdb.connect(str(target)) as connection:
                    connection.register("rows", rows)
                    connection.execute(f'CREATE TABLE "{each}" AS SELECT * FROM rows')
            else:
                _copy_to_postgres(rows, target, place, each)
                mapping[each] = {**mapping.get(each, {}), "table": f"{place}.{each}"}
        found = connect(target, mapping or None)
        self._sources.append(found)
        return found

    def close(self):
        """End the connections: an open one is a warning, and so an error, when it is collected."""
        for source in self._sources:
            source._backend.disconnect()


def _copy_to_postgres(rows, url, schema, name):
    import psycopg

    columns = ", ".join(f'"{field.name}" {_postgres_type(field.type)}' for field in rows.schema)
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        cursor.execute(f'CREATE TABLE "{schema}"."{name}" ({columns})')
        with cursor.copy(f'COPY "{schema}"."{name}" FROM STDIN') as copy:
            for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                copy.write_row(row)


def _postgres_type(kind):
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision}, {kind.scale})"
    types = [
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_integer, "bigint"),
        (pa.types.is_floating, "double precision"),
        (pa.types.is_date, "date"),
        (pa.types.is_timestamp, "timestamp"),
    ]
    return next((name for fits, name in types if fits(kind)), "text")


@pytest.fixture
def duckdb_engine(tmp_path):
    """DuckDB: a file for each table."""
    engine = Engine("duckdb", tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def postgres_engine(tmp_path, postgres_url):
    """PostgreSQL: a schema for each table."""
    engine = Engine("postgres", tmp_path, postgres_url)
    yield engine
    engine.close()


@pytest.fixture(params=["duckdb", "postgres"])
def engine(request):
    """Each engine in turn: what reads or checks a table is tested on both."""
    return request.getfixturevalue(f"{request.param}_engine")
