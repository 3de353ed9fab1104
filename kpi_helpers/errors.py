"""What a user can repair; each message says what was given, the rule and the remedy. Bugs are left to crash."""

import difflib
from collections.abc import Iterable


class KpiError(ValueError):
    """A request that cannot be met as it was put: a wrong parameter, name, count or date."""


class ContractError(KpiError):
    """Data that break the contract of a table; the message lists every problem that was found."""


def require(holds: bool, message: str) -> None:
    """Raise a `KpiError` with `message` unless the rule holds."""
    if not holds:
        raise KpiError(message)


def require_known(name: object, known: Iterable[str], message: str) -> None:
    """Raise a `KpiError` with `message` and the nearest known name, or else all, unless `name` is among them."""
    if name not in (names := list(known)):
        close = difflib.get_close_matches(str(name), names, 1, 0.5)
        raise KpiError(f"{message} " + (f"Did you mean {close[0]}?" if close else f"Known are {', '.join(names)}."))
