"""A real API server with our CRDs, real databases, and for each test an operator process of its own.

One operator for all tests would be one that watches everything, and xdist's workers would each bring one: so each
watches one namespace and has a Lease of its own, which lets tests kill, stop and count without touching others.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from sandbox import MongoEndpoint, PostgresEndpoint
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.spares import Spare, Spares
from tests.cluster.world import World, wait_for
from tests.conftest import Kubectl

_ROOT = Path(__file__).parents[2]
_CRDS = tuple(
    f"{name}.selvedge.dev" for name in ("databaseservers", "databaseschemas", "databaseusers", "migrationruns")
)


@pytest.fixture(scope="session")
def served(kubectl: Kubectl) -> None:
    """The CRDs, established and served.

    Another worker may create them at the same moment, and a 1.36 API server answers 429 for a moment afterwards.
    """

    def until_it_works(*arguments: str) -> None:
        said: list[str] = []

        def works() -> bool:
            answer = kubectl(*arguments, check=False)
            said[:] = [answer.stderr]
            return answer.returncode == 0

        wait_for(works, 60, what=lambda: said)

    until_it_works("apply", "--server-side", "-f", str(_ROOT / "crds"))
    until_it_works("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in _CRDS))
    until_it_works("get", ",".join(_CRDS), "-A")


@pytest.fixture
def endpoint(request: pytest.FixtureRequest) -> PostgresEndpoint:
    """The Postgres server: of each version where the test asks for ``postgres``, else the newest."""
    name = "postgres" if "postgres" in request.fixturenames else "postgres18"
    found: PostgresEndpoint = request.getfixturevalue(name)
    return found


@pytest.fixture
def api(kubeconfig: Path, namespace: str, served: None) -> Iterator[KubeApi]:
    """The API server, in the test's namespace."""
    api = KubeApi(kubeconfig, namespace)
    yield api
    api.close()


@pytest.fixture
def apply(kubectl: Kubectl, namespace: str, served: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Send documents through ``kubectl apply`` to the test's namespace; returns what kubectl answered."""

    def call(*documents: Document) -> subprocess.CompletedProcess[str]:
        return kubectl("-n", namespace, "apply", "-f", "-", input=yaml.safe_dump_all(documents), check=False)

    return call


@pytest.fixture(scope="session")
def spares(kubeconfig: Path, served: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spares]:
    """Operators that are started ahead, one at a time."""
    spares = Spares(kubeconfig, tmp_path_factory.mktemp("spares"))
    yield spares
    spares.close()


@pytest.fixture
def operator_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of the test's operator beside the usual ones; ``parametrize`` it indirectly, or override it."""
    return getattr(request, "param", {})


@pytest.fixture
def namespace(request: pytest.FixtureRequest, kubeconfig: Path, operator_env: dict[str, str]) -> Iterator[str]:
    """A fresh namespace; its deletion is not waited for."""
    if "operator" in request.fixturenames and not operator_env:
        name = request.getfixturevalue("spare").namespace
        yield name
    else:
        name = f"test-{uuid.uuid4().hex[:12]}"
        with closing(KubeApi(kubeconfig, name)) as api:
            api.create_namespace(name)
        yield name
    with closing(KubeApi(kubeconfig, name)) as api:
        api.delete_namespace(name)


@pytest.fixture
def spare(spares: Spares) -> Iterator[Spare]:
    """An operator with the usual settings, and its namespace."""
    spare = spares.take()
    yield spare
    spare.operator.kill()


@pytest.fixture
def operator(
    request: pytest.FixtureRequest,
    kubeconfig: Path,
    namespace: str,
    operator_env: dict[str, str],
    served: None,
    tmp_path: Path,
) -> Iterator[OperatorProcess]:
    """A running operator that watches only the test's namespace."""
    if not operator_env:
        yield request.getfixturevalue("spare").operator
        return
    operator = OperatorProcess(
        kubeconfig, tmp_path / "operator.log", namespaces=(namespace,), lease_namespace=namespace, env=operator_env
    )
    operator.start()
    yield operator
    operator.kill()


@pytest.fixture
def bare(
    api: KubeApi, operator: OperatorProcess, namespace: str, endpoint: PostgresEndpoint, kubeconfig: Path
) -> Iterator[World]:
    """Everything but a DatabaseServer."""
    world = World(api, operator, namespace, f"t{uuid.uuid4().hex[:10]}", endpoint, kubeconfig)
    yield world
    operator.kill()  # or it would put back what is cleaned up
    world.clean()


@pytest.fixture
def unwatched(api: KubeApi, namespace: str, endpoint: PostgresEndpoint, kubeconfig: Path, tmp_path: Path) -> World:
    """A namespace with no operator at all, for what the API server refuses by itself."""
    nobody = OperatorProcess(kubeconfig, tmp_path / "operator.log", namespaces=(namespace,))
    return World(api, nobody, namespace, f"t{uuid.uuid4().hex[:10]}", endpoint, kubeconfig)


@pytest.fixture
def world(bare: World) -> World:
    """Everything, with the DatabaseServer ``main`` for Postgres."""
    bare.server()
    return bare


@pytest.fixture
def mongo(bare: World, mongodb: MongoEndpoint) -> Iterator[World]:
    """Everything, with the DatabaseServer ``mongo`` for MongoDB; the database is the test's name."""
    bare.mongo_server(mongodb)
    yield bare
    bare.operator.kill()
    with mongodb.client() as client:
        client.drop_database(bare.name)
        client["selvedge"]["claims"].delete_many({"_id.database": bare.name})
