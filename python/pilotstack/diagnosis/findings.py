"""What a check finds. Codes are stable: programs may rely on them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    #: Nothing is wrong, but it is worth knowing.
    NOTE = "note"
    #: It works, but worse than it could.
    WARNING = "warning"
    #: Something does not work.
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """The result of a check."""

    severity: Severity
    code: str
    #: One sentence.
    text: str
    #: What to do, if there is something: a command, a setting or a question.
    fix: str = ""


class Report(msgspec.Struct, frozen=True):
    """The results of all checks."""

    findings: tuple[Finding, ...]
    #: No finding is an error.
    ok: bool


def report(findings: list[Finding]) -> Report:
    """The report of these findings, the worst first."""
    order = list(Severity)[::-1]
    listed = tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))
    return Report(listed, all(each.severity is not Severity.ERROR for each in listed))


def fine(code: str, text: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Severity.OK, code, text)


def note(code: str, text: str, fix: str = "") -> Finding:
    """Something worth knowing."""
    return Finding(Severity.NOTE, code, text, fix)


def warning(code: str, text: str, fix: str) -> Finding:
    """Something that works worse than it could."""
    return Finding(Severity.WARNING, code, text, fix)


def error(code: str, text: str, fix: str) -> Finding:
    """Something that does not work."""
    return Finding(Severity.ERROR, code, text, fix)
