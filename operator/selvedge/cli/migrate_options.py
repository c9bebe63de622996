"""The options of ``selvedge migrate``, and what a command makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from selvedge.cli.main import note
from selvedge.core.errors import SelvedgeError

if TYPE_CHECKING:
    from selvedge.cli.migrate_session import Place
    from selvedge.migrate.operation import Operation

F = TypeVar("F", bound=Callable[..., Any])

_FORMS = click.Choice(["human", "json", "yaml"])


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in their order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


database_options = together(
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
        "--schema",
        "schemas",
        multiple=True,
        metavar="NAME",
        help="Postgres: run the files in this schema, with a history of its own. Repeatable: one after the other.",
    ),
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
    click.option(
        "--placeholder",
        "placeholders",
        multiple=True,
        metavar="NAME",
        help="An environment variable whose value takes the place of ${env:NAME} in the files. Repeatable.",
    ),
)
role_option = click.option(
    "--role",
    default="",
    metavar="NAME",
    help="Postgres: the role that new objects belong to. Default: the database's owner, or the login itself.",
)
output_option = click.option(
    "-o", "--output", "form", type=_FORMS, default="human", show_default=True, help="json: one object a line."
)


def directory_option(*, required: bool = True) -> Callable[[F], F]:
    """``--dir``; ``required`` False for what the history alone is enough for."""
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


class Command(click.Command):
    """One that tells a machine, too, why it came to nothing: its last object, where ``-o`` asks for objects."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it. Raises what it raises."""
        try:
            return super().invoke(ctx)
        except (SelvedgeError, click.ClickException) as error:
            form = ctx.params.get("form", "human")
            if form != "human":
                from selvedge.cli import migrate_output as output

                output.emit(output.error_document(str(ctx.info_name), error), form)
            raise


environment_option = click.option(
    "--environment", default="", metavar="NAME", help="Chooses files with an -- env: line."
)
running_options = together(
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
repair_options = together(
    click.option(
        "--accept", metavar="VERSION", help="Take the file's text over as the one that ran; `all`: all of them."
    ),
    click.option("--mark-applied", metavar="VERSION", help="Write it down as run, without running it."),
    click.option("--mark-unapplied", metavar="VERSION", help="Write it down as not run, without undoing it."),
    click.option(
        "--drop-invalid-indexes", is_flag=True, help="Drop what broken CREATE INDEX CONCURRENTLY left behind."
    ),
)
conventions_option = click.option(
    "--conventions", metavar="FILE", help="Naming conventions, YAML or JSON; see the guide."
)
out_of_order_option = click.option(
    "--out-of-order", is_flag=True, help="Run also migrations that are older than one that ran already."
)


def called(
    action: str, directory: str | None = None, **options: Any
) -> tuple[tuple[Place, ...], str | None, Operation]:
    """The options as objects. Raises InvalidError and click's errors."""
    from selvedge.core.duration import parse_duration
    from selvedge.migrate.operation import Operation
    from selvedge.migrate.protocol import Timeouts

    places = places_called(**options)
    kind, target = _repair(action, options)
    conventions = None
    if options.get("conventions"):
        from selvedge.cli.migrate_lint import conventions_in

        conventions = conventions_in(options["conventions"])
    operation = Operation(
        action=action,
        engine=places[0].engine,
        target=target,
        out_of_order="Apply" if options.get("out_of_order") else "Refuse",
        environment=options.get("environment") or "",
        repair=kind,
        actor=options.get("actor") or "",
        reason=options.get("reason") or "",
        transaction="All" if options.get("transaction") == "all" else "PerMigration",
        approved=options.get("approve") or "",
        timeouts=Timeouts(
            *(parse_duration(options.get(name) or default) for name, default in _TIMEOUTS.items()),
        ),
        conventions=conventions,
    )
    if len(places) > 1:
        from selvedge.migrate.scopes import check_scopes

        check_scopes([place.scope for place in places], operation)
    return places, directory, operation


def _repair(action: str, options: dict[str, Any]) -> tuple[str, str]:
    """The kind of a repair, empty for another action, and the target."""
    target = options.get("target") or ""
    chosen = {kind: options[name] for name, kind in _KINDS.items() if options.get(name)}
    if action != "Repair":
        if chosen:
            raise click.UsageError("a repair is planned with --action repair")
        return "", target
    if len(chosen) != 1 or target:
        raise click.UsageError(
            "a repair is one thing: --accept, --mark-applied, --mark-unapplied or --drop-invalid-indexes"
        )
    [(kind, version)] = chosen.items()
    return kind, "" if version is True or (kind, version) == ("Accept", "all") else version


_KINDS = {
    "accept": "Accept",
    "mark_applied": "MarkApplied",
    "mark_unapplied": "MarkUnapplied",
    "drop_invalid_indexes": "DropInvalidIndexes",
}
_TIMEOUTS = {"lock_timeout": "5s", "statement_timeout": "0s", "lock_wait": "10m"}


def places_called(url: str, password_file: str | None, database: str, **options: Any) -> tuple[Place, ...]:
    """The database, once for each ``--schema``. Raises InvalidError and click's errors."""
    from dataclasses import replace

    from selvedge.cli.migrate_session import place_of
    from selvedge.cli.url import invalid
    from selvedge.migrate.placeholders import placeholder_values

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
    schemas: tuple[str, ...] = options["schemas"]
    if schemas and place.engine != "Postgres":
        raise invalid("--schema is for Postgres: a MongoDB database has no schemas; leave it out")
    if options["placeholders"]:
        place = replace(place, placeholders=placeholder_values(options["placeholders"], os.environ))
    return tuple(replace(place, scope=schema) for schema in dict.fromkeys(schemas)) or (place,)
