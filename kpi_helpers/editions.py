"""Notebook in, notebook out: typed parameters, the edition for a report, and the canonical form."""

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kpi_helpers.errors import KpiError, require, require_known
from kpi_helpers.mappings import SECRET_URL, project_root
from kpi_helpers.result import JSON_MIME

TYPES = {"str": str, "int": int, "float": float}
SECRET = re.compile(r"password|passwd|secret|token|api_?key", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a parameters cell: ``confidence: float = 0.9  # coverage, in (0, 1)``, or ``# one of a, b``."""

    name: str
    kind: str
    default: Any
    comment: str

    def read(self, given: Any) -> Any:
        """Return `given` (text from a command line, or a value) in the parameter's type and range."""
        kind = self.kind.removesuffix("| None").strip()
        if kind != self.kind and str(given).lower() in ("none", "null", ""):
            return None
        if inner := re.fullmatch(r"list\[(\w+)\]", kind):
            items = given if isinstance(given, list) else str(given).strip("[]").split(",")
            return [self._one(item, inner[1]) for item in items if inner[1] != "str" or str(item).strip()]
        return self._one(given, kind)

    def _one(self, given: Any, kind: str) -> Any:
        text = str(given).strip()
        try:
            known = {"true": True, "false": False, "1": True, "0": False}
            value: Any = known[text.lower()] if kind == "bool" else TYPES[kind](text)
        except (ValueError, KeyError):
            raise KpiError(f"{self.name}={text!r} is not of type {kind}. {self.comment}".strip()) from None
        if bounds := re.search(r"in ([\[(])(\S+), (\S+)([\])])", self.comment):
            low, high, edges = float(bounds[2]), float(bounds[3]), bounds[1] + bounds[4]
            inside = low < value < high or ("[" in edges and value == low) or ("]" in edges and value == high)
            require(inside, f"{self.name}={text} lies outside {bounds[0][3:]}: {self.comment}.")
        if choices := re.search(r"one of ([\w, ]+)", self.comment):
            require_known(value, choices[1].strip().split(", "), f"{self.name}={text!r}: {self.comment}.")
        return value


def folder() -> Path:
    """Folder of the notebooks: ``notebooks/`` here, or else in the project's root."""
    return Path("notebooks") if Path("notebooks").is_dir() else project_root() / "notebooks"


def names() -> list[str]:
    """Names of all notebooks, in order."""
    return sorted(p.stem for p in folder().glob("[0-9][0-9]_*.ipynb"))


def load(name: str) -> dict[str, Any]:
    """Read a notebook by name, with "did you mean" for a misspelt one."""
    path = folder() / f"{Path(name).stem}.ipynb"
    require_known(path.stem, names(), f"There is no notebook {name!r}.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def parameters(notebook: Mapping[str, Any]) -> dict[str, Parameter]:
    """Read the typed parameters of a notebook from the cell tagged ``parameters``."""
    source = "".join(source_of(c) for c in notebook["cells"] if "parameters" in tags(c))
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            line = source.splitlines()[(node.end_lineno or 1) - 1].encode()  # offsets count bytes
            comment = line[node.end_col_offset or 0 :].decode().strip().lstrip("# ")
            name, kind = node.target.id, ast.unparse(node.annotation)
            found[name] = Parameter(name, kind, ast.literal_eval(node.value), comment)
    return found


def resolve(known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the given parameters against the notebook's and return all, defaults included; a secret is refused."""
    for name, value in given.items():
        require_known(name, known, f"There is no parameter {name!r}.")
        secret = SECRET.search(name) or SECRET_URL.search(str(value))
        require(not secret, f"{name} looks like a secret, which reports would store. Use source=env:NAME.")
    resolved = {name: p.read(given[name]) if name in given else p.default for name, p in known.items()}
    if resolved.get("as_of") is not None:
        try:
            date.fromisoformat(resolved["as_of"])
        except ValueError:
            raise KpiError(f"as_of={resolved['as_of']!r} is no date. Write YYYY-MM-DD.") from None
    return resolved


def changed(known: Mapping[str, Parameter], resolved: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Parameters that differ from the defaults, the as-of date aside, and a short name of them (none: empty)."""
    told = {k: v for k, v in resolved.items() if v != known[k].default and k != "as_of"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return told, digest[:8] if told else ""


def report_edition(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook without its teaching cells and outputs."""
    return {**notebook, "cells": [_cleared(c) for c in notebook["cells"] if "teach" not in tags(c)]}


def class_edition(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook for a class: all cells, no outputs, and the solutions left for the trainee to write."""
    turns = [c | {"source": "# your turn"} if "solution" in tags(c) else c for c in notebook["cells"]]
    return {**notebook, "cells": [_cleared(c) for c in turns]}


def _cleared(cell: dict[str, Any]) -> dict[str, Any]:
    return cell | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})


def canonical(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The executed notebook without anything that differs between two runs of the same: times, ids, addresses."""
    cells = []
    for i, c in enumerate(notebook["cells"]):
        made = [tag for tag in tags(c) if tag in ("injected-parameters", "papermill-error-cell-tag")]
        ident = f"{made[0]}-{i}" if made else c.get("id") or f"c{i:02d}"  # papermill draws its own
        metadata, text = {"tags": tags(c)} if tags(c) else {}, source_of(c).splitlines(True)
        clean = {"cell_type": c["cell_type"], "id": ident, "metadata": metadata, "source": text}
        if c["cell_type"] == "code":
            outputs = [_canonical(o, str(ident)) for o in _merged(c["outputs"])]
            clean |= {"execution_count": c["execution_count"], "outputs": outputs}
        cells.append(clean)
    kept = {k: v for k, v in notebook["metadata"].items() if k in ("kernelspec", "kpi")}
    about = {"metadata": {**kept, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    return {"cells": cells, **about}


def _merged(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with text that was printed piece by piece as one: where it is cut is a matter of time."""
    kept: list[dict[str, Any]] = []
    for o in outputs:
        if o["output_type"] == "stream" and kept and kept[-1].get("name") == o["name"]:
            kept[-1]["text"] = "".join(kept[-1]["text"]) + "".join(o["text"])
        else:
            kept.append(dict(o))
    return kept


def _canonical(output: Mapping[str, Any], ident: str) -> dict[str, Any]:
    told = {k: {name: v for name, v in told.items() if v} if k == "metadata" else told for k, told in output.items()}
    text = re.sub(r" at 0x[0-9a-f]{6,}", " at 0x…", json.dumps(told, ensure_ascii=False))
    for n, styler in enumerate(dict.fromkeys(re.findall(r"\bT_[0-9a-f]{5}(?=\b|_)", text))):
        text = text.replace(styler, f"T_{ident}_{n}")
    return dict(json.loads(re.sub(r"[^\s\"]*/ipykernel_\d+/\d+\.py", "cell.py", text)))


def written(notebook: Mapping[str, Any]) -> str:
    """Text of a notebook file, the same for the same notebook."""
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def results(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the cells displayed, in order: name, sentence, rows of each result."""
    shown = (o.get("data", {}) for c in notebook["cells"] if c["cell_type"] == "code" for o in c["outputs"])
    return [data[JSON_MIME] for data in shown if JSON_MIME in data]


def tags(cell: Mapping[str, Any]) -> Sequence[str]:
    """Tags of a cell."""
    return list(cell["metadata"].get("tags", ()))


def source_of(cell: Mapping[str, Any]) -> str:
    """Text of a cell."""
    return "".join(cell["source"])
