"""``kubectl selvedge``: look at what the operator says in a cluster, approve what waits for a person, rotate passwords.

It talks to the Kubernetes API with the rights of whoever calls it, and to no database.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from selvedge.cli import completion
from selvedge.cli.main import Commands

if TYPE_CHECKING:
    from selvedge.kube.client import KubeClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    name="kubectl selvedge",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="selvedge", message="kubectl-selvedge %(version)s")
def kubectl() -> None:
    """What is inside databases, as the operator in this cluster sees it."""


def _options(command: F) -> F:
    """The options that every command has, named as kubectl names them."""
    options = (
        click.option(
            "-n", "--namespace", default="", help="Namespace. Else the context's.", shell_complete=completion.namespaces
        ),
        click.option(
            "--kubeconfig", default="", type=click.Path(), metavar="FILE", help="Else KUBECONFIG, else ~/.kube/config."
        ),
        click.option(
            "--context",
            "kube_context",
            default="",
            help="Context of the kubeconfig. Else its current one.",
            shell_complete=completion.contexts,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _form(command: F) -> F:
    """The option of every command that chooses between people and machines."""
    option = click.option(
        "-o", "--output", "form", type=click.Choice(["human", "json"]), default="human", show_default=True
    )
    return option(command)


@kubectl.command()
@_options
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces.")
@_form
def status(namespace: str, kubeconfig: str, kube_context: str, form: str, *, everywhere: bool) -> None:
    """Show servers, their DatabaseSchemas and what is not as declared, with reasons.

    Exit status: 0 everything is Ready, 2 something is not, 1 error.
    """
    from selvedge.cli import tree

    async def read(kube: KubeClient, default: str) -> list[dict[str, Any]]:
        return await tree.read(kube, None if everywhere else namespace or default)

    servers = _call(read, kubeconfig, kube_context)
    if form == "json":
        click.echo(json.dumps(servers, indent=2, ensure_ascii=False))
    else:
        for line in tree.lines(servers):
            click.echo(line)
    click.get_current_context().exit(0 if tree.all_ready(servers) else 2)


@kubectl.command()
@click.argument("name", shell_complete=completion.plans)
@_options
@_form
def plan(name: str, namespace: str, kubeconfig: str, kube_context: str, form: str) -> None:
    """Show the changes of DatabaseSchema NAME that wait; or of a MigrationRun, as mig/NAME.

    Exit status: 0 nothing waits, 2 there are changes, 1 error.
    """
    waiting = _call(lambda kube, default: _waiting(kube, namespace or default, name), kubeconfig, kube_context)
    if form == "json":
        click.echo(json.dumps(None if waiting is None else waiting.plan, indent=2, ensure_ascii=False))
    elif waiting is None:
        click.echo(f"{_object(name)}: nothing waits")
    else:
        _print(waiting.plan)
    click.get_current_context().exit(0 if waiting is None else 2)


@kubectl.command()
@click.argument("name", shell_complete=completion.plans)
@_options
@click.option("--digest", default="", help="The plan that was read. Refused where another one waits by now.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal, and needs --digest.")
@_form
def approve(
    name: str, namespace: str, kubeconfig: str, kube_context: str, digest: str, form: str, *, yes: bool
) -> None:
    """Approve the changes of DatabaseSchema NAME, or of MigrationRun mig/NAME, that wait: set spec.approvedPlan.

    The digest is computed again from the plan before it is written; a resource that changed meanwhile is refused.
    """

    async def write(kube: KubeClient, default: str) -> dict[str, Any]:
        waiting = await _waiting(kube, namespace or default, name)
        said: dict[str, Any] = {"namespace": namespace or default, "name": name, "approved": None}
        if waiting is None:
            return {**said, "message": f"{_object(name)}: nothing waits"}
        found = str(waiting.plan["digest"])
        if digest and digest != found:
            raise click.ClickException(
                f"another plan waits by now: {found}; read it with `kubectl selvedge plan {name}`"
            )
        stays = waiting.stays()
        if not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise click.ClickException("there is no terminal to ask at: add --yes and --digest")
            _print(waiting.plan, err=True)
            if stays:
                click.echo(stays, err=True)
            if not click.confirm("Approve these changes?", err=True):
                raise click.ClickException("nothing was approved")
        elif not digest:
            raise click.UsageError("--yes needs --digest: whoever approves names what he read")
        await waiting.approve(kube)
        message = f"{_object(name)}: approved {found}" + (f"; {stays}" if stays else "")
        return {**said, "approved": found, "message": message}

    _say(_call(write, kubeconfig, kube_context), form)


@kubectl.command()
@click.argument("name", shell_complete=completion.users)
@_options
@click.option("--now", is_flag=True, help="Even if the login before the last rotation is still in its grace.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the new password stands.")
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait.")
@_form
def rotate(
    name: str, namespace: str, kubeconfig: str, kube_context: str, timeout: float, form: str, *, now: bool, wait: bool
) -> None:
    """Give DatabaseUser NAME a new password; the operator writes it to the Secret. No password is shown."""
    from selvedge.cli import rotation

    async def ask(kube: KubeClient, default: str) -> dict[str, Any]:
        asked = await rotation.ask(kube, namespace or default, name, now=now)
        message = f"databaseuser {asked.namespace}/{name}: asked for a new password"
        if wait:
            message = await rotation.wait(kube, asked, timeout)
        return {"namespace": asked.namespace, "name": name, "rotated": wait, "message": message}

    _say(_call(ask, kubeconfig, kube_context), form)


def _pair(_: click.Context, option: click.Parameter, value: str) -> tuple[str, str] | None:
    """``NAMESPACE/NAME`` as a pair."""
    namespace, slash, name = value.partition("/")
    if value and not (namespace and slash and name):
        raise click.BadParameter("write NAMESPACE/NAME", param=option)
    return (namespace, name) if value else None


@kubectl.command()
@_options
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces.")
@click.option("--lease", default="", metavar="NAMESPACE/NAME", callback=_pair, help="The operator's Lease; found out.")
@click.option(
    "--service-account", default="", metavar="NAMESPACE/NAME", callback=_pair, help="The operator's; found out."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds after which what is under way counts as stuck.",
)
@_form
def doctor(
    namespace: str,
    kubeconfig: str,
    kube_context: str,
    lease: tuple[str, str] | None,
    service_account: tuple[str, str] | None,
    patience: float,
    form: str,
    *,
    everywhere: bool,
) -> None:
    """Look for what is wrong, from the CRDs to the last object, and say what to do. Changes nothing.

    Exit status: 0 nothing that somebody has to act on, 1 otherwise, or an error.
    """
    from selvedge.cli.doctor import Options, examine
    from selvedge.cli.findings import Report

    async def look(kube: KubeClient, default: str) -> Report:
        where = None if everywhere else namespace or default
        return await examine(kube, Options(where, lease, service_account, patience))

    report = _call(look, kubeconfig, kube_context)
    if form == "json":
        click.echo(json.dumps(report.document(), indent=2, ensure_ascii=False))
    else:
        for line in report.lines():
            click.echo(line)
    click.get_current_context().exit(0 if report.healthy else 1)


@kubectl.command()
@click.argument("reason", default="", shell_complete=completion.reasons)
@_form
def explain(reason: str, form: str) -> None:
    """Say what REASON of a condition or an event means, and what to do. Without REASON: list all of them."""
    from selvedge.cli.explain import show

    click.echo(show(reason, form))


@kubectl.command(name="completion")
def completion_command() -> None:
    """Print the program by which kubectl completes `kubectl selvedge`: it belongs on the PATH.

    Where selvedge was installed with pip it is there already. Elsewhere:
    kubectl selvedge completion > ~/bin/kubectl_complete-selvedge && chmod +x ~/bin/kubectl_complete-selvedge
    """
    click.echo(completion.KUBECTL_SCRIPT, nl=False)


@kubectl.command(
    name="__complete", hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def complete(words: tuple[str, ...]) -> None:
    """What kubectl_complete-selvedge asks."""
    for line in completion.answer(kubectl, list(words)):
        click.echo(line)


def _say(document: dict[str, Any], form: str) -> None:
    """What a command did: its ``message`` for people."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if form == "json" else document["message"])


async def _waiting(kube: KubeClient, namespace: str, name: str) -> Any:
    from selvedge.cli.approval import run_named, waiting, waiting_run

    run = run_named(name)
    return await (waiting_run(kube, namespace, run) if run else waiting(kube, namespace, name))


def _object(name: str) -> str:
    return f"migrationrun {name.partition('/')[2]}" if "/" in name else f"databaseschema {name}"


def _print(plan: Mapping[str, Any], *, err: bool = False) -> None:
    from selvedge.cli.output import aligned, clean, losing
    from selvedge.core.words import count

    changes = len(plan["changes"])
    waits = f"{count(changes, 'change')} to database {clean(plan['database'])} {'waits' if changes == 1 else 'wait'}:"
    click.echo(waits, err=err)
    rows = [
        (c["risk"], c["kind"], clean(c["name"]), clean(losing(c["statement"], (c.get("rows") or {}).get("text"))))
        for c in plan["changes"]
    ]
    for line in aligned(rows):
        click.echo(line, err=err)
    for advice in plan.get("advice") or ():
        click.echo(f"  {clean(advice)}", err=err)
    if plan.get("message"):
        click.echo(f"why: {clean(plan['message'])}", err=err)
    click.echo(f"digest: {plan['digest']}", err=err)


def _call(work: Callable[[KubeClient, str], Awaitable[T]], kubeconfig: str, context: str) -> T:
    """Run ``work`` with a client and the namespace of the context."""
    from selvedge.config import Settings
    from selvedge.kube.client import KubeClient
    from selvedge.kube.credentials import context_namespace

    if kubeconfig:
        os.environ["KUBECONFIG"] = kubeconfig

    async def run() -> T:
        async with KubeClient.connect(Settings(), context=context) as kube:
            return await work(kube, context_namespace(context))

    return asyncio.run(run())


def main() -> None:
    """The program ``kubectl-selvedge``."""
    kubectl()


if __name__ == "__main__":
    main()
