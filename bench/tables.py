"""docs/performance.md's figures from bench/results/: ``python -m bench.tables`` writes them between its markers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.results import RESULTS

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_WORDS = {True: "yes", False: "**no**", None: ""}
Figures = dict[str, Any]


def main() -> None:
    """Put the newest results into the page; a measurement without a result is left out."""
    page = _PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    parts = (_peers, _apply, _thousand, _idle, _inspect)
    names = ("peers", "apply_to_ready", "thousand", "idle", "inspect")
    lines: list[str] = []
    for name, part in zip(names, parts, strict=True):
        path = RESULTS / f"{name}.json"
        if path.is_file():
            lines += ["", *part(json.loads(path.read_text(encoding="utf-8")))]
    _PAGE.write_text(f"{head}{_BEGIN}\n{chr(10).join(lines).strip()}\n\n{_END}{tail}", encoding="utf-8")


def _when(found: Figures) -> str:
    facts = found["machine"]
    before, after = facts["load_average_before"][0], facts["load_average_after"][0]
    changed = ", with uncommitted changes" if facts["changed"] else ""
    return (
        f"{facts['date'][:16].replace('T', ' ')} UTC, revision {facts['git']}{changed}; {facts['cores']} cores "
        f"({facts['cpu']}), {facts['memory_gib']} GiB, Python {facts['python']}, Kubernetes {facts['kubernetes']}; "
        f"load average {before} before, {after} after."
    )


def _peers(found: Figures) -> Iterator[str]:
    yield from ("### Beside comparable operators", "")
    for name, facts in found["parts"].items():
        yield f"- {name}: {_when({'machine': facts})}"
    yield ""
    names = list(found["rows"][0]["peers"])
    yield f"| | {' | '.join(names)} | Selvedge | limit | within | first |"
    yield "|---|" + "---|" * (len(names) + 4)
    for row in found["rows"]:
        theirs = [row["peers"].get(name) for name in names]
        cells = ["–" if value is None else f"{value:g}" for value in theirs]
        limit = f"{row['limit']:g}" if "limit" in row else ""
        verdicts = f"{_WORDS[row.get('within_limit')]} | {_WORDS[row.get('first')]}"
        yield f"| {row['row']} | {' | '.join(cells)} | {row['selvedge']:g} | {limit} | {verdicts} |"


def _apply(found: Figures) -> Iterator[str]:
    yield from ("### `kubectl apply` to Ready: 5 schemas, 6 roles, 40 grants", "", _when(found), "")
    yield "| | statements | psql, p50 s | apply to Ready, p50 s | kubectl alone, p50 s | beyond psql, s | budget, s |"
    yield "|---|---|---|---|---|---|---|"
    for name in ("created", "existing_with_tables"):
        one = found[name]
        cells = (
            one["statements"],
            one["psql_seconds"]["p50"],
            one["kubectl_apply_to_ready_seconds"]["p50"],
            one["kubectl_dry_run_seconds"]["p50"],
            one["beyond_psql_p50_seconds"],
            found["budget_seconds_beyond_psql"],
        )
        yield f"| database {name.replace('_', ' ')} | {' | '.join(str(cell) for cell in cells)} |"


def _thousand(found: Figures) -> Iterator[str]:
    yield from (f"### {found['units']} DatabaseSchemas at once", "", _when(found), "")
    keys = (
        "seconds",
        "units_a_second",
        "creator_seconds",
        "operator_cpu_ms_a_unit",
        "peak_mib",
        "logins_a_unit",
        "statements_a_unit",
        "api_writes_a_unit",
        "peak_connections",
        "load_1",
    )
    yield f"| databases | {' | '.join(key.replace('_', ' ') for key in keys)} |"
    yield "|---|" + "---|" * len(keys)
    for name in ("existing", "created"):
        if name in found:
            yield f"| {name} | {' | '.join(f'{found[name][key]:g}' for key in keys)} |"
    yield from ("", f"Budget: {found['budget_a_second']:g} a second on databases that exist.")


def _idle(found: Figures) -> Iterator[str]:
    yield from (f"### {found['units']} DatabaseSchemas left alone", "", _when(found), "", "| | |", "|---|---|")
    for part in ("idle", "pass_over_all"):
        for key, value in found[part].items():
            if key != "use":
                yield f"| {part.replace('_', ' ')}: {key.replace('_', ' ')} | {value} |"


def _inspect(found: Figures) -> Iterator[str]:
    size = f"{found['tables']:,} tables, {found['roles']} roles, {found['policies']:,} policies"
    yield from (f"### Looking at a database of {size}", "", _when(found), "")
    yield "| Postgres | whole pass, p50 s | statement and reading it, p50 s | psql, same statement, s | budget, s |"
    yield "|---|---|---|---|---|"
    for version in ("15", "18"):
        one = found[f"postgres_{version}"]
        cells = (
            one["pass_seconds"]["p50"],
            one["statement_and_parse_seconds"]["p50"],
            one["psql_same_statement_seconds"],
            found["budget_seconds"],
        )
        yield f"| {version} | {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    main()
