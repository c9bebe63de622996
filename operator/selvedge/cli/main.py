"""The commands and their options. What a command needs is imported when it runs, so that each starts fast.

Exit status: 0 equal or nothing to do, 2 differs, 1 error, which includes a wrong option: whoever asks "does it
differ?" must not take a mistyped option for an answer.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from selvedge.core.errors import SelvedgeError

if TYPE_CHECKING:
    from selvedge.cli.offline import Request
    from selvedge.cli.output import Report

F = TypeVar("F", bound=Callable[..., Any])

#: Commands that live in a module of their own.
_ELSEWHERE = {
    "completion": "selvedge.cli.completion",
    "crds": "selvedge.cli.crds",
    "export": "selvedge.cli.export",
    "migrate": "selvedge.cli.migrate",
    "release": "selvedge.cli.release",
}


class Commands(click.Group):
    """A group of commands that ends the process with one sentence where something is wrong."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and end the process with one sentence where something is wrong."""
        run_it = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return run_it()
        try:
            status: object = run_it()
        except click.ClickException as error:
            if isinstance(error, click.exceptions.NoArgsIsHelpError):
                error.show()
                raise SystemExit(1) from None
            _fail(_usage(error))
        except click.Abort:
            _fail("interrupted: see with `verify` how the databases stand")
        except SelvedgeError as error:
            _fail(error.message)
        raise SystemExit(status if isinstance(status, int) else 0)


class _Lazy(Commands):
    """The group of all commands; those elsewhere are imported when somebody asks for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name)
        return command


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f"; see `{error.ctx.command_path} --help`"
    return message


def _told_to_stop(*_: object) -> NoReturn:
    raise SystemExit(0)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    raise SystemExit(1)


def note(message: str) -> None:
    """Say something beside the result."""
    click.echo(f"note: {message}", err=True)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="selvedge", message="%(package)s %(version)s")
def main() -> None:
    """Databases as declarations: what is inside Postgres and MongoDB servers, kept as it is written."""


@main.command()
def run() -> None:
    """Run the operator in a cluster. Settings are SELVEDGE_* environment variables.

    Exit status: 0 it was told to stop, 1 it could not start (a wrong setting, a kubeconfig that is missing or broken)
    or it lost its Lease.
    """
    from selvedge.config import Settings

    # A container's first process is not ended by SIGTERM before it handles that: the imports below take a second.
    signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        _fail(str(error))
    from selvedge.runtime import main as run_operator

    click.get_current_context().exit(run_operator(settings))


def _offline_options(command: F) -> F:
    """The options that plan, apply and verify have in common."""
    options = (
        click.option(
            "-f",
            "--filename",
            "paths",
            multiple=True,
            required=True,
            metavar="FILE_OR_DIRECTORY",
            type=click.Path(exists=True, allow_dash=True),
            help="Manifests: a file, a directory (*.yaml, *.yml, *.json), or - for standard input. Repeatable.",
        ),
        click.option(
            "--url", required=True, help="postgresql://USER@HOST:PORT/?sslmode=…&sslrootcert=PATH or mongodb://…"
        ),
        click.option(
            "--password-file",
            metavar="FILE",
            type=click.Path(exists=True, allow_dash=True, dir_okay=False),
            help="File with the password. Else SELVEDGE_PASSWORD, or for Postgres PGPASSWORD.",
        ),
        click.option("-n", "--namespace", default="default", show_default=True, help="For manifests that name none."),
        click.option("--server", help="Only the DatabaseSchemas of this DatabaseServer: [NAMESPACE/]NAME."),
        click.option(
            "--cluster-uid",
            default="cli",
            show_default=True,
            help="In whose name objects are claimed: the uid of the cluster's namespace kube-system.",
        ),
        click.option(
            "-o",
            "--output",
            "form",
            type=click.Choice(["human", "json", "yaml"]),
            default="human",
            show_default=True,
            help="json and yaml are for machines.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_offline_options
def plan(form: str, **options: Any) -> None:
    """Show what `apply` would do to a server. Writes nothing, needs no cluster.

    Exit status: 0 nothing to do, 2 there are changes or objects that cannot be had, 1 error.
    """
    from selvedge.cli import offline

    report = offline.plan(_request(**options))
    _show(report, form)
    click.get_current_context().exit(report.exit_status)


@main.command()
@_offline_options
def verify(form: str, **options: Any) -> None:
    """Compare a server with the manifests. Writes nothing, needs no cluster.

    Exit status: 0 equal, 2 something differs or waits, 1 error.
    """
    from selvedge.cli import offline

    report = offline.verify(_request(**options))
    _show(report, form)
    click.get_current_context().exit(report.exit_status)


@main.command()
@_offline_options
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@click.option(
    "--approve", "digests", multiple=True, metavar="DIGEST", help="Let a plan through that loses data. Repeatable."
)
def apply(form: str, digests: Sequence[str], *, yes: bool, **options: Any) -> None:
    """Make a server what the manifests say, and verify it. Needs no cluster.

    Changes that lose data wait until the plan that holds them is approved by its digest.
    Exit status: 0 equal, 2 something still differs or waits, 1 error.
    """
    from selvedge.cli import offline

    request = _request(**options)
    planned = offline.plan(request)
    approved = offline.approve(request, planned, digests)
    changes = planned.changes
    if form == "human":
        _show(planned, form)
    if planned.errors:
        if form != "human":
            _show(planned, form)
        click.get_current_context().exit(planned.exit_status)
    if changes and not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.ClickException(f"{changes} changes, and there is no terminal to ask at: add --yes")
        if form != "human":
            _show(planned, "human", err=True)
        if not click.confirm("Make these changes?", err=True):
            raise click.ClickException("nothing was changed")
    report = offline.apply(approved)
    _show(report, form)
    click.get_current_context().exit(report.exit_status)


def _request(paths: Sequence[str], url: str, password_file: str | None, **options: str | None) -> Request:
    """What the options ask for, with files and password read; raises click's errors and InvalidError."""
    from selvedge.cli import offline

    if (password_file, *paths).count("-") > 1:
        raise click.UsageError("--password-file and -f cannot both be standard input")
    if password_file is None:
        password = ""
    else:
        with click.open_file(password_file, encoding="utf-8") as file:
            password = file.read().rstrip("\r\n")
    return offline.request(
        paths=tuple(paths),
        url=url,
        password=password,
        environ=os.environ,
        namespace=options["namespace"] or "default",
        server=options["server"] or "",
        cluster=options["cluster_uid"] or "cli",
        note=note,
    )


def _show(report: Report, form: str, *, err: bool = False) -> None:
    from selvedge.cli import output

    output.show(report, form, err=err)
    for message in report.errors:
        click.echo(f"error: {message}", err=True)
