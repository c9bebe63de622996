"""Build the archives of the kubectl plugin for krew, and the manifest with their checksums.

    python deploy/krew/build.py --base-url https://example.com/releases/v1 [--homepage https://example.com/selvedge]
        [--platform linux_amd64] [--python 3.11]

Each archive holds the launcher, the licence, and lib/ with the package and the locked libraries that the plugin needs:
pure ones once, compiled ones for each version of Python, side by side (their files carry the version in their name).
Libraries are downloaded by pip with the hashes of requirements/runtime.txt; the archive of the same inputs is the same.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import requires, version
from pathlib import Path
from string import Template

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLATFORMS = {
    "linux_amd64": ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"),
    "linux_arm64": ("manylinux_2_17_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64"),
    "darwin_amd64": ("macosx_10_13_x86_64", "macosx_10_12_x86_64", "macosx_11_0_x86_64", "macosx_10_9_x86_64"),
    "darwin_arm64": ("macosx_11_0_arm64",),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: What the plugin imports; what these need comes with them. Drivers of databases are not among them.
ROOTS = ("aiohttp", "click", "kubernetes", "prometheus-client", "pydantic", "pyyaml", "structlog")


def libraries() -> list[str]:
    """The names of all libraries that the plugin needs, by what is installed here."""
    found: set[str] = set()
    wanted = [canonicalize_name(name) for name in ROOTS]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(canonicalize_name(requirement.name))
    return sorted(found)


def locked(names: list[str]) -> str:
    """Their lines of the lock, hashes included. Raises SystemExit where one is not locked."""
    text = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    blocks = {}
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", text, re.MULTILINE):
        blocks[canonicalize_name(re.split(r"[=<>!~ \[;]", block, maxsplit=1)[0])] = block
    missing = [name for name in names if name not in blocks]
    if missing:
        raise SystemExit(f"not in requirements/runtime.txt: {', '.join(missing)}; run `make lock`")
    return "\n".join(blocks[name] for name in names) + "\n"


def library(platform: str, pythons: tuple[str, ...]) -> dict[str, bytes]:
    """The files of lib/ by their path: the package's own, and those of every wheel."""
    files = {
        f"lib/{path.relative_to(ROOT / 'operator')}": path.read_bytes()
        for path in sorted((ROOT / "operator" / "selvedge").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory) / "lock.txt"
        lock.write_text(locked(libraries()), encoding="utf-8")
        for python in pythons:
            _download(lock, Path(directory) / "wheels", platform, python)
        for wheel in sorted((Path(directory) / "wheels").glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if not name.endswith("/") and ".data/" not in name:
                        files[f"lib/{name}"] = archive.read(name)
    own = f"lib/selvedge-{version('selvedge')}.dist-info/METADATA"
    files[own] = f"Metadata-Version: 2.1\nName: selvedge\nVersion: {version('selvedge')}\n".encode()
    return files


def _download(lock: Path, wheels: Path, platform: str, python: str) -> None:
    flags = [flag for tag in PLATFORMS[platform] for flag in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--python-version", python, "--implementation", "cp"]
    subprocess.run([*command, *flags, "-r", str(lock), "-d", str(wheels)], check=True)  # noqa: S603 - our own words


def archive(platform: str, pythons: tuple[str, ...]) -> bytes:
    """The archive of one platform."""
    files = library(platform, pythons)
    files["kubectl-selvedge"] = (HERE / "kubectl-selvedge").read_bytes()
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    return pack(files)


def pack(files: dict[str, bytes]) -> bytes:
    """An archive of these files, the same for the same files: sorted, without times and owners."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if name == "kubectl-selvedge" else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def manifest(base_url: str, sums: dict[str, str], homepage: str = "") -> str:
    """The manifest of a release; what there is not is left out: platforms that were not built, a homepage."""
    values = {"VERSION": f"v{version('selvedge')}", "BASE_URL": base_url.rstrip("/"), "HOMEPAGE": homepage}
    text = (HERE / ".krew.yaml").read_text(encoding="utf-8")
    if not homepage:
        text = re.sub(r"(?m)^  homepage: .*\n", "", text)
    head, *platforms = re.split(r"(?m)^(?=  - selector:)", text)
    built = [part for part in platforms if any(f"_{name}.tar.gz" in part for name in sums)]
    checksums = {f"SHA256_{name.upper()}": sum_ for name, sum_ in sums.items()}
    body = "".join(line for line in head.splitlines(keepends=True) if not line.startswith("#"))
    return Template(body + "".join(built)).substitute(values, **checksums)


def main() -> None:
    """Build what was asked for into dist/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="where the archives will be downloaded from")
    parser.add_argument("--homepage", default="", help="the project's page, which krew shows; it asks for none")
    parser.add_argument("--platform", action="append", choices=sorted(PLATFORMS), help="default: all")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sums = {}
    for platform in options.platform or sorted(PLATFORMS):
        data = archive(platform, tuple(options.python or PYTHONS))
        path = options.output / f"kubectl-selvedge_v{version('selvedge')}_{platform}.tar.gz"
        path.write_bytes(data)
        sums[platform] = hashlib.sha256(data).hexdigest()
        print(f"{path} {len(data) / 1e6:.1f} MB sha256 {sums[platform]}")
    path = options.output / "selvedge.yaml"
    path.write_text(manifest(options.base_url, sums, options.homepage), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
