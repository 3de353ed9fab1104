"""Run notebooks headless and publish: staged, then renamed; the last good report survives a failure."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kpi_helpers import __version__, editions, notices, pages
from kpi_helpers.errors import ContractError
from kpi_helpers.mappings import locate, project_root
from kpi_helpers.result import LANGUAGES, dump, plain
from kpi_helpers.rules import Rule, evaluate, read_rules

PUBLISHED, FAILED, USAGE, ALERTED, CONTRACT, LOCKED = 0, 1, 2, 3, 4, 75
PACKAGES = ("ibis-framework", "duckdb", "pandas", "numpy", "scipy", "matplotlib")
#: What two runs must share to give the same bytes.
FIXED = {
    "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "KPI_LANGUAGE": "en",
    "MPLBACKEND": "agg", "SOURCE_DATE_EPOCH": "0",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One notebook to run with all of its parameters; `about` is what its metadata tell, `files` what it reads; `rules`
    of alerts."""

    name: str
    about: dict[str, Any]
    parameters: dict[str, Any]
    changed: dict[str, Any]
    key: str
    files: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any], rules: tuple[Rule, ...] = ()) -> "Job":
        """A notebook with its parameters, each checked."""
        known = editions.parameters(notebook := editions.load(name))
        parameters = editions.resolve(known, given)
        changed, key = editions.changed(known, parameters)
        return cls(name=name, about=notebook["metadata"]["kpi"], parameters=parameters, changed=changed, key=key,
                   rules=rules)  # fmt: skip

    @property
    def stem(self) -> str:
        """Name of the report's folder: the as-of date, and a key where parameters differ from the defaults."""
        return str(self.parameters["as_of"]) + (f"-{self.key}" if self.key else "")

    @property
    def record(self) -> dict[str, Any]:
        """What the index tells of it, whether it ran or failed; `label` tells it from the one with the defaults."""
        told = [Path(str(self.changed["source"])).name] if "source" in self.changed else []
        told += [f"{k} {v}" for k, v in self.changed.items() if k not in ("source", "mapping")]
        return {
            "notebook": self.name, "as_of": self.parameters["as_of"], "key": self.key, "label": ", ".join(told),
            "title": self.about["title"], "parameters": self.parameters,
        }  # fmt: skip


def run(
    names: Sequence[str], given: Mapping[str, Any], *, out: str | Path = "reports", jobs: int = 1,
    rules: str | Path | None = None, notify: bool = False, fail_on_alert: bool = False,
    say: Callable[[str], None] = print,
) -> int:  # fmt: skip
    """Run notebooks, `jobs` at once, publish their reports and the index, and return the worst exit code.

    `given` are the parameters that differ from the defaults, each of which every notebook must know. Raises a
    `KpiError` before a kernel starts if one is wrong, and a `BlockingIOError` if another run is writing into `out`.
    `rules`: YAML of alerts (``alerts.yaml`` beside the notebooks), evaluated on each run's results; `notify` delivers
    the new ones; with `fail_on_alert` the code is 3 where all was published and an alert is active.
    """
    out, known = Path(out), _rules(rules)
    if notify:
        notices.targets()  # a file of addresses that cannot be read costs no kernel
    # first every name and parameter, then the data: a misspelt option must not cost a scan
    resolved = [Job.of(name, given, known) for name in dict.fromkeys(Path(name).stem for name in names)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:  # it goes with the process, however that ends
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for rest in out.glob(".staging-*"):  # of a run that was killed
            _restore(rest, out)
            shutil.rmtree(rest)
        todo = [job for job in (_prepare(job, out, say) for job in resolved) if job]
        codes, records = [CONTRACT] * (len(resolved) - len(todo)), list[dict[str, Any]]()
        at_once = max(1, min(jobs, len(todo)))
        with ProcessPoolExecutor(at_once, get_context("spawn"), initializer=_settle) as pool:
            for job in todo:
                say(f"{job.name}  running on {job.parameters['source']}, data to {job.parameters['as_of']}")
            for job, (code, line) in zip(todo, pool.map(_run_one, todo, [out] * len(todo)), strict=True):
                codes.append(code)
                say(f"{job.name}  {line}")
                records += [_record(out, job)] if code == PUBLISHED else []
        write_index(out)
        if notify:
            notices.deliver(out, records, say)
    say(f"look at {out / 'index.html'}")
    active = any(not alert["muted"] for record in records for alert in record["alerts"])
    return max(codes, default=0) or (ALERTED if active and fail_on_alert else PUBLISHED)


def _rules(path: str | Path | None) -> tuple[Rule, ...]:
    """Rules of the file given, or of the one beside the notebooks, if there is one."""
    beside = editions.folder() / "alerts.yaml"
    return read_rules(path) if path is not None else read_rules(beside) if beside.exists() else ()


def _record(out: Path, job: Job) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / job.name / job.stem / "run.json").read_text(encoding="utf-8"))
    return told


def _prepare(job: Job, out: Path, say: Callable[[str], None]) -> Job | None:
    """Check the data and fix the as-of date before a kernel starts; a broken contract is recorded and gives none."""
    from kpi_helpers import sources  # heavy, and only this process needs it: the kernel has its own

    given = job.parameters
    try:
        data = sources.connect(given["source"], given["mapping"])
        for table in job.about["tables"]:
            data.table(next((t for t in table.split("|") if t in data.tables), table.split("|")[0]))
        data.require_grain(given.get("grain", "month"))
        as_of = str(data.as_of(given["as_of"]) or "undated")
    except ContractError as error:
        say(f"{job.name}  the data break their contract; nothing was run")
        say(str(error))
        _record_failure(replace(job, parameters=given | {"as_of": given["as_of"] or "undated"}), out, str(error))
        return None
    # the mapping changes every number, so its digest is kept too
    mapping = [locate(given["mapping"])] if given["mapping"] else []
    return replace(job, parameters=given | {"as_of": as_of}, files=tuple(map(str, [*data.files(), *mapping])))


def _run_one(job: Job, out: Path) -> tuple[int, str]:
    """Run one job in a process of its own; returns its exit code and a line of progress."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out, prefix=".staging-") as folder:
        staging, target = Path(folder, "report"), out / job.name / job.stem
        staging.mkdir()
        executed, error = _execute(job, staging)
        if error:
            place = _record_failure(job, out, error[1], executed)
            return error[0], f"FAILED: {error[1]}  (see {place})"
        seconds = time.perf_counter() - began
        _write(job, staging, executed, seconds)
        old = Path(folder, "old", job.name, job.stem)
        for place in (target, old):
            place.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.exists():
                target.rename(old)
            staging.rename(target)
        finally:
            _restore(Path(folder), out)
    for record in (out / "_failed" / job.name).glob("*/failure.json"):
        if json.loads(record.read_text(encoding="utf-8"))["key"] == job.key:  # of whatever day: it is mended
            shutil.rmtree(record.parent)
    told = f", alerts: {n}" if (n := sum(not a["muted"] for a in _record(out, job)["alerts"])) else ""
    return PUBLISHED, f"published {target / 'report.html'} in {seconds:.1f} s{told}"


def _restore(folder: Path, out: Path) -> None:
    """Put the report that was to be replaced back in its place, where no new one has taken it."""
    for old in folder.glob("old/*/*"):
        if not (target := out / old.relative_to(folder / "old")).exists():
            old.rename(target)


def _execute(job: Job, staging: Path) -> tuple[dict[str, Any], tuple[int, str] | None]:
    """Execute the report edition with papermill; returns it, and code and message if a cell failed."""
    import nbformat
    import papermill

    edition = nbformat.from_dict(editions.report_edition(editions.load(job.name)))
    end = staging / "executed.ipynb"
    failure = None
    try:
        papermill.execute_notebook(
            edition, end, parameters=job.parameters, kernel_name="python3", progress_bar=False, cwd=str(Path.cwd()),
            request_save_on_cell_execute=False,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        code = CONTRACT if error.ename == "ContractError" else FAILED
        failure = (code, f"{error.ename}: {plain(str(error.evalue))}")
    except Exception as error:  # a kernel that is killed raises what its client likes
        failure = (FAILED, f"{type(error).__name__}: {error}. Was there too little memory?")
    executed = json.loads(end.read_text(encoding="utf-8")) if end.exists() else edition
    end.unlink(missing_ok=True)
    return editions.canonical(executed), failure


def _write(job: Job, staging: Path, executed: dict[str, Any], seconds: float) -> None:
    shown = editions.results(executed)
    alerts = evaluate(job.rules, shown, str(job.parameters["as_of"]))
    results = dump({"notebook": job.name, "parameters": job.parameters, "results": shown, "alerts": alerts})
    said = {r["name"]: r["sentence"] for r in shown}
    cells = "".join(editions.source_of(c) for c in editions.load(job.name)["cells"])
    named = {k: v for k, v in job.parameters.items() if k not in ("source", "as_of") and v is not None}
    foot = {  # nothing in it depends on when or where it was run
        "data": str(job.parameters["source"]),
        "check": said.get("check", "–"),
        "data_to": {language: pages.iso_day(str(job.parameters["as_of"]), language) for language in LANGUAGES},
        "notebook": f"{job.name}, {_digest(cells.encode())}",
        "parameters": ", ".join(f"{k} {v}" for k, v in named.items()),
        "version": f"kpi_helpers {__version__}",
        "fingerprint": _digest(results.encode()),
    }
    for language, (_name, ending) in pages.PAGE_NAMES.items():
        (staging / f"report{ending}").write_text(pages.report(executed, language, foot, alerts), encoding="utf-8")
    (staging / "notebook.ipynb").write_text(editions.written(executed), encoding="utf-8")
    (staging / "results.json").write_text(results, encoding="utf-8")
    lock = project_root() / "requirements.lock"
    record = job.record | {
        "folder": f"{job.name}/{job.stem}", "headline": said.get("answer", job.about["title"]), "alerts": alerts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 2),
        "inputs": {Path(f).name: _digest(Path(f).read_bytes()) for f in job.files},
        "results": _digest(results.encode()), "lock": _digest(lock.read_bytes()) if lock.exists() else "",
        "kpi_helpers": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
    }  # fmt: skip
    (staging / "run.json").write_text(dump(record), encoding="utf-8")


def write_index(out: Path) -> None:
    """Write ``index.html`` in both languages from the ``run.json`` of each report."""
    runs = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("[0-9]*/*/run.json"))]
    failures = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("_failed/*/*/failure.json"))]
    for language, (_name, ending) in pages.PAGE_NAMES.items():
        part = out / f".index{ending}"
        part.write_text(pages.index(runs, failures, language), encoding="utf-8")
        part.replace(out / f"index{ending}")


def _record_failure(job: Job, out: Path, message: str, executed: dict[str, Any] | None = None) -> Path:
    place = out / "_failed" / job.name / job.stem
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "failure.json").write_text(dump(job.record | {"message": message}), encoding="utf-8")
    if executed:
        (place / "notebook.ipynb").write_text(editions.written(executed), encoding="utf-8")
    return place


def _settle() -> None:
    """Settle a process that only executes notebooks: what two runs must share, and a silent standard error."""
    os.environ.update(FIXED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
