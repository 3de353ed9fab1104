"""Set-up: the pins hold and are needed, the lock is closed, a bare machine gets one clear line."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import ibis
import pyarrow as pa
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kpi_helpers

ROOT = Path(kpi_helpers.__file__).parents[1]
CORE = ["jupyterlab", "pandas", "seaborn", "scipy", "statsmodels", "papermill", "nbval"]


@pytest.fixture(scope="module")
def lock_text():
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lock(lock_text):
    """Entries of the lock: each requirement with the text of its hashes."""
    joined = lock_text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(Requirement(line.partition("--hash")[0]), line[len(line.partition("--hash")[0]) :]) for line in lines]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(lock, name, **environment):
    """Versions that the lock pins for a package, in one environment or in all."""
    found = [entry for entry, _hashes in lock if canonicalize_name(entry.name) == canonicalize_name(name)]
    if environment:
        found = [entry for entry in found if entry.marker is None or entry.marker.evaluate(environment)]
    return [next(iter(entry.specifier)).version for entry in found]


ON_311 = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_system": "Linux",
}


# --- the engines: ibis 12.0.0 breaks on duckdb 2 and on sqlglot 30.18, and no installer says so
# (ibis-project/ibis #12101, #12124). When a later ibis lifts this, lift the pins and change this test.

FORBIDDEN = {"ibis-framework": ("12", "13"), "duckdb": ("1.5", "2"), "sqlglot": ("30", "30.18")}


@pytest.mark.parametrize("name", list(FORBIDDEN))
def test_installed_engine_lies_below_the_version_that_breaks(name):
    low, high = FORBIDDEN[name]

    assert Version(low) <= Version(version(name)) < Version(high)


@pytest.mark.parametrize("name", list(FORBIDDEN))
def test_lock_and_project_keep_the_engine_below_the_version_that_breaks(lock, project, name):
    low, high = FORBIDDEN[name]
    [asked] = [r for r in map(Requirement, project["project"]["dependencies"]) if r.name == name]

    assert pins(lock, name)
    assert all(Version(low) <= Version(pin) < Version(high) for pin in pins(lock, name))
    assert not asked.specifier.contains(high)


#: what DuckDB 1.5 says of the calls that DuckDB 2 no longer has, and which ibis 12.0.0 still makes
still_there = pytest.mark.filterwarnings("ignore:fetch_.* is deprecated:DeprecationWarning")


@pytest.fixture(params=["memory", "file"])
def database(request, tmp_path):
    connected = ibis.duckdb.connect() if request.param == "memory" else ibis.duckdb.connect(tmp_path / "shop.duckdb")
    yield connected
    connected.disconnect()


ORDERS = pa.table({"channel": ["Email", "Search", "Email"], "orders": [1, 2, 3]})


@still_there
def test_engine_creates_lists_and_drops_tables(database):
    made = database.create_table("orders", ORDERS)
    database.create_table("big", made.filter(made.orders > 1))
    database.create_table("big", made, overwrite=True)

    assert sorted(database.list_tables()) == ["big", "orders"]
    assert database.table("big").count().to_pyarrow().as_py() == 3

    database.drop_table("big")
    database.drop_table("never_there", force=True)

    assert database.list_tables() == ["orders"]


@still_there
def test_engine_creates_and_drops_views(database):
    made = database.create_table("orders", ORDERS)
    view = database.create_view("by_channel", made.group_by("channel").agg(n=made.orders.sum()))

    assert view.order_by("channel").to_pyarrow().to_pylist() == [
        {"channel": "Email", "n": 4},
        {"channel": "Search", "n": 2},
    ]
    assert sorted(database.list_tables()) == ["by_channel", "orders"]

    database.drop_view("by_channel")

    assert database.list_tables() == ["orders"]


@still_there
def test_engine_hands_out_batches(database):
    made = database.create_table("orders", ORDERS)

    with made.order_by("orders").to_pyarrow_batches(chunk_size=2) as batches:
        rows = [row for batch in batches for row in batch.to_pylist()]

    assert [row["orders"] for row in rows] == [1, 2, 3]


@still_there
def test_engine_opens_a_file_for_reading_only(tmp_path):
    written = ibis.duckdb.connect(tmp_path / "shop.duckdb")
    written.create_table("orders", ORDERS)
    written.disconnect()

    read = ibis.connect(f"duckdb://{tmp_path / 'shop.duckdb'}?read_only=True")

    assert read.list_tables() == ["orders"]
    assert read.table("orders").orders.sum().to_pyarrow().as_py() == 6
    read.disconnect()


# --- the lock


def test_lock_pins_every_entry_with_hashes(lock):
    assert len(lock) > 100
    for entry, hashes in lock:
        assert [s.operator for s in entry.specifier] == ["=="], entry
        assert entry.url is None
        found = hashes.split()
        assert found, entry
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in found), entry


def test_lock_names_no_address_and_no_option(lock_text):
    assert re.findall(r"\S*://\S*|\bgit\+\S*|^-\S+|\S+\.(?:org|com|net|io)/\S*", lock_text, re.MULTILINE) == []
    assert re.findall(r"--(?!hash=)\S+", lock_text) == []


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13", "3.14"])
def test_lock_holds_one_version_of_each_package_for_each_python(lock, minor):
    here = {**ON_311, "python_version": minor, "python_full_version": f"{minor}.3"}
    names = sorted({canonicalize_name(entry.name) for entry, _hashes in lock})

    assert [name for name in names if len(pins(lock, name, **here)) > 1] == []
    assert [name for name in CORE if len(pins(lock, name, **here)) != 1] == []


def asked(project):
    """Everything that the project asks for: to run, as extras, and to develop."""
    named = [*project["project"]["dependencies"]]
    named += [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    named += [each for group in project["dependency-groups"].values() for each in group]
    return [Requirement(each) for each in [*named, *project["build-system"]["requires"]]]


def test_ranges_of_the_project_hold_every_pin_of_the_lock(lock, project):
    for requirement in asked(project):
        held = pins(lock, requirement.name)

        assert held, f"{requirement.name} is not in the lock"
        assert [pin for pin in held if not requirement.specifier.contains(pin)] == [], requirement


def test_project_asks_for_each_package_once(project):
    names = [canonicalize_name(requirement.name) for requirement in asked(project)]

    assert [name for name in set(names) if names.count(name) > 1] in ([], ["flit-core"])  # build-system and dev
    assert set(CORE) <= set(names)


def test_python_of_the_project_is_what_the_makefile_asks_for(project):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert project["project"]["requires-python"] == ">=3.11"
    assert "(3, 11)" in makefile and "3.11 or newer" in makefile


# --- conda


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_conda_supplies_python_and_pip_only(environment):
    plain = [each for each in environment["dependencies"] if not isinstance(each, dict)]

    assert plain == ["python=3.11", "pip"]
    assert [list(each) for each in environment["dependencies"] if isinstance(each, dict)] == [["pip"]]


def test_environment_names_the_core_packages_with_the_pins_of_the_lock(environment, lock):
    [block] = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    named = [line for line in block if not line.startswith("-")]

    assert named == [f"{name}=={pin}" for name in CORE for pin in pins(lock, name, **ON_311)]
    assert [line for line in block if line.startswith("-")] == ["-e ."]


# --- make setup on a machine that lacks something

#: a python3 that answers what the Makefile asks; each `case` is one question
FAKE = """\
#!/bin/sh
case "$*" in
  *version_info*) exit {old} ;;
  *ensurepip*) [ {bare} = 0 ] || echo "Traceback: No module named 'ensurepip'" >&2; exit {bare} ;;
  -V|--version) echo "Python {version}" ;;
  *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"
    printf '#!/bin/sh\\necho "Traceback: Could not fetch" >&2\\nexit 1\\n' > "$last/bin/pip"
    chmod +x "$last/bin/pip" ;;
esac
"""


@pytest.fixture
def bare(tmp_path):
    """A fresh clone, as far as `make setup` needs one."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def fake_python(folder, *, old=0, bare=0, version="3.11.2"):
    path = folder / "fake-python"
    path.write_text(FAKE.format(old=old, bare=bare, version=version), encoding="utf-8")
    path.chmod(0o755)
    return path


def make(folder, target, python):
    """Run make as on a machine of its own; returns its exit code and what it printed but make's own line."""
    inherited = ("MAKE", "MFLAGS", "PIP_", "UV_", "VIRTUAL_ENV", "PY", "VENV", "BIN", "STAMP")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    told = subprocess.run(
        ["make", target, f"PY={python}"], cwd=folder, env=clean, capture_output=True, text=True, timeout=60, check=False
    )
    lines = (told.stdout + told.stderr).splitlines()
    return told.returncode, [line for line in lines if not re.match(r"make(\[\d+\])?: ", line)]


@pytest.mark.parametrize("target", ["setup", "reports", "test"])
def test_missing_python_is_one_clear_line(bare, target):
    code, lines = make(bare, target, "python3.99")

    assert code != 0
    assert len(lines) == 1
    assert "python3.99" in lines[0] and "3.11" in lines[0] and "make PY=" in lines[0]
    assert not (bare / ".venv").exists()


def test_old_python_is_one_clear_line(bare):
    code, lines = make(bare, "setup", fake_python(bare, old=1, version="3.9.2"))

    assert code != 0
    assert len(lines) == 1
    assert "3.9.2" in lines[0] and "3.11" in lines[0] and "make PY=" in lines[0]
    assert not (bare / ".venv").exists()


def test_python_without_ensurepip_is_one_clear_line(bare):
    code, lines = make(bare, "setup", fake_python(bare, bare=1))

    assert code != 0
    assert len(lines) == 1
    assert "ensurepip" in lines[0] and "python3-venv" in lines[0]
    assert not (bare / ".venv").exists()


def test_missing_network_is_one_clear_line_and_leaves_no_stamp(bare):
    for _again in range(2):  # the second time must not take the broken environment for a good one
        code, lines = make(bare, "setup", fake_python(bare))

        assert code != 0
        assert len(lines) == 2
        assert "creating .venv" in lines[0]  # progress
        assert "network" in lines[1] and "setup.log" in lines[1]
        assert not (bare / ".venv" / ".stamp").exists()
    assert "Could not fetch" in (bare / ".venv" / "setup.log").read_text(encoding="utf-8")
