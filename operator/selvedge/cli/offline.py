"""``plan``, ``apply`` and ``verify``: DatabaseSchemas from files against one server, without any cluster."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from selvedge.api.base import GROUP
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.resource import Resource, parse
from selvedge.api.support import unsupported
from selvedge.cli.output import Report, SchemaReport, in_our_words, summary
from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.core.unit import UnitResult
from selvedge.engines.base import Engine, Member, ServerTarget, TlsOptions, Unit

POSTGRES, MONGODB = "Postgres", "MongoDB"
_SCHEMES = {"postgresql": POSTGRES, "postgres": POSTGRES, "mongodb": MONGODB, "mongodb+srv": MONGODB}
_PORTS = {POSTGRES: 5432, MONGODB: 27017}
_SUFFIXES = (".yaml", ".yml", ".json")
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
            raise _invalid(f"{resource}: this version does not act on {', '.join(missing)} yet: remove it")
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
            raise _invalid(f"--approve {digest[:80]} is no digest: write sha256: and 64 digits, as `plan` shows it")
        raise _invalid(f"--approve {digest} is not the digest of a plan as the databases are now: plan again")

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


# --- manifests ---


def read_manifests(
    paths: Sequence[str], namespace: str, note: Callable[[str], None]
) -> list[Resource[DatabaseSchemaSpec]]:
    """The DatabaseSchemas of all files, strictly decoded; other kinds are left out and noted.

    Raises InvalidError, which names file and document.
    """
    found: dict[tuple[str, str], tuple[str, Resource[DatabaseSchemaSpec]]] = {}
    skipped: list[str] = []
    for path in _files(paths):
        for where, document in _documents(path):
            kind = str(document.get("kind", ""))
            if kind != "DatabaseSchema" or not str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
                skipped.append(kind[:63] or "document without kind")
                continue
            try:
                resource = parse(document, strict=True)
            except InvalidError as error:
                raise InvalidError(error.reason, f"{where}: {error.message}") from None
            if not resource.metadata.namespace:
                resource = replace(resource, metadata=replace(resource.metadata, namespace=namespace))
            key = (resource.metadata.namespace, resource.metadata.name)
            if key in found:
                raise _invalid(f"{where}: {resource} stands in {found[key][0]} too: remove one")
            found[key] = (where, resource)
    if skipped:
        note(f"left out, only DatabaseSchemas are used here: {summary(skipped)}")
    if not found:
        raise _invalid(f"no DatabaseSchema in {', '.join(paths)}: name files that hold one")
    return [resource for _, resource in found.values()]


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in dict.fromkeys(paths):
        if path != "-" and Path(path).is_dir():
            yield from sorted(str(entry) for entry in Path(path).iterdir() if entry.suffix in _SUFFIXES)
        else:
            yield path


def _documents(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        for number, document in enumerate(yaml.load_all(text, Loader=_Loader), 1):
            where = f"{name}, document {number}"
            if document is None:
                continue
            if not isinstance(document, dict):
                raise _invalid(f"{where}: is no mapping: write apiVersion, kind, metadata and spec")
            items = document.get("items")
            if document.get("kind") == "List" and isinstance(items, list):
                yield from ((f"{where}, item {n}", item) for n, item in enumerate(items, 1) if isinstance(item, dict))
            else:
                yield where, document
    except yaml.MarkedYAMLError as error:
        # Without the excerpt: other documents of the file may be Secrets.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _invalid(f"{name}{line}: is no valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise _invalid(f"{name}: is no valid YAML: it holds bytes or characters that are not allowed") from None
    except OSError as error:
        raise _invalid(f"{name}: cannot be read: {error.strerror}") from None


class _Loader(yaml.SafeLoader):
    """YAML as the API server takes it: a key stands once, and what looks like a date is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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
            raise _invalid(f"no DatabaseSchema is of DatabaseServer {server}: these are named: {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in names}
    if len(chosen) > 1:
        raise _invalid(f"the DatabaseSchemas are of several DatabaseServers, {', '.join(chosen)}: choose with --server")
    if not chosen:
        raise _invalid(f"no DatabaseSchema is left for a {engine} server: correct -f or --url")
    return next(iter(chosen.values()))


def _member(resource: Resource[DatabaseSchemaSpec]) -> Member:
    metadata = resource.metadata
    uid = metadata.uid or f"cli:{metadata.namespace}/{metadata.name}"
    return Member(
        uid, metadata.namespace, metadata.name, metadata.generation, metadata.creation_timestamp, resource.spec
    )


# --- the server ---

_PARAMETERS = {
    POSTGRES: ("sslmode", "sslrootcert", "sslcert", "sslkey"),
    # The last three are in every copied URL; the engine always writes to a majority.
    MONGODB: (
        *("tls", "ssl", "tlsCAFile", "tlsCertificateKeyFile", "tlsAllowInvalidCertificates"),
        *("tlsAllowInvalidHostnames", "authSource", "replicaSet", "retryWrites", "w", "appName"),
    ),
}
_SSLMODES = {"disable": "Disable", "require": "Require", "verify-ca": "VerifyCA", "verify-full": "VerifyFull"}
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


def target_of(url: str, password: str, environ: Mapping[str, str]) -> tuple[str, ServerTarget]:
    """The engine and the server that a URL names; TLS is verified unless the URL says otherwise.

    The password is ``password``, else the URL's, else the environment's. Raises InvalidError, never with the URL,
    which may hold a password in a place where none belongs.
    """
    scheme, _, rest = url.partition("://")
    engine = _SCHEMES.get(scheme, "")
    if not engine or not rest:
        raise _invalid("--url is no database URL: write postgresql://USER@HOST:PORT/ or mongodb://USER@HOST:PORT/")
    try:
        parts = urlsplit(url)
        query = {key.lower(): value for key, value in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:
        raise _invalid("--url cannot be read: write special characters of its parts as %XX") from None
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, secret = (unquote(part) for part in userinfo.partition(":"))
    matches = [_HOST.fullmatch(host) for host in hosts.split(",")]
    if parts.fragment or not all(match and int(match[2] or 1) in range(1, 65536) for match in matches):
        raise _invalid("--url has no usable host and port: write HOST:PORT, and special characters as %XX")
    if engine == POSTGRES and not user:
        raise _invalid("--url names no user: write postgresql://USER@HOST:PORT/")
    known = {name.lower() for name in _PARAMETERS[engine]}
    if set(query) - known:
        unknown = ", ".join(sorted(set(query) - known))
        raise _invalid(f"--url has parameters that are not known here, {unknown}: use {', '.join(_PARAMETERS[engine])}")
    names = ("SELVEDGE_PASSWORD", "PGPASSWORD") if engine == POSTGRES else ("SELVEDGE_PASSWORD",)
    database = unquote(parts.path.lstrip("/"))
    return engine, ServerTarget(
        hosts=tuple((unquote(m[1]).strip("[]"), int(m[2] or _PORTS[engine])) for m in matches if m),
        username=user,
        password=password or secret or next((environ[name] for name in names if environ.get(name)), ""),
        tls=_tls(engine, query),
        maintenance_database=(database if engine == POSTGRES else "") or "postgres",
        auth_source=query.get("authsource") or (database if engine == MONGODB else "") or "admin",
        replica_set=query.get("replicaset", ""),
        srv=scheme == "mongodb+srv",
    )


def _tls(engine: str, query: Mapping[str, str]) -> TlsOptions:
    if engine == POSTGRES:
        mode = query.get("sslmode", "verify-full")
        if mode not in _SSLMODES:
            raise _invalid("sslmode in --url protects nothing or is unknown: write " + ", ".join(_SSLMODES))
        ca = query.get("sslrootcert", "")
        # As in libpq: a CA that is given is used, and "system" is what verify-full uses without one.
        mode = "verify-ca" if mode == "require" and ca not in ("", "system") else mode
        certificate, key = _pem(query, "sslcert"), _pem(query, "sslkey")
        return TlsOptions(_SSLMODES[mode], "" if ca == "system" else _pem(query, "sslrootcert"), certificate, key)
    if not _true(query, "tls", _true(query, "ssl", default=True)):
        return TlsOptions("Disable")
    mode = "VerifyCA" if _true(query, "tlsallowinvalidhostnames", default=False) else "VerifyFull"
    mode = "Require" if _true(query, "tlsallowinvalidcertificates", default=False) else mode
    pair = _pem(query, "tlscertificatekeyfile")
    key = "".join(match[0] for match in _PRIVATE_KEY.finditer(pair))
    return TlsOptions(mode, _pem(query, "tlscafile"), _PRIVATE_KEY.sub("", pair), key)


def _true(query: Mapping[str, str], name: str, default: bool) -> bool:
    word = query.get(name, str(default)).lower()
    if word not in ("true", "false"):
        raise _invalid(f"{name} in --url is neither true nor false")
    return word == "true"


def _pem(query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        return ""
    try:
        return Path(query[name]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise _invalid(f"{name} in --url, {query[name]}, cannot be read: {why}") from None


def _invalid(message: str) -> InvalidError:
    return InvalidError(Reason.INVALID_SPEC, message)
