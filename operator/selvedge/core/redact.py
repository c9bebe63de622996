"""Keeps secrets out of everything that a person or a machine can read later: logs, events, statuses, plans.

Two nets: values that are known to be secret (whatever the sentence around them), and shapes in which a secret is
usually written (a URI with a password, ``PASSWORD '…'``, a SCRAM verifier). Text is redacted before it is shortened:
half a password is still a secret, and no net would recognise it.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from urllib.parse import quote, quote_plus

MARK = "***"
_MIN_LENGTH = 4

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # scheme://user:password@host; greedy to the last @, since a password that nobody encoded may hold / or @
    (re.compile(r"([a-z][a-z0-9+.\-]*://[^\s:/@'\"]*):[^\s'\"<>]+@", re.IGNORECASE), rf"\1:{MARK}@"),
    # SQL: PASSWORD 'x', E'x', doubled quotes; a statement that was cut off has no closing quote
    (re.compile(r"(\bPASSWORD\s+)(?:E|U&)?'(?:[^'\\]|''|\\.)*(?:'|$)", re.IGNORECASE | re.DOTALL), rf"\1'{MARK}'"),
    # MongoDB commands and JSON: "pwd": "x", password: 'x'
    (
        re.compile(
            r"(\b(?:pwd|password|passwd)['\"]?\s*:\s*)(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')", re.IGNORECASE
        ),
        rf'\1"{MARK}"',
    ),
    # libpq conninfo and query strings: password=x, password='x y'
    (
        re.compile(r"(\b(?:ssl)?(?:password|passwd|pwd)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&,;)\"']+)", re.IGNORECASE),
        rf"\1{MARK}",
    ),
    (re.compile(r"SCRAM-SHA-(?:1|256)\$[^\s'\"]+"), f"SCRAM-{MARK}"),
    (re.compile(r"\bmd5[0-9a-f]{32}\b"), f"md5{MARK}"),
    (re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/\-]{8,}=*", re.IGNORECASE), rf"\1{MARK}"),
    (
        re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|$)", re.DOTALL),
        rf"-----BEGIN \1----- {MARK}",
    ),
)


class Redactor:
    """Replaces secrets by ``***``.

    Values are counted: two DatabaseServers with one password add it twice, and it stays known until both have removed
    it. A value of fewer than four characters is not taken (it would blacken every text and hide nothing). Looking up
    costs the length of the text, not the number of secrets, so thousands of servers cost the same as one.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._forms: Counter[str] = Counter()
        self._by_prefix: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        """The number of secrets, never one of them."""
        return f"Redactor({len(self._counts)} values)"

    def add(self, value: str) -> None:
        """Make ``value`` known as a secret, also as it looks in a URI, in SQL, in JSON, in Python and in base64."""
        if len(value) < _MIN_LENGTH:
            return
        self._counts[value] += 1
        if self._counts[value] == 1:
            for form in _forms(value):
                self._forms[form] += 1
                if self._forms[form] == 1:
                    self._set(form[:_MIN_LENGTH], [*self._by_prefix.get(form[:_MIN_LENGTH], ()), form])

    def remove(self, value: str) -> None:
        """Take back one :meth:`add`; a value that was never added is ignored."""
        if value not in self._counts:
            return
        self._counts[value] -= 1
        if self._counts[value] == 0:
            del self._counts[value]
            for form in _forms(value):
                self._forms[form] -= 1
                if self._forms[form] == 0:
                    del self._forms[form]
                    self._set(form[:_MIN_LENGTH], [f for f in self._by_prefix[form[:_MIN_LENGTH]] if f != form])

    def redact(self, text: str) -> str:
        """``text`` without known secrets and without anything that looks like one."""
        text = self._without_values(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def _set(self, prefix: str, forms: list[str]) -> None:
        # longest first: where one secret begins with another, nothing of the longer one may remain
        if forms:
            self._by_prefix[prefix] = tuple(sorted(forms, key=len, reverse=True))
        else:
            del self._by_prefix[prefix]

    def _without_values(self, text: str) -> str:
        if not self._by_prefix:
            return text
        parts: list[str] = []
        done = at = 0
        end = len(text) - _MIN_LENGTH
        while at <= end:
            for form in self._by_prefix.get(text[at : at + _MIN_LENGTH], ()):
                if text.startswith(form, at):
                    parts += (text[done:at], MARK)
                    at += len(form)
                    done = at
                    break
            else:
                at += 1
        return "".join([*parts, text[done:]]) if parts else text


def _forms(value: str) -> set[str]:
    """The ways in which ``value`` is written down; each at least as long as ``value``, or encoded whole."""
    forms = {
        value,
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        value.replace("'", "''"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        repr(value.encode())[2:-1],
        base64.b64encode(value.encode()).decode(),
    }
    return {form for form in forms if len(form) >= _MIN_LENGTH}
