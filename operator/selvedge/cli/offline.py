"""``plan``, ``apply`` and ``verify``: DatabaseSchemas from files against one server, without any cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.resource import Resource
from selvedge.api.support import unsupported
from selvedge.cli.manifests import read_manifests
from selvedge.cli.output import Report, SchemaReport, in_our_words
from selvedge.cli.url import POSTGRES, invalid, target_of
from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.core.unit import UnitResult
from selvedge.engines.base import Engine, Member, ServerTarget, Unit

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Request:
    """A server, and what is to be in its databases: one unit of work for each database."""

    engine: str
    target: ServerTarget
    units: tuple[Unit, ...]
    redactor: Redactor = field(repr=False)


def request(
    *,
    paths: Sequence[str],
    url: str,
    password: str = "",
    environ: Mapping[str, str],
    namespace: str = "default",
    server: str = "",
    cluster: str = "cli",
    note: Callable[[str], None],
) -> Request:
    """Read the manifests and the URL; ``note`` is told what is left out.

    Raises InvalidError: the URL, a file or a declaration cannot be used. No message holds a password.
    """
    engine, target = target_of(url, password, environ)
    if urlsplit(url).password:
        note("the password in --url can be read in the list of processes: use --password-file or SELVEDGE_PASSWORD")
    resources = _choose(engine, read_manifests(paths, namespace, note), server, note)
    members: dict[str, list[Member]] = {}
    for resource in resources:
        missing = unsupported(resource.spec)
        if missing:
            raise invalid(f"{resource}: this version does not act on {', '.join(missing)} yet: remove it")
        if resource.spec.migrations is not None:
            note(f"{resource}: spec.migrations is not run by this command")
        members.setdefault(resource.spec.database, []).append(_member(resource))
    redactor = Redactor()
    redactor.add(target.password)
    # Nobody here can say that another DatabaseSchema is gone: its claims hold.
    units = tuple(Unit(database, tuple(of), cluster, alive=lambda _: True) for database, of in members.items())
    return Request(engine, target, units, redactor)


def plan(wanted: Request) -> Report:
    """What :func:`apply` would do now. Raises SelvedgeError when the server cannot be used."""
    return _run(wanted, "plan", lambda engine, unit: engine.plan(unit))


def verify(wanted: Request) -> Report:
    """How the databases differ from what is declared. Raises SelvedgeError when the server cannot be used."""
    return _run(wanted, "verify", lambda engine, unit: engine.plan(unit))


def apply(wanted: Request) -> Report:
    """Make the databases what is declared, and look again. Raises SelvedgeError when the server cannot be used."""
    return _run(wanted, "apply", lambda engine, unit: engine.converge(unit, lambda: None))


def approve(wanted: Request, planned: Report, digests: Iterable[str]) -> Request:
    """The same with these plans approved. Raises InvalidError for a digest that no plan has now."""
    given = set(digests)
    current = {(s.namespace, s.name): s.result.digest for s in planned.schemas if s.result.pending}
    for digest in sorted(given - set(current.values())):
        if not _DIGEST.fullmatch(digest):
            raise invalid(f"--approve {digest[:80]} is no digest: write sha256: and 64 digits, as `plan` shows it")
        raise invalid(f"--approve {digest} is not the digest of a plan as the databases are now: plan again")

    def approved(member: Member) -> Member:
        digest = current.get((member.namespace, member.name), "")
        if digest not in given:
            return member
        return replace(member, spec=member.spec.model_copy(update={"approved_plan": digest}))

    units = tuple(replace(unit, members=tuple(map(approved, unit.members))) for unit in wanted.units)
    return replace(wanted, units=units)


class _NoObserver:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nobody scrapes a command."""


def _open(wanted: Request) -> Engine:
    if wanted.engine == POSTGRES:
        from selvedge.engines.postgres.engine import PostgresEngine

        return PostgresEngine(wanted.target, _NoObserver())
    from selvedge.engines.mongodb.engine import MongoEngine

    return MongoEngine(wanted.target, _NoObserver())


def _run(wanted: Request, command: str, work: Callable[[Engine, Unit], Awaitable[UnitResult]]) -> Report:
    async def each() -> Report:
        engine = _open(wanted)
        schemas: list[SchemaReport] = []
        errors: list[str] = []
        try:
            # The operator probes a DatabaseServer before it uses it: version, poolers and the connection itself.
            facts = await engine.probe()
            for unit in wanted.units:
                try:
                    result = await work(engine, unit)
                except SelvedgeError as error:
                    # One bad database does not keep the others from being looked at.
                    message = (
                        f"database {unit.database}: {in_our_words(error.message, postgres=wanted.engine == POSTGRES)}"
                    )
                    if error.reason is Reason.INSUFFICIENT_PRIVILEGES and facts.missing_privileges:
                        message += f"; an administrator has to run: {'; '.join(facts.missing_privileges)}"
                    errors.append(wanted.redactor.redact(message))
                    continue
                schemas += [
                    SchemaReport(unit.database, m.namespace, m.name, result.members[m.uid]) for m in unit.members
                ]
        finally:
            await engine.close()
        return Report(command, tuple(schemas), tuple(errors))

    try:
        return asyncio.run(each())
    except SelvedgeError as error:
        message = wanted.redactor.redact(in_our_words(error.message, postgres=wanted.engine == POSTGRES))
        raise InvalidError(error.reason, message) from None


def _choose(
    engine: str, resources: list[Resource[DatabaseSchemaSpec]], server: str, note: Callable[[str], None]
) -> list[Resource[DatabaseSchemaSpec]]:
    """Those for this server: the engine's, of one DatabaseServer, and not suspended."""
    chosen: dict[str, list[Resource[DatabaseSchemaSpec]]] = {}
    for resource in resources:
        ref = resource.spec.server_ref
        if (resource.spec.postgres is not None) != (engine == POSTGRES):
            note(f"{resource}: left out, since --url is a {engine} server")
        elif resource.spec.suspend:
            note(f"{resource}: left out, since spec.suspend is true")
        else:
            chosen.setdefault(f"{ref.namespace or resource.metadata.namespace}/{ref.name}", []).append(resource)
    if server:
        names = [name for name in chosen if server in (name, name.partition("/")[2])]
        if not names:
            raise invalid(f"no DatabaseSchema is of DatabaseServer {server}: these are named: {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in names}
    if len(chosen) > 1:
        raise invalid(f"the DatabaseSchemas are of several DatabaseServers, {', '.join(chosen)}: choose with --server")
    if not chosen:
        raise invalid(f"no DatabaseSchema is left for a {engine} server: correct -f or --url")
    return next(iter(chosen.values()))


def _member(resource: Resource[DatabaseSchemaSpec]) -> Member:
    metadata = resource.metadata
    uid = metadata.uid or f"cli:{metadata.namespace}/{metadata.name}"
    return Member(
        uid, metadata.namespace, metadata.name, metadata.generation, metadata.creation_timestamp, resource.spec
    )
