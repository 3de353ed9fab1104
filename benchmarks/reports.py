"""CPU time of a report beside the peer (papermill and nbconvert) and the bare limit (its cells as a script).

    .venv/bin/python benchmarks/reports.py [REPEATS]

Prints the median of each and its ratio to the bare limit, and `kpi --help` beside an empty Python. All in one run,
in turns, so that a busy machine is busy for all of them.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kpi_helpers import editions

BIN = Path(sys.executable).parent
NOTEBOOK = "01_kpi_setup"


def cpu(*command):
    """CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(repeats):
    """Run each way in turns and print the medians."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        edition = editions.report_edition(editions.load(NOTEBOOK))
        begin, end, script = (Path(folder) / name for name in ("in.ipynb", "out.ipynb", "cells.py"))
        begin.write_text(json.dumps(edition))
        cells = [editions.source_of(c) for c in edition["cells"] if c["cell_type"] == "code"]
        script.write_text("\n".join(cells))  # what a cell shows is not drawn: only the work is done
        ways = {
            "empty Python": [[sys.executable, "-c", "pass"]],
            "kpi --help": [[BIN / "kpi", "--help"]],
            "bare limit: the cells as a script": [[sys.executable, script]],
            "kpi run, two languages and index": [[BIN / "kpi", "run", NOTEBOOK, "--out", Path(folder) / "reports"]],
            "papermill, then nbconvert": [
                [BIN / "papermill", begin, end, "--no-progress-bar"],
                [BIN / "jupyter", "nbconvert", "--to", "html", "--no-input", end],
            ],
        }
        spent = {name: [] for name in ways}
        for _turn in range(repeats):
            for name, commands in ways.items():
                spent[name].append(sum(cpu(*map(str, command)) for command in commands))
    limit = statistics.median(spent["bare limit: the cells as a script"])
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        print(f"{name:36} {median:6.2f} s CPU  {median / limit:5.2f} x the bare limit  (n={repeats})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
