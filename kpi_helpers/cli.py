"""The `kpi` command: thin; what is heavy is imported by the command that needs it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def parser() -> argparse.ArgumentParser:
    """Commands and options of `kpi`, as ``cli.yaml`` tells them."""
    told = yaml.safe_load(Path(__file__).with_name("cli.yaml").read_text(encoding="utf-8"))
    whole = {"epilog": told["epilog"], "formatter_class": argparse.RawDescriptionHelpFormatter}
    top = argparse.ArgumentParser(prog="kpi", description=told["description"], **whole)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in told["commands"].items():
        command = commands.add_parser(name, help=about["help"], **(whole if name == "run" else {}))
        command.register("type", "int", int)
        for option, given in about["options"].items():
            command.add_argument(option, **given)
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
    runs = {
        name: tuple(t for t in tables if not set(t.split("|")) & set(data.tables)) for name, tables in needed.items()
    }
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
    told = {"rules": options.alerts, "notify": options.notify, "fail_on_alert": options.fail_on_alert}
    return reports.run(names, given, out=options.out, jobs=options.jobs, **told)
