"""The `kpi` command: thin; what is heavy is imported by the command that needs it."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

EPILOG = """\
examples:
  kpi list                                        notebooks and their parameters
  kpi list --kpis                                 every KPI, its formula and table
  kpi check my_folder --mapping my_mapping.yaml   every problem of your data at once
  kpi run 01_kpi_setup                            report on the simulated company
  kpi run 01_kpi_setup --source my_folder --mapping my_mapping.yaml -p objective=leads

exit codes:
  0 published   1 a notebook failed   2 usage or parameter   4 the data break their contract
  75 another run is writing into the same folder
"""


def parser() -> argparse.ArgumentParser:
    """Commands and options of `kpi`."""
    top = argparse.ArgumentParser(
        prog="kpi", description="Measure marketing: check data, run notebooks, publish reports.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="show the notebooks and their parameters")
    listed.add_argument("--json", action="store_true", help="as JSON")
    listed.add_argument("--kpis", action="store_true", help="show the KPI catalogue instead (data/KPIS.md)")
    check = commands.add_parser("check", help="check data against the contracts and print every problem at once")
    check.add_argument("source", help="folder of CSV or Parquet, DuckDB file, database URL, or env:NAME")
    check.add_argument("--mapping", metavar="FILE", help="YAML that maps your columns to ours (data/README.md)")
    demo = commands.add_parser("demo", help="write the simulated company into a folder")
    demo.add_argument("folder", help="folder to write into")
    size = "customers after three years (default: 290000; 5000 takes a second)"
    demo.add_argument("--customers", type=int, metavar="N", help=size)
    run = commands.add_parser("run", help="run notebooks and publish their reports")
    run.add_argument("names", nargs="*", metavar="NAME", help="notebooks, such as 01_kpi_setup")
    run.add_argument("--all", action="store_true", help="every notebook")
    run.add_argument("--source", help="where the data are (default: data/demo, the simulated company)")
    run.add_argument("--mapping", metavar="FILE", help="YAML that maps your columns to ours")
    several = "a parameter of the notebook; repeat for more"
    run.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="parameters", help=several)
    run.add_argument("--as-of", metavar="YYYY-MM-DD", help="last day to read (default: last complete day of the data)")
    run.add_argument("--out", default="reports", metavar="DIR", help="folder of the reports (default: reports)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks to run at once (default: 1)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what a user can repair is told in one message."""
    options = parser().parse_args(arguments)
    from kpi_helpers.errors import ContractError, KpiError

    try:
        return {"list": _list, "check": _check, "demo": _demo, "run": _run}[options.command](options)
    except BlockingIOError:
        code, told = 75, f"another run is writing into {options.out}. Wait for it, or give another --out."
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error
        code, told = 2, f"{what}. Choose another file or folder."
    except KpiError as error:
        code, told = (4 if isinstance(error, ContractError) else 2), str(error)
    print(f"kpi: {told}", file=sys.stderr)
    return code


def _list(options: argparse.Namespace) -> int:
    from kpi_helpers import catalogue, editions
    from kpi_helpers.result import Text, dump, session_language

    found, lines = [], []
    if options.kpis:
        found = catalogue.catalogue(session_language()).to_frame().to_dict("records")
        lines = ["{id:26} {name} = {formula}  [{table}]".format(**known) for known in found]
    for name in editions.names() if not options.kpis else ():
        known = editions.parameters(notebook := editions.load(name)).values()
        about = [{"name": p.name, "type": p.kind, "default": p.default, "help": p.comment} for p in known]
        title = notebook["metadata"]["kpi"]["title"]
        found.append({"name": name, "title": title, "parameters": about})
        lines.append(f"{name}  {Text(**title)[session_language()]}")
        lines += ["  -p {name}={default}  ({type}) {help}".format(**p) for p in about]
    print(dump(found).rstrip() if options.json else "\n".join(lines))
    return 0


def _check(options: argparse.Namespace) -> int:
    from kpi_helpers import sources
    from kpi_helpers.result import session_language

    data, language = sources.connect(options.source, options.mapping), session_language()
    check = data.check()
    print("\n".join([*check.lines(language), *_feeds(data, language)]))
    return 0 if check.ok else 4


def _feeds(data: Any, language: str) -> list[str]:
    """Which KPIs and notebooks the data feed, and which column or table the others lack."""
    from kpi_helpers import editions, kpis
    from kpi_helpers.result import say

    needed = {name: editions.load(name)["metadata"]["kpi"]["tables"] for name in editions.names()}
    runs = {name: tuple(table for table in tables if table not in data.tables) for name, tables in needed.items()}
    lines = []
    for key, lacking in (("check.feeds", kpis.feeds(data)), ("check.runs", runs)):
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, missing in lacking.items():
            groups.setdefault(tuple(sorted(missing)), []).append(name)
        lines.append(say(key, language, n=len(groups.get((), ())), total=len(lacking)))
        for missing, names in sorted(groups.items()):
            told = [m if "." in m else say("check.no_table", language, what=m) for m in missing]
            lines += [f"  {', '.join(told)} -> {', '.join(names)}"] if missing else []
    return lines


def _demo(options: argparse.Namespace) -> int:
    from kpi_helpers import simulate

    folder = simulate.write(options.folder, options.customers)
    print(f"The simulated company is in {folder}: its eighteen tables, and truth.json with what was planted.")
    return 0


def _run(options: argparse.Namespace) -> int:
    from kpi_helpers import editions, reports
    from kpi_helpers.errors import require

    names = editions.names() if options.all else options.names
    require(names != [], f"Which notebook? Name one of {', '.join(editions.names())}, or give --all.")
    require(options.jobs >= 1, f"--jobs {options.jobs} must be at least 1.")
    for pair in options.parameters:
        require("=" in pair, f"-p {pair} has no value. Write -p NAME=VALUE.")
    given = dict(pair.split("=", 1) for pair in options.parameters)
    named = {name: getattr(options, name) for name in ("source", "mapping", "as_of")}
    given |= {name: value for name, value in named.items() if value is not None}
    return reports.run(names, given, out=options.out, jobs=options.jobs)
