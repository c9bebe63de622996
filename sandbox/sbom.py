"""``python -m sandbox.sbom [--check]``: requirements/sbom.cdx.json, what the image's Python libraries are.

A CycloneDX document made from the lock alone, so that the same lock gives the same bytes: no time, no random number.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
LOCK = _ROOT / "requirements" / "runtime.txt"
SBOM = _ROOT / "requirements" / "sbom.cdx.json"
_PROJECT = _ROOT / "pyproject.toml"

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\s*\\?")
# uv names what asked for a package: on the line itself, or one name a line below it
_VIA = re.compile(r"# +(?:via +)?(\S+)(?: \((.*)\))?")


@dataclass(slots=True)
class Pin:
    """One package of the lock."""

    name: str
    version: str
    marker: str = ""
    hashes: list[str] = field(default_factory=list)
    via: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        """The package's URL, by which scanners look up its weaknesses."""
        return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{self.version}"


def pins(lock: str) -> list[Pin]:
    """The packages of a lock written by ``uv pip compile --generate-hashes``.

    Raises:
        ValueError: a line is none that uv writes, or a package has no hash; the message names it.
    """
    found: list[Pin] = []
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        if not text or (text.startswith("#") and not line.startswith(" ")):
            continue
        if not line.startswith(" ") and (pin := _PIN.fullmatch(text)):
            found.append(Pin(pin[1], pin[2], pin[3] or ""))
        elif found and (hashed := _HASH.fullmatch(text)):
            found[-1].hashes.append(hashed[1])
        elif found and text == "# via":
            continue
        elif found and (via := _VIA.fullmatch(text)):
            found[-1].via.append(via[1])
        else:
            raise ValueError(f"{LOCK.name}, line {number}: {text!r} is neither a package, a hash nor what needs it")
    for package in found:
        if not package.hashes:
            raise ValueError(f"{LOCK.name}: {package.name} has no hash: make the lock with `make lock`")
    return found


def document(lock: str, project: str) -> str:
    """The document's text, from the texts of the lock and of pyproject.toml."""
    told = tomllib.loads(project)["project"]
    root = f"pkg:pypi/{told['name']}@{told['version']}"
    packages = pins(lock)
    refs = {package.name: package.purl for package in packages} | {told["name"]: root}
    # the same content has the same number
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{root}\n{lock}")
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": told["name"],
                "version": told["version"],
                "description": told["description"],
                "licenses": [{"license": {"id": told["license"]}}],
                "purl": root,
            }
        },
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(needed)}
            for ref, needed in sorted(_needs(packages, refs, f"{told['name']}").items())
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _component(package: Pin) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": "required",
        "purl": package.purl,
        # the files of the release that the lock allows: one for each platform and Python, and the source
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{package.name}/{package.version}/",
                "hashes": [{"alg": "SHA-256", "content": value} for value in package.hashes],
            }
        ],
    }
    if package.marker:
        component["properties"] = [{"name": "selvedge:marker", "value": package.marker}]
    return component


def _needs(packages: list[Pin], refs: dict[str, str], root: str) -> dict[str, set[str]]:
    needs: dict[str, set[str]] = {ref: set() for ref in refs.values()}
    for package in packages:
        for name in _parents(package, root):
            needs[refs[name]].add(package.purl)
    return needs


def _parents(package: Pin, root: str) -> Iterator[str]:
    for name in package.via:
        # uv writes `selvedge (pyproject.toml)` for what the project itself asks for
        yield root if name in {root, "pyproject.toml"} else name


def main() -> int:
    """Write the file, or with ``--check`` say that it is out of date."""
    text = document(LOCK.read_text(encoding="utf-8"), _PROJECT.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if not SBOM.exists() or SBOM.read_text(encoding="utf-8") != text:
            print(f"{SBOM} differs from {LOCK}: run `make sbom`", file=sys.stderr)
            return 2
        return 0
    SBOM.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
