"""``selvedge migrate``: the operator's runner of migrations, for one database and without any cluster.

What a command needs is imported when it runs: ``status`` answers in a fraction of a second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from selvedge.cli.main import Commands
from selvedge.cli.migrate_options import (
    Command,
    called,
    conventions_option,
    database_options,
    directory_option,
    environment_option,
    out_of_order_option,
    output_option,
    places_called,
    repair_options,
    role_option,
    running_options,
)

if TYPE_CHECKING:
    from selvedge.cli.migrate_session import Place

_STATUS = """\b
Exit status:
  0    done; status, plan: nothing is pending; lint: no findings; wait: it is there
  1    error, or nobody said yes: what was changed is said
  2    status, plan: something is pending or differs; lint: findings; wait: not in time
  130  stopped by SIGINT, and 143 by SIGTERM, between two statements: run it again
"""


class _Migrate(Commands):
    command_class = Command


@click.group(cls=_Migrate, epilog=_STATUS)
def migrate() -> None:
    """Run the migrations of one database, look at them, or undo them."""
    if threading.current_thread() is threading.main_thread():
        context = click.get_current_context()
        for number in (signal.SIGINT, signal.SIGTERM):
            # In a container this is process 1, which the kernel spares a signal that it does not handle.
            context.call_on_close(partial(signal.signal, number, signal.signal(number, _stopped)))


def _stopped(number: int, frame: object) -> None:
    """Told to stop while nothing runs: a run takes the signals over as soon as it begins."""
    os.write(sys.stderr.fileno(), b"stopped: nothing was changed\n")  # no buffer: it may be in use right now
    raise SystemExit(128 + number)


@migrate.command()
@database_options
@role_option
@directory_option()
@environment_option
@click.option("--target", default="", metavar="VERSION", help="The last version to run; default: the newest.")
@out_of_order_option
@running_options
@output_option
def up(**options: Any) -> None:
    """Run what is pending. What loses data needs a yes, and an -- allow: line in the file."""
    _run("Up", **options)


@migrate.command()
@database_options
@role_option
@directory_option(required=False)
@environment_option
@click.option("--target", default="", metavar="VERSION", help="The version to go back to; default: one step.")
@running_options
@output_option
def down(**options: Any) -> None:
    """Undo the newest migration, or all that are newer than --target."""
    _run("Down", **options)


@migrate.command()
@click.argument("version")
@database_options
@role_option
@directory_option(required=False)
@environment_option
@out_of_order_option
@running_options
@output_option
def to(version: str, **options: Any) -> None:
    """Go up or down to VERSION. 0 undoes everything."""
    _run("To", target=version, **options)


@migrate.command()
@database_options
@role_option
@directory_option()
@environment_option
@click.option("--target", default="", metavar="VERSION", help="The newest version that ran, and no other.")
@running_options
@output_option
def redo(**options: Any) -> None:
    """Undo the newest migration and run it again, as its file is now: for development."""
    _run("Redo", **options)


@migrate.command()
@click.argument("version")
@database_options
@role_option
@directory_option()
@environment_option
@running_options
@output_option
def baseline(version: str, **options: Any) -> None:
    """Mark everything up to VERSION as run, without running it: for a database that exists already."""
    _run("Baseline", target=version, **options)


@migrate.command()
@database_options
@role_option
@directory_option(required=False)
@repair_options
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is written into the history.")
@click.option("--actor", default="", metavar="NAME", help="By whom; default: the user of this process.")
@running_options
@output_option
def repair(actor: str, **options: Any) -> None:
    """Correct the history, or what a broken index build left behind.

    One of three things: accept changed texts, mark a version as run or as not run, drop invalid indexes.
    """
    from selvedge.cli.migrate_session import who

    _run("Repair", actor=actor or who(), **options)


@migrate.command()
@click.argument("name")
@directory_option()
@click.option(
    "--engine", type=click.Choice(["postgres", "mongodb"]), help="Default: that of the files in the directory."
)
def new(name: str, directory: str, engine: str | None) -> None:
    """Write an empty migration called NAME, newer than all others, and print its path."""
    from datetime import UTC, datetime

    from selvedge.cli.migrate_files import ENGINES, create

    click.echo(str(create(directory, name, ENGINES.get(engine or ""), datetime.now(UTC))))


@migrate.command()
@directory_option()
@click.option(
    "--engine", type=click.Choice(["postgres", "mongodb"]), help="Default: that of the files in the directory."
)
@click.option("--server-version", default=18, show_default=True, help="The server's major version.")
@conventions_option
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "advice"]),
    default="warning",
    show_default=True,
    help="Exit status 2 from this severity on.",
)
@click.option("--squawk/--no-squawk", "use_squawk", default=True, show_default=True, help="Ask squawk as well.")
@output_option
def lint(directory: str, engine: str | None, **options: Any) -> None:
    """Say what loses data, breaks running code or departs from conventions. Needs no database.

    A line is FILE:LINE: SEVERITY RULE: MESSAGE; `-- allow: RULE` in the file silences a rule.
    """
    from selvedge.cli import migrate_lint
    from selvedge.cli.migrate_files import ENGINES

    _exit(migrate_lint.lint(directory, engine=ENGINES.get(engine or ""), **options))


@migrate.command()
@database_options
@directory_option(required=False)
@environment_option
@click.option("--version", default="", metavar="VERSION", help="The version to wait for.")
@click.option("--timeout", default="10m", show_default=True, metavar="DURATION", help="0s: for ever.")
def wait(timeout: str, directory: str | None, environment: str, version: str, **options: Any) -> None:
    """Wait until VERSION, or every file of --dir, has run: for an init container or a Helm hook.

    A login that may read the history is enough. A server that cannot be reached is waited for too.
    Exit status: 0 it has, 2 not in time, 1 error.
    """
    from selvedge.cli import migrate_look
    from selvedge.core.duration import parse_duration

    if not version and directory is None:
        raise click.UsageError("say what to wait for: --version, or --dir for all its files")
    patience = parse_duration(timeout)
    places = places_called(**options)
    _exit(_each(places, lambda place: migrate_look.wait(place, directory, version, environment, patience)))


@migrate.command()
@database_options
@directory_option()
@environment_option
@click.option("--target", default="", metavar="VERSION", help="The last version to plan; default: the newest.")
@click.option(
    "--action",
    type=click.Choice(["up", "down", "to", "redo", "baseline", "repair"]),
    default="up",
    show_default=True,
    help="What to plan.",
)
@repair_options
@click.option(
    "--preflight",
    is_flag=True,
    help="MongoDB: also look for what is known to fail: duplicates before a unique index, documents that violate a "
    "validator, conflicting indexes. Counts, which may take long.",
)
@conventions_option
@out_of_order_option
@output_option
def plan(action: str, form: str, *, preflight: bool, **options: Any) -> None:
    """Show what would run, and its digest: what approvedPlan of a MigrationRun has to equal. Writes nothing at all.

    For several schemas each plan has a digest, and all of them together have the one that counts: the last.

    Exit status: 0 nothing would run, 2 something would, 1 error.
    """
    from selvedge.cli import migrate_look

    places, directory, operation = called(action.title(), **options)
    _exit(migrate_look.plan(places, directory, operation, form, look=preflight))


@migrate.command()
@database_options
@directory_option()
@environment_option
@output_option
def status(form: str, **options: Any) -> None:
    """Show each migration: applied, pending, changed, missing. Writes nothing at all.

    Exit status: 0 all are applied, 2 something is pending or differs, 1 error.
    """
    from selvedge.cli import migrate_look

    places, directory, operation = called("Plan", **options)
    _exit(_each(places, lambda place: migrate_look.status(place, directory, operation.environment, form)))


@migrate.command()
@database_options
@directory_option()
@environment_option
@output_option
def validate(form: str, **options: Any) -> None:
    """Compare the files with the history, and read every pending one. Writes nothing at all.

    Exit status: 0 they fit, 1 they do not: the message says what to do.
    """
    from selvedge.cli import migrate_look

    places, directory, operation = called("Validate", **options)
    _exit(_each(places, lambda place: migrate_look.validate(place, directory, operation, form)))


def _run(action: str, form: str, *, yes: bool, **options: Any) -> None:
    from selvedge.cli import migrate_run

    places, directory, operation = called(action, **options)
    _exit(migrate_run.run(places, directory, operation, form=form, yes=yes))


def _each(places: Sequence[Place], work: Callable[[Place], int]) -> int:
    """One schema after the other; an error or a signal ends it. Returns the exit status."""
    worst = 0
    for place in places:
        status = work(place)
        if status not in (0, 2):
            return status
        worst = max(worst, status)
    return worst


def _exit(status: int) -> None:
    click.get_current_context().exit(status)


@migrate.command("lend-reader", hidden=True)
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
def lend_reader(directory: str) -> None:
    """Copy what reads migration files into DIRECTORY, for a container of an image that has nothing but the files."""
    from pathlib import Path

    from selvedge.cli.lend import lend

    lend(Path(directory))
