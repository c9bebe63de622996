"""``selvedge export``: the databases of a live server as manifests, whose plan against it is empty."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from selvedge.api.base import API_VERSION
from selvedge.cli.main import note
from selvedge.cli.manifest_text import to_text
from selvedge.cli.output import clean, in_our_words
from selvedge.cli.url import POSTGRES, invalid, target_of
from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.redact import Redactor
from selvedge.engines.base import ServerTarget

#: JSON has no comments: there a list of what is left out stands in this annotation.
_LEFT_OUT = "selvedge.dev/left-out"
_NAME_LENGTH = 200
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_INTRODUCTION = (
    "Exported from the live database {database}. Tables, views, functions and data are made by migrations and are not",
    "in here. `selvedge plan` against the same server has nothing to do.",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One DatabaseSchema, and what of its database it leaves out."""

    document: dict[str, Any]
    database: str
    notes: tuple[str, ...]


class _NoObserver:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nobody scrapes a command."""


@click.command(name="export")
@click.option("--url", required=True, help="postgresql://USER@HOST:PORT/?sslmode=…&sslrootcert=PATH or mongodb://…")
@click.option(
    "--password-file",
    metavar="FILE",
    type=click.Path(exists=True, allow_dash=True, dir_okay=False),
    help="File with the password. Else SELVEDGE_PASSWORD, or for Postgres PGPASSWORD.",
)
@click.option("--server", required=True, metavar="[NAMESPACE/]NAME", help="The DatabaseServer for spec.serverRef.")
@click.option("-n", "--namespace", default="", help="The namespace of the manifests; none is written by default.")
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="A database. Repeatable; default: all you may read."
)
@click.option("--name", default="", help="Name of the DatabaseSchema of a single database; default: the database's.")
@click.option(
    "--users",
    is_flag=True,
    help="Postgres: logins too, as DatabaseUsers whose password stays somebody else's (management: External).",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="json is a List for machines.",
)
def export(url: str, password_file: str | None, server: str, form: str, **options: Any) -> None:
    """Write the databases of a live server as DatabaseSchemas. Writes nothing to the server, needs no cluster.

    What cannot be declared is named on standard error and in comments.
    Exit status: 0 exported, and the plan against the server is empty; 1 error, in one of the databases at least.
    """
    password = ""
    if password_file is not None:
        with click.open_file(password_file, encoding="utf-8") as file:
            password = file.read().rstrip("\r\n")
    engine, target = target_of(url, password, os.environ)
    manifests, errors = _manifests(engine, target, server, **options)
    for manifest in manifests:
        for text in manifest.notes:
            note(f"{clean(manifest.database)}: {clean(text)}")
    if manifests:
        click.echo(_json(manifests) if form == "json" else _yaml(manifests), nl=form == "json")
    for message in errors:
        click.echo(f"error: {message}", err=True)
    click.get_current_context().exit(1 if errors else 0)


def _manifests(
    engine: str, target: ServerTarget, server: str, namespace: str, databases: Sequence[str], name: str, *, users: bool
) -> tuple[list[Manifest], list[str]]:
    """The manifests, and what is wrong with databases that have none; raises InvalidError.

    No message holds a secret.
    """
    redactor = Redactor()
    redactor.add(target.password)
    for given, what in (
        (name, "--name"),
        (namespace, "--namespace"),
        *((part, "--server") for part in server.split("/")),
    ):
        if given and not _RESOURCE.fullmatch(given):
            raise invalid(f"{what} {given[:63]} is no name of a Kubernetes object: use a-z, 0-9, - and .")

    def worded(error: SelvedgeError) -> str:
        return redactor.redact(in_our_words(error.message, postgres=engine == POSTGRES))

    try:
        found, errors = asyncio.run(_read(engine, target, databases))
    except SelvedgeError as error:
        raise InvalidError(error.reason, worded(error)) from None
    if name and len(found) > 1:
        raise invalid(f"--name is for one database, and these are {len(found)}: choose one with --database")
    if not found and not errors:
        raise invalid("there is no database to export: the login may connect to none that holds anything of yours")
    reference = _reference(server)
    taken: dict[str, str] = {}
    names_of_users: dict[str, str] = {}
    manifests = []
    for database, specs, told, logins, login_notes in found:
        if users:
            told = (*(text for text in told if not text.startswith("login ")), *login_notes)
        notes = tuple(redactor.redact(in_our_words(text, postgres=engine == POSTGRES)) for text in told)
        own = name or resource_name(database, taken)
        for number, spec in enumerate(specs):
            document = _document(own if number == 0 else f"{own}-{number + 1}", namespace, reference, database, spec)
            manifests.append(Manifest(document, database, notes if number == 0 else ()))
        for login in logins if users else ():
            document = _user(resource_name(login["username"], names_of_users), namespace, own, login)
            manifests.append(Manifest(document, database, ()))
    return manifests, [clean(worded(error)) for error in errors]


Found = tuple[str, tuple[Mapping[str, Any], ...], tuple[str, ...], tuple[Mapping[str, Any], ...], tuple[str, ...]]
"""A database, the engine's own part of each spec, and what is left out; its logins, and what is left out of these."""


async def _read(kind: str, target: ServerTarget, databases: Sequence[str]) -> tuple[list[Found], list[SelvedgeError]]:
    if kind == POSTGRES:
        from selvedge.engines.postgres.engine import PostgresEngine
        from selvedge.engines.postgres.export import export_server

        postgres = PostgresEngine(target, _NoObserver())
        try:
            await postgres.probe()
            postgres_found, errors = await export_server(postgres, databases)
        finally:
            await postgres.close()
        return [
            (one.database, tuple({"postgres": spec} for spec in one.specs), one.notes, one.logins, one.login_notes)
            for one in postgres_found
        ], errors
    from selvedge.engines.mongodb.export import export_mongodb

    mongo_found, errors = await export_mongodb(target, _NoObserver(), databases)
    return [
        (one.database, tuple({"mongodb": spec} for spec in one.specs), one.notes, (), ()) for one in mongo_found
    ], errors


def _reference(server: str) -> dict[str, str]:
    namespace, _, name = server.rpartition("/")
    return {"name": name, "namespace": namespace} if namespace else {"name": name}


def resource_name(database: str, taken: dict[str, str]) -> str:
    """A name for the resource that looks like the database's: ``fashion-wallet`` for ``Fashion_Wallet``.

    Where two databases would get the same, or nothing is left of a name, a few digits of its hash are added.
    """
    name = re.sub(r"[^a-z0-9]+", "-", database.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    if not name or taken.get(name, database) != database:
        name = f"{name or 'database'}-{hashlib.sha256(database.encode()).hexdigest()[:8]}"
    taken[name] = database
    return name


def _document(
    name: str, namespace: str, reference: Mapping[str, str], database: str, spec: Mapping[str, Any]
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {
        "apiVersion": API_VERSION,
        "kind": "DatabaseSchema",
        "metadata": metadata,
        "spec": {
            "serverRef": dict(reference),
            "database": database,
            # What is there is taken over as it is, and nothing of it ever goes by itself.
            "adoption": "Allow",
            "prune": "Never",
            "deletionPolicy": "Retain",
            **spec,
        },
    }


def _user(name: str, namespace: str, schema: str, login: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    spec = {"schemaRef": {"name": schema}, **login}
    return {"apiVersion": API_VERSION, "kind": "DatabaseUser", "metadata": metadata, "spec": spec}


def _yaml(manifests: Sequence[Manifest]) -> str:
    documents = []
    for manifest in manifests:
        schema = manifest.document["kind"] == "DatabaseSchema"
        comments = [line.format(database=clean(manifest.database)) for line in _INTRODUCTION] if schema else []
        if manifest.notes:
            comments += ["Not in here:", *(f"- {clean(text)}" for text in manifest.notes)]
        documents.append((manifest.document, comments))
    return to_text(documents)


def _json(manifests: Sequence[Manifest]) -> str:
    items = []
    for manifest in manifests:
        document = dict(manifest.document)
        if manifest.notes:
            lines = "\n".join(clean(text) for text in manifest.notes)
            document["metadata"] = {**document["metadata"], "annotations": {_LEFT_OUT: lines}}
        items.append(document)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2, ensure_ascii=False)
