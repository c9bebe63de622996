"""Completion in shells: scripts for bash, zsh and fish, and what kubectl asks its plugins.

kubectl completes ``kubectl selvedge …`` by running the program ``kubectl_complete-selvedge`` with the words so far. It
prints one candidate a line, with a tab before its description, and last a directive (a sum of cobra's flags).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from selvedge.core.errors import SelvedgeError
from selvedge.kube.resources import (
    DATABASE_SCHEMAS,
    DATABASE_USERS,
    MIGRATION_RUNS,
    NAMESPACES,
    Resource,
)

#: cobra's ShellCompDirectiveDefault and ShellCompDirectiveNoFileComp.
_FILES, _NO_FILES = ":0", ":4"
#: A shell that hangs at a press of Tab is worse than one without candidates.
_SECONDS = 3.0

KUBECTL_SCRIPT = """\
#!/bin/sh
# Completion of `kubectl selvedge`: put this on the PATH as kubectl_complete-selvedge, and make it executable.
exec kubectl-selvedge __complete "$@"
"""


def script(shell: str) -> str:
    """What a shell runs at its start to complete ``selvedge``; ``shell`` is bash, zsh or fish.

    Raises ClickException for any other.
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}: use bash, zsh or fish")
    return found(click.Group(), {}, "selvedge", "_SELVEDGE_COMPLETE").source()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL runs at its start to complete selvedge.

    bash: eval "$(selvedge completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: write it to
    ~/.config/fish/completions/selvedge.fish. `kubectl selvedge` is completed by kubectl itself.
    """
    click.echo(script(shell))


def answer(command: click.Command, words: list[str]) -> Iterator[str]:
    """The lines that kubectl reads; the last of ``words`` is the one that is being typed, and may be empty."""
    *before, incomplete = words or [""]
    complete = ShellComplete(command, {}, "kubectl selvedge", "_KUBECTL_SELVEDGE_COMPLETE")
    files = False
    for item in complete.get_completions(before, incomplete):
        if item.type == "plain":
            yield f"{item.value}\t{item.help}" if item.help else str(item.value)
        else:
            files = True
    yield _FILES if files else _NO_FILES


def main() -> None:
    """The program ``kubectl_complete-selvedge``."""
    from selvedge.cli.kubectl import kubectl

    for line in answer(kubectl, sys.argv[1:]):
        click.echo(line)


def reasons(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The reasons that ``explain`` knows."""
    from selvedge.core.reasons import Reason

    return [
        CompletionItem(str(reason), help=reason.explanation)
        for reason in Reason
        if str(reason).lower().startswith(incomplete.lower())
    ]


def plans(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """DatabaseSchemas, and MigrationRuns as mig/NAME."""
    runs = [f"mig/{name}" for name in _names(ctx, MIGRATION_RUNS)] if "mig/".startswith(incomplete[:4]) else []
    return _items([*_names(ctx, DATABASE_SCHEMAS), *runs], incomplete)


def users(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """DatabaseUsers."""
    return _items(_names(ctx, DATABASE_USERS), incomplete)


def namespaces(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Namespaces of the cluster."""
    return _items(_names(ctx, NAMESPACES), incomplete)


def contexts(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Contexts of the kubeconfig."""
    from selvedge.kube import credentials

    _use(ctx)
    # where there are none there is nowhere to say so, at a prompt: the command itself will
    return _items(credentials.contexts(), incomplete)


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _use(ctx: click.Context) -> None:
    """The kubeconfig that the words so far name."""
    if ctx.params.get("kubeconfig"):
        os.environ["KUBECONFIG"] = str(ctx.params["kubeconfig"])


def _names(ctx: click.Context, resource: Resource) -> list[str]:
    """The names of the objects of a kind, of those that are there within a moment."""
    params: dict[str, Any] = ctx.params
    _use(ctx)
    try:
        return asyncio.run(_listed(resource, str(params.get("namespace") or ""), str(params.get("kube_context") or "")))
    except (SelvedgeError, TimeoutError, OSError):
        return []  # as above


async def _listed(resource: Resource, namespace: str, context: str) -> list[str]:
    from selvedge.config import Settings
    from selvedge.kube.client import KubeClient
    from selvedge.kube.credentials import context_namespace

    async with asyncio.timeout(_SECONDS), KubeClient.connect(Settings(), context=context) as kube:
        where = None if resource is NAMESPACES else namespace or context_namespace(context)
        return [str(obj["metadata"]["name"]) async for obj in kube.list(resource, where)]
