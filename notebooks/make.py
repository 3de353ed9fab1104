"""For those who write notebooks: `refresh` executes them in place, `class` empties their solutions into a folder."""

import os
import sys
from pathlib import Path

from kpi_helpers import editions
from kpi_helpers.reports import FIXED


def refresh() -> None:
    """Execute the notebooks of this checkout in place, teaching cells included, and write them canonically."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.update(FIXED)
    for name in editions.names():
        path = editions.folder() / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}).execute()
        path.write_text(editions.written(editions.canonical(notebook)), encoding="utf-8")
        print(f"{path}  refreshed, {path.stat().st_size / 1000:.0f} kB")


def write_class_edition(folder: str | Path) -> None:
    """Write each notebook with empty solutions into `folder`, for a class."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in editions.names():
        path = Path(folder) / f"{name}.ipynb"
        path.write_text(editions.written(editions.class_edition(editions.load(name))), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    write_class_edition(sys.argv[2]) if sys.argv[1] == "class" else refresh()
