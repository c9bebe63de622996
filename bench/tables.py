"""docs/performance.md's figures from bench/results/: ``python -m bench.tables`` writes them between its markers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import tables_migrations, tables_pods, tables_shards
from bench.results import RESULTS

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_WORDS = {True: "yes", False: "**no**", None: ""}
Figures = dict[str, Any]
#: What is measured of an operator that is left alone; the budgets are for 1,000 resources and less.
_RATES = (
    ("statements a minute", "statements_a_minute", ""),
    ("logins a minute", "logins_a_minute", ""),
    ("API writes a minute", "api_writes_a_minute", "0"),
    ("API reads a minute", "api_reads_a_minute", ""),
    ("renewals of the Lease a minute", "lease_requests_a_minute", ""),
    ("CPU, % of a core, sweeps included", "cpu_percent_of_a_core", ""),
    ("RSS, MiB", "rss_mib", "200"),
)


def main() -> None:
    """Put the newest full results into the page; a measurement without one is left out."""
    page = _PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    parts = {
        "peers": _peers,
        "apply_to_ready": _apply,
        "thousand": _thousand,
        "idle": _idle,
        "watched": _watched,
        "inspect": _inspect,
        "memory": _memory,
        "empty": _empty,
        "drifted": _drifted,
        "migrations": lambda found: tables_migrations.migrations(found, _when(found)),
        "splitter": lambda found: tables_migrations.splitter(found, _when(found)),
        "pods": lambda found: tables_pods.pods(found, _when(found)),
        "shards": lambda found: tables_shards.shards(found, _when(found)),
    }
    lines: list[str] = []
    for name, part in parts.items():
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
    interval = f"{found['interval_seconds']:.0f}s"
    yield from (f"### {found['units']} DatabaseSchemas, a database each, left alone for one interval of {interval}", "")
    yield from (_when(found), "", "| | with all units | the server's probes alone | budget |", "|---|---|---|---|")
    whole, server = found["idle"], found["server_alone"]
    for label, key, budget in _RATES:
        yield f"| {label} | {whole[key]:g} | {server[key]:g} | {budget} |"
    yield from ("", "| one unit in an interval, the server's probes taken off | | budget |", "|---|---|---|")
    for label, key, budget in (
        ("statements", "statements_per_unit_and_interval", "1"),
        ("logins", "logins_per_unit_and_interval", "1"),
        ("CPU of the operator, ms", "cpu_ms_per_unit_and_interval", ""),
    ):
        yield f"| {label} | {whole[key]:g} | {budget} |"
    yield from ("", *_pass(found["pass_over_all"], found["units"]))


def _watched(found: Figures) -> Iterator[str]:
    number, sweep = f"{found['resources']:,}", found["pass_over_all"]
    yield from (f"### {number} DatabaseSchemas watched, in {found['databases']} databases", "")
    yield "None is suspended. Each declares a schema, a role and a grant, with `interval: 1h`."
    yield from ("", _when(found), "")
    between = found["between_sweeps"]
    rows = (
        ("RSS after all became Ready, MiB", found["rss_mib_after_creation"], found["budget_rss_mib"]),
        ("peak meanwhile, MiB", found["peak_mib_after_creation"], ""),
        ("peak of a restart, MiB", sweep["peak_mib"], found["budget_rss_mib"]),
        ("RSS between two sweeps, MiB", between["rss_mib"], found["budget_rss_mib"]),
        (
            "CPU between two sweeps, % of a core",
            between["cpu_percent_of_a_core"],
            found["budget_cpu_percent_of_a_core"],
        ),
        ("the same with no DatabaseSchema at all, %", found["server_alone"]["cpu_percent_of_a_core"], ""),
        ("statements a minute between two sweeps (the server's probes)", between["statements_a_minute"], ""),
        ("API writes a minute between two sweeps", between["api_writes_a_minute"], 0),
        ("from the first request until all were Ready, s", found["to_ready_seconds"], ""),
    )
    yield from ("| | | budget |", "|---|---|---|")
    for label, value, budget in rows:
        yield f"| {label} | {value:g} | {budget} |"
    yield from ("", *_pass(sweep, number))


def _pass(found: Figures, number: int | str) -> Iterator[str]:
    """One pass over everything, by a restart of the operator."""
    yield from (f"| one pass over all {number}, by a restart | | budget |", "|---|---|---|")
    rows = (
        ("seconds, start of the process included", "seconds", ""),
        ("until it leads, s", "until_it_leads_seconds", ""),
        ("ms for each", "ms_a_resource", ""),
        ("psql: login and `SELECT 1`, ms for each database", "psql_login_and_select_1_ms_a_database", ""),
        ("ratio to psql", "ratio_to_psql", ""),
        ("CPU of the operator for each, ms", "operator_cpu_ms_a_resource", ""),
        ("statements for each", "statements_a_resource", ""),
        ("API writes", "api_writes", "0"),
    )
    for label, key, budget in rows:
        if key in found:
            yield f"| {label} | {found[key]:g} | {budget} |"


def _inspect(found: Figures) -> Iterator[str]:
    yield from (f"### Looking at a database of {_size(found)}", "", _when(found), "")
    yield (
        "| Postgres | policies declared | whole pass, p50 s | statement and reading it, p50 s | "
        "psql, same statement, s | ratio to psql | budget, s | first pass, s |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for version in ("15", "18"):
        without = found[f"postgres_{version}"]
        for policies, one in ((0, without), (found["policies"], without.get("policies_declared"))):
            if one is not None:
                cells = (
                    f"{policies:,}",
                    one["pass_seconds"]["p50"],
                    one["statement_and_parse_seconds"]["p50"],
                    one["psql_same_statement_seconds"],
                    one["ratio_to_psql"],
                    found["budget_seconds"],
                    one.get("first_pass_seconds", ""),
                )
                yield f"| {version} | {' | '.join(str(cell) for cell in cells)} |"


def _memory(found: Figures) -> Iterator[str]:
    yield from (f"### An operator that keeps a database of {_size(found)}", "", _when(found), "")
    yield f"Memory of the operator before: {found['rss_mib_before']:g} MiB."
    yield from ("", "| | policies not declared | policies declared |", "|---|---|---|")
    one, other = found["without_policies"], found["policies_declared"]
    for label, key in (
        ("DatabaseSchemas", "database_schemas"),
        ("from the first request until all were Ready, s", "to_ready_seconds"),
        ("RSS when Ready, MiB", "rss_mib_when_ready"),
        ("RSS after 15 passes, MiB", "rss_mib_after_half_of_the_passes"),
        ("RSS after 30 passes, MiB", "rss_mib_after_passes"),
        ("peak, MiB", "peak_mib"),
        ("a pass over what matches, s", "seconds_a_pass"),
        ("CPU of the operator for a pass, ms", "operator_cpu_ms_a_pass"),
        ("statements for a pass, the server's probes included", "statements_a_pass"),
        ("API writes in 30 passes", "api_writes"),
    ):
        yield f"| {label} | {one[key]:g} | {other[key]:g} |"


def _empty(found: Figures) -> Iterator[str]:
    yield from ("### An empty pass: 5 schemas, 6 roles, 40 grants, 50 tables", "", _when(found), "")
    keys = ("pass_seconds", "driver_same_statement_seconds")
    yield "| Postgres | a pass, p50 ms | driver alone, same statement, p50 ms | CPU, ms | statements | bytes of WAL |"
    yield "|---|---|---|---|---|---|"
    for version in ("15", "18"):
        one = found[f"postgres_{version}"]
        cells = [f"{1000 * one[key]['p50']:.2f}" for key in keys]
        cells += [f"{one[key]:g}" for key in ("cpu_ms_a_pass", "statements_a_pass", "wal_bytes")]
        yield f"| {version} | {' | '.join(cells)} |"


def _drifted(found: Figures) -> Iterator[str]:
    yield from (f"### {found['objects']:,} objects changed by hand, put back", "", _when(found), "")
    keys = ("seconds", "psql_seconds", "ratio_to_psql")
    used = ("statements", "logins", "peak_connections", "api_writes", "cpu_seconds", "peak_mib")
    yield (
        "| databases | asked to Ready again, s | psql, the plan's statements, s | ratio | "
        f"{' | '.join(key.replace('_', ' ') for key in used)} |"
    )
    yield "|---|---|---|---|" + "---|" * len(used)
    for layout in ("one_database", "eight_databases"):
        one = found[layout]
        cells = [f"{one[key]:g}" for key in keys] + [f"{one['median'][key]:g}" for key in used]
        yield f"| {one['databases']} | {' | '.join(cells)} |"


def _size(found: Figures) -> str:
    return f"{found['tables']:,} tables, {found['roles']} roles, {found['policies']:,} policies"


if __name__ == "__main__":
    main()
