"""The tables of `migrations` and `splitter` for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Figures = dict[str, Any]
_RUNNERS = {
    "real/selvedge": ("as teams write them", "selvedge migrate up"),
    "real/psql": ("as teams write them", "psql, once for each file"),
    "plain/selvedge": ("plain", "selvedge migrate up"),
    "plain/psql": ("plain", "psql, once for each file"),
    "plain/dbmate": ("plain", "dbmate 2.27.0"),
    "plain/golang_migrate": ("plain", "golang-migrate 4.19.1"),
}
_TEXTS = {
    "migrations": "migrations, one after the other",
    "short_statements": "short INSERTs",
    "one_statement": "one INSERT",
}


def migrations(found: Figures, when: str) -> Iterator[str]:
    """Files beside other runners, status, and memory with data."""
    files, status, data = found["files"], found["status"], found["data"]
    yield from (f"### {files['migrations']} migrations", "", when, "")
    yield from ("| files | runner | p50 s | max s | CPU s | largest process, MiB |", "|---|---|---|---|---|---|")
    for name, (kind, runner) in _RUNNERS.items():
        if name in files["runners"]:
            one = files["runners"][name]
            peak = one["peak_mib"] or "ends too soon to be seen"
            yield f"| {kind} | {runner} | {_seconds(one)} | {one['cpu_seconds']} | {peak} |"
    yield ""
    yield (
        f"Ratio to psql: {files['ratio_to_psql']} (budget {found['budget_ratio_to_psql']}), and "
        f"{files['plain_ratio_to_psql']} for the plain ones, which leave out what the other two cannot run: "
        "CONCURRENTLY, the data of COPY, transactions in files. Those keep no text, checksum or cursor in the database."
    )
    yield ""
    yield (
        f"`selvedge migrate status` over them: p50 {status['seconds']['p50']} s, at most {status['seconds']['max']} s "
        f"(budget {found['budget_status_seconds']}), {status['cpu_seconds']} s of CPU; Python alone "
        f"{status['bare_python_seconds']['p50']} s."
    )
    yield from ("", f"One migration of {data['megabytes']:.0f} MB:", "")
    yield from ("| data | runner | s | CPU s | MiB |", "|---|---|---|---|---|")
    for kind in ("copy", "insert"):
        for runner in ("selvedge", "psql"):
            one = data[kind][runner]
            cells = (kind.upper(), runner, one["seconds"]["p50"], one["cpu_seconds"], one["peak_mib"])
            yield f"| {' | '.join(str(cell) for cell in cells)} |"


def splitter(found: Figures, when: str) -> Iterator[str]:
    """Megabytes a second, beside libpg_query through postgast."""
    yield from ("### Splitting a script", "", when, "")
    yield "| text | MB | statements | ours, p50 s | ours, MB/s | postgast's parser, MB/s | postgast's scanner, MB/s |"
    yield "|---|---|---|---|---|---|---|"
    for name, title in _TEXTS.items():
        one = found[name]
        cells = (title, one["megabytes"], f"{one['statements']:,}", one["ours"]["seconds"]["p50"])
        speeds = (one[which]["megabytes_a_second"] for which in ("ours", "postgast_parser", "postgast_scanner"))
        yield f"| {' | '.join(str(cell) for cell in (*cells, *speeds))} |"
    yield from (
        "",
        f"Budget: 3 MB in {found['budget_seconds_for_3_mb']} s. The parser refuses a file with one syntax error.",
    )


def _seconds(one: Figures) -> str:
    return f"{one['seconds']['p50']} | {one['seconds']['max']}"
