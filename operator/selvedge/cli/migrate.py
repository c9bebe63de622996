"""``selvedge migrate``: the operator's runner of migrations, for one database and without any cluster.

What a command needs is imported when it runs: ``status`` answers in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from selvedge.cli.main import Commands, note

if TYPE_CHECKING:
    from selvedge.cli.migrate_session import Place
    from selvedge.migrate.operation import Operation

F = TypeVar("F", bound=Callable[..., Any])

_FORMS = click.Choice(["human", "json", "yaml"])
_VERSION = "YYYYMMDDHHMMSS"


_STATUS = """\b
Exit status:
  0    done; status, plan: nothing is pending; lint: no findings; wait: it is there
  1    error, or nobody said yes: what was changed is said
  2    status, plan: something is pending or differs; lint: findings; wait: not in time
  130  stopped by SIGINT, and 143 by SIGTERM, between two statements: run it again
"""


@click.group(cls=Commands, epilog=_STATUS)
def migrate() -> None:
    """Run the migrations of one database, look at them, or undo them."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_database = _options(
    click.option(
        "--url",
        required=True,
        envvar="SELVEDGE_URL",
        show_envvar=True,
        help="postgresql://USER@HOST:PORT/DATABASE?sslmode=…&sslrootcert=PATH or mongodb://…",
    ),
    click.option(
        "--password-file",
        metavar="FILE",
        type=click.Path(exists=True, allow_dash=True, dir_okay=False),
        help="File with the password. Else SELVEDGE_PASSWORD, or for Postgres PGPASSWORD.",
    ),
    click.option("--database", default="", metavar="NAME", help="Instead of the one in --url."),
    click.option(
        "--history-schema",
        default="selvedge",
        show_default=True,
        metavar="NAME",
        help="Postgres: the schema that holds the history.",
    ),
    click.option(
        "--history-table",
        default="history",
        show_default=True,
        metavar="NAME",
        help="Postgres: the table that holds the history.",
    ),
)
_role = click.option(
    "--role",
    default="",
    metavar="NAME",
    help="Postgres: the role that new objects belong to. Default: the database's owner, or the login itself.",
)
_output = click.option(
    "-o", "--output", "form", type=_FORMS, default="human", show_default=True, help="json: one object a line."
)


def _directory(*, required: bool = True) -> Callable[[F], F]:
    text = "The directory with the migrations."
    return click.option(
        "--dir",
        "directory",
        required=required,
        envvar="SELVEDGE_MIGRATIONS",
        show_envvar=True,
        metavar="DIR",
        type=click.Path(),
        help=text if required else text + " Not needed: the history keeps the way down.",
    )


_environment = click.option("--environment", default="", metavar="NAME", help="Chooses files with an -- env: line.")
_running = _options(
    click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal."),
    click.option("--approve", default="", metavar="DIGEST", help="Run only if the plan is this one, which you read."),
    click.option(
        "--transaction",
        type=click.Choice(["per-migration", "all"]),
        default="per-migration",
        show_default=True,
        help="all: everything or nothing.",
    ),
    click.option("--lock-timeout", default="5s", show_default=True, metavar="DURATION", help="For a lock on a table."),
    click.option("--statement-timeout", default="0s", show_default=True, metavar="DURATION", help="0s: none."),
    click.option(
        "--lock-wait", default="10m", show_default=True, metavar="DURATION", help="For all waiting for locks together."
    ),
)
_out_of_order = click.option(
    "--out-of-order", is_flag=True, help="Run also migrations that are older than one that ran already."
)


@migrate.command()
@_database
@_role
@_directory()
@_environment
@click.option("--target", default="", metavar="VERSION", help="The last version to run; default: the newest.")
@_out_of_order
@_running
@_output
def up(**options: Any) -> None:
    """Run what is pending. What loses data needs a yes, and an -- allow: line in the file."""
    _run("Up", **options)


@migrate.command()
@_database
@_role
@_directory(required=False)
@_environment
@click.option("--target", default="", metavar="VERSION", help="The version to go back to; default: one step.")
@_running
@_output
def down(**options: Any) -> None:
    """Undo the newest migration, or all that are newer than --target."""
    _run("Down", **options)


@migrate.command()
@click.argument("version")
@_database
@_role
@_directory(required=False)
@_environment
@_out_of_order
@_running
@_output
def to(version: str, **options: Any) -> None:
    """Go up or down to VERSION. 0 undoes everything."""
    _run("To", target=version, **options)


@migrate.command()
@_database
@_role
@_directory()
@_environment
@click.option("--target", default="", metavar="VERSION", help="Undo to before this version; default: the newest.")
@_running
@_output
def redo(**options: Any) -> None:
    """Undo the newest migration and run it again, as its file is now: for development."""
    _run("Redo", **options)


@migrate.command()
@click.argument("version")
@_database
@_role
@_directory()
@_environment
@_running
@_output
def baseline(version: str, **options: Any) -> None:
    """Mark everything up to VERSION as run, without running it: for a database that exists already."""
    _run("Baseline", target=version, **options)


@migrate.command()
@_database
@_directory()
@_environment
@click.option("--target", default="", metavar="VERSION", help="The last version to plan; default: the newest.")
@click.option(
    "--action",
    type=click.Choice(["up", "down", "to", "redo", "baseline"]),
    default="up",
    show_default=True,
    help="What to plan.",
)
@_out_of_order
@_output
def plan(action: str, form: str, **options: Any) -> None:
    """Show what would run, and its digest: what approvedPlan of a MigrationRun has to equal. Writes nothing at all.

    Exit status: 0 nothing would run, 2 something would, 1 error.
    """
    from selvedge.cli import migrate_look

    place, directory, operation = _call(action.title(), **options)
    _exit(migrate_look.plan(place, directory, operation, form))


@migrate.command()
@_database
@_directory()
@_environment
@_output
def status(form: str, **options: Any) -> None:
    """Show each migration: applied, pending, changed, missing. Writes nothing at all.

    Exit status: 0 all are applied, 2 something is pending or differs, 1 error.
    """
    from selvedge.cli import migrate_look

    place, directory, operation = _call("Plan", **options)
    _exit(migrate_look.status(place, directory, operation.environment, form))


@migrate.command()
@_database
@_directory()
@_environment
@_output
def validate(form: str, **options: Any) -> None:
    """Compare the files with the history, and read every pending one. Writes nothing at all.

    Exit status: 0 they fit, 1 they do not: the message says what to do.
    """
    from selvedge.cli import migrate_look

    place, directory, operation = _call("Validate", **options)
    _exit(migrate_look.validate(place, directory, operation, form))


def _run(action: str, form: str, *, yes: bool, **options: Any) -> None:
    from selvedge.cli import migrate_run

    place, directory, operation = _call(action, **options)
    _exit(migrate_run.run(place, directory, operation, form=form, yes=yes))


def _exit(status: int) -> None:
    click.get_current_context().exit(status)


def _call(action: str, directory: str | None = None, **options: Any) -> tuple[Place, str | None, Operation]:
    """The options as objects. Raises InvalidError and click's errors."""
    from selvedge.core.duration import parse_duration
    from selvedge.migrate.operation import Operation
    from selvedge.migrate.protocol import Timeouts

    place = _place(**options)
    operation = Operation(
        action=action,
        engine=place.engine,
        target=options.get("target") or "",
        out_of_order="Apply" if options.get("out_of_order") else "Refuse",
        environment=options.get("environment") or "",
        repair=options.get("kind") or "",
        actor=options.get("actor") or "",
        reason=options.get("reason") or "",
        transaction="All" if options.get("transaction") == "all" else "PerMigration",
        approved=options.get("approve") or "",
        timeouts=Timeouts(
            *(parse_duration(options.get(name) or default) for name, default in _TIMEOUTS.items()),
        ),
    )
    return place, directory, operation


_TIMEOUTS = {"lock_timeout": "5s", "statement_timeout": "0s", "lock_wait": "10m"}


def _place(url: str, password_file: str | None, database: str, **options: Any) -> Place:
    import os
    from urllib.parse import urlsplit

    from selvedge.cli.migrate_session import place_of

    password = ""
    if password_file is not None:
        with click.open_file(password_file, encoding="utf-8") as file:
            password = file.read().rstrip("\r\n")
    place = place_of(
        url,
        password=password,
        environ=os.environ,
        database=database,
        role=options.get("role") or "",
        history_schema=options["history_schema"],
        history_table=options["history_table"],
    )
    typed = click.get_current_context().get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if typed and urlsplit(url).password:
        note("the password in --url can be read in the list of processes: use SELVEDGE_URL or SELVEDGE_PASSWORD")
    return place
