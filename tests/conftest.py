"""Real servers for the tests, one sandbox for all of pytest-xdist's workers.

Nothing starts before a test asks for it. The supervisor of the sandbox belongs to pytest's controlling process and
ends with it, however that ends. ``SELVEDGE_KUBECONFIG``, ``SELVEDGE_POSTGRES_URL`` and ``SELVEDGE_MONGODB_URL`` name
servers to use instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sandbox import MongoEndpoint, PostgresEndpoint, Sandbox, run_kubectl
from sandbox.cache import file_lock
from sandbox.control import is_running
from sandbox.postgres import PostgresServer
from sandbox.sandbox import stop

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

_DIRECTORY = "TEST_SANDBOX_DIRECTORY"
_OWNER = "TEST_SANDBOX_OWNER"
_VERSIONS = ("15", "18")
_ALL_VERSIONS = ("15", "16", "17", "18")
_OWN = "own/"
#: Files with a test of more than half a minute: they begin first, in random order as all others.
_LONGEST = frozenset(
    {"test_attack_identifiers.py", "test_demo.py", "test_faults_kill.py", "test_generated.py", "test_many_processes.py"}
)
#: Of a property that hypothesis tries, where the test says nothing else.
_EXAMPLES, _LONG_EXAMPLES = 50, 500


class Kubectl(Protocol):
    """``kubectl("get", "ns", input=…, check=…, timeout=…)`` as the administrator."""

    def __call__(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess.run's own name for it
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, and all four Postgres versions")


def pytest_configure(config: pytest.Config) -> None:
    # The same examples each time where nobody is there to look at a new one; new ones at every run elsewhere.
    ci = bool(os.environ.get("CI"))
    examples = _LONG_EXAMPLES if config.getoption("--long") else _EXAMPLES
    settings.register_profile("ours", max_examples=examples, deadline=None, derandomize=ci, print_blob=ci)
    settings.load_profile("ours")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's job in the background ignores it, and so would every process that a test interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        directory = tempfile.mkdtemp(prefix="selvedge-tests-")
        Path(directory).chmod(0o711)
        os.environ[_DIRECTORY] = directory
        os.environ[_OWNER] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        directory = Path(os.environ[_DIRECTORY])
        stop(directory)
        shutil.rmtree(directory, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name in ("engines", "cluster"):
            if name in item.path.relative_to(config.rootpath).parts:
                item.add_marker(name)
    if not config.getoption("--long"):
        short = [item for item in items if item.get_closest_marker("long") is None]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long") is not None])
        items[:] = short
    # otherwise the one that comes last keeps a single process busy
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" in metafunc.fixturenames:
        short = _VERSIONS[-1:] if metafunc.definition.get_closest_marker("newest") else _VERSIONS
        versions = _ALL_VERSIONS if metafunc.config.getoption("--long") else short
        ids = [f"pg{version}" for version in versions]
        if metafunc.definition.get_closest_marker("own_postgres"):
            versions = tuple(f"{_OWN}{version}" for version in versions)
        elif os.environ.get("SELVEDGE_POSTGRES_URL"):
            versions, ids = ("external",), ["pgexternal"]
        metafunc.parametrize("postgres", versions, indirect=True, scope="session", ids=ids)


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """The sandbox of this test run; its servers start when they are first looked at."""
    directory = Path(os.environ[_DIRECTORY])
    with file_lock(directory / "start.lock"):
        if not is_running(directory):
            owner = int(os.environ[_OWNER])
            Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=directory, owner=owner, remove=True)
    return Sandbox.attach(directory)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> PostgresEndpoint:
    """A Postgres server with the administrator's login; once for each version.

    All processes of pytest share it, and with it all that belongs to a whole server: its lock, the claims in the
    maintenance database, roles, sessions, the write-ahead log. A test that says something of these is marked
    ``own_postgres`` and gets one that only its own process uses, where one test runs after the other.
    """
    return _postgres(request, request.param)


@pytest.fixture(scope="session")
def own_servers() -> Iterator[Callable[[str], PostgresEndpoint]]:
    """The Postgres server of a version that only this process of pytest uses; started when it is first asked for."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    with ExitStack() as stack:

        @cache
        def server(version: str) -> PostgresEndpoint:
            directory = Path(os.environ[_DIRECTORY]) / "own" / f"{worker}-{version}"
            return stack.enter_context(PostgresServer.launch(version, directory=directory))

        yield server


@pytest.fixture(scope="session")
def postgres18(request: pytest.FixtureRequest) -> PostgresEndpoint:
    """The newest Postgres, for what does not depend on the version."""
    return _postgres(request, "external" if os.environ.get("SELVEDGE_POSTGRES_URL") else "18")


@pytest.fixture(scope="session")
def own_postgres18(own_servers: Callable[[str], PostgresEndpoint]) -> PostgresEndpoint:
    """The newest Postgres, for no other process's tests."""
    return own_servers("18")


@pytest.fixture
def database(postgres: PostgresEndpoint) -> Iterator[str]:
    """The name of a fresh, empty database on ``postgres``; dropped after the test."""
    name = _unique("db")
    with postgres.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield name
    _drop(postgres, name)


@pytest.fixture
def database_name(postgres: PostgresEndpoint) -> Iterator[str]:
    """A name that no database has yet; after the test the database and all roles whose names start with it go."""
    name = _unique("db")
    yield name
    _drop(postgres, name)


@pytest.fixture(scope="session")
def mongodb(request: pytest.FixtureRequest) -> MongoEndpoint:
    """A MongoDB replica set with the administrator's login."""
    url = os.environ.get("SELVEDGE_MONGODB_URL")
    if url:
        return _external_mongodb(url)
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    return sandbox.mongodb


@pytest.fixture
def mongo_database(mongodb: MongoEndpoint) -> Iterator[str]:
    """The name of a database on ``mongodb`` that is empty; dropped after the test with its users and roles."""
    name = _unique("db")
    yield name
    with mongodb.client() as client:
        client[name].command("dropAllUsersFromDatabase")
        client[name].command("dropAllRolesFromDatabase")
        client.drop_database(name)
        # the operator keeps these in a database of its own, which the tests share
        client["selvedge"]["claims"].delete_many({"_id.database": name})
        client["selvedge"]["lock"].delete_many({"_id": name})


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    """The administrator's kubeconfig."""
    path = os.environ.get("SELVEDGE_KUBECONFIG")
    if path:
        return Path(path)
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    return sandbox.kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """Run kubectl as the administrator."""

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_kubectl(kubeconfig, *arguments, **options)

    return call


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A fresh namespace; its deletion is not waited for."""
    name = _unique("test").replace("_", "-")
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def _unique(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def _postgres(request: pytest.FixtureRequest, version: str) -> PostgresEndpoint:
    if version.startswith(_OWN):
        own: Callable[[str], PostgresEndpoint] = request.getfixturevalue("own_servers")
        return own(version.removeprefix(_OWN))
    if version == "external":
        return _external_postgres(os.environ["SELVEDGE_POSTGRES_URL"])
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    return sandbox.postgres[version]


def _drop(postgres: PostgresEndpoint, name: str) -> None:
    with postgres.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        rows = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [name]).fetchall()
        for (role,) in rows:
            # Roles own nothing in other databases unless a test says so; what they were granted there goes first.
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        for (role,) in rows:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _external_postgres(url: str) -> PostgresEndpoint:
    with psycopg.connect(url) as connection:
        version = str(connection.info.server_version // 10000)
    known = conninfo_to_dict(make_conninfo(url))
    ca = known.get("sslrootcert")
    return PostgresEndpoint(
        version,
        int(known.get("port") or 5432),
        str(known.get("password") or ""),
        Path(str(ca)) if ca else None,
        host=str(known.get("host") or "localhost"),
        username=str(known.get("user") or "postgres"),
        sslmode=str(known.get("sslmode") or "prefer"),
    )


def _external_mongodb(url: str) -> MongoEndpoint:
    from pymongo.uri_parser import parse_uri

    parsed = parse_uri(url)
    host, port = parsed["nodelist"][0]
    options = parsed["options"]
    ca = options.get("tlsCAFile")
    return MongoEndpoint(
        "",
        port,
        parsed["password"] or "",
        Path(ca) if ca else None,
        host=host,
        username=parsed["username"] or "",
        replica_set=options.get("replicaSet", ""),
        url=url,
    )
