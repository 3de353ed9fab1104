"""What a user can repair; each message says what was given, the rule and the remedy. Bugs are left to crash."""


class KpiError(ValueError):
    """A request that cannot be met as it was put: a wrong parameter, name, count or date."""


class ContractError(KpiError):
    """Data that break the contract of a table; the message lists every problem that was found."""


def require(holds: bool, message: str) -> None:
    """Raise a `KpiError` with `message` unless the rule holds.

    >>> require(1 < 2, "One is not below two.")
    """
    if not holds:
        raise KpiError(message)
