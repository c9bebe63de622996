"""The tables of `shards` for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Figures = dict[str, Any]
_TIMES = ("p50_seconds", "p95_seconds", "max_seconds")
_SHARDS = ("shards_1", "shards_3")
_ROWS = (
    ("RSS of each process, MiB", "rss_mib"),
    ("peak of each, MiB", "peak_mib"),
    ("from the start to a pass over all, s", "from_start_to_a_pass_over_all_seconds"),
    ("CPU of that, all processes, s", "start_and_pass_cpu_seconds"),
    ("left alone: CPU, all processes, % of a core", "cpu_percent_of_a_core"),
    ("API reads a minute", "api_reads_a_minute"),
    ("API writes a minute", "api_writes_a_minute"),
    ("requests for Leases a minute", "lease_requests_a_minute"),
)


def shards(found: Figures, when: str) -> Iterator[str]:
    """One operator and three shards, with none, a thousand and five thousand; and beside dead servers."""
    sizes = found["sizes"]
    servers, databases = found["servers"], found["databases"]
    yield from (f"### One operator and three shards: {servers} Postgres servers, {databases} databases", "", when, "")
    yield "With no DatabaseSchema there is one server; `interval` is 1h. API calls are those of all processes."
    heads = [f"{size['resources']:,}, {key[-1]} shard{'s' * (key[-1] != '1')}" for size in sizes for key in _SHARDS]
    yield from ("", f"| DatabaseSchemas | {' | '.join(heads)} |", "|---|" + "---|" * len(heads))
    for label, key in _ROWS:
        cells = [_cell(size[shards_][key]) for size in sizes for shards_ in _SHARDS]
        yield f"| {label} | {' | '.join(cells)} |"
    dead = found["dead_servers"]
    number = sizes[-1]["resources"]
    yield ""
    yield (
        f"A change of one of the {number:,} (a role's comment) to Ready, {dead['changes']} times in a row, "
        f"with one operator; then the same beside {dead['at_dead_servers']} more DatabaseSchemas at dead servers, of "
        "which half refuse connections and half never answer:"
    )
    yield from ("", "| | p50 s | p95 s | max s |", "|---|---|---|---|")
    for label, key in (("all servers answer", "before"), ("beside dead servers", "beside")):
        yield f"| {label} | {' | '.join(f'{dead[key][name]:g}' for name in _TIMES)} |"
    alone = dead["left_alone"]
    yield ""
    yield (
        f"Left alone beside the dead ones: {alone['cpu_percent_of_a_core']:g} % of a core, "
        f"{alone['api_reads_a_minute']:g} API reads and {alone['api_writes_a_minute']:g} writes a minute, "
        f"{alone['rss_mib']:g} MiB."
    )


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:g}"
    return f"{value[0]:g}" if len(value) == 1 else f"{min(value):g}–{max(value):g}"
