"""The files of a migration source: ConfigMaps, some of them compressed, or text in the resource itself."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.files import decode
from selvedge.migrate.image_reader import LARGEST, file_name
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Object

_GZIP = ".gz"
_ARCHIVES = (".tar.gz", ".tgz")


async def read_files(context: Context, namespace: str, source: Mapping[str, Any]) -> dict[str, str]:
    """The migration files of a source, by name.

    A key of ``binaryData`` that ends in ``.gz`` is unpacked and loses that ending; the files of one that ends in
    ``.tar.gz`` are taken with their directories, which a key cannot name. Raises TransientError where a ConfigMap does
    not exist (yet), InvalidError where two hold a file of the same name, or one is no text.
    """
    inline = source.get("inline")
    if inline:
        return dict(inline.get("files") or {})
    files: dict[str, str] = {}
    rest = LARGEST
    for ref in source.get("configMaps") or ():
        found = await context.kube.configmap(namespace, str(ref["name"]))
        if found is None:
            message = f"configmap {namespace}/{ref['name']} with migrations does not exist: apply it"
            raise TransientError(Reason.WAITING_FOR_SOURCE, message)
        for name, text in (found.get("data") or {}).items():
            _add(files, name, str(text))
        rest -= await asyncio.to_thread(_add_packed, files, found.get("binaryData") or {}, rest)
    return files


def _add_packed(files: dict[str, str], data: Mapping[str, Any], limit: int) -> int:
    """Add the files of ``binaryData``; returns how many bytes they are. For a thread of its own: they may be many."""
    size = 0
    for name, encoded in data.items():
        content = unpack(name, str(encoded), limit - size)
        size += len(content)
        for file, inner in _files_of(name, content):
            _add(files, file, decode(inner, file))
    return size


def files_in_archive(encoded: str) -> dict[str, str]:
    """The files of a ``.tar.gz`` in base64, by name; raises InvalidError for what is broken, too large or no text."""
    content = unpack("files.tar.gz", encoded)
    return {file: decode(inner, file) for file, inner in _files_of("files.tar.gz", content)}


def _files_of(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The files in one key, unpacked: itself, or the SQL and JSON files of an archive."""
    if not name.endswith(_ARCHIVES):
        yield name.removesuffix(_GZIP), content
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = posixpath.normpath(member.name)
                found = archive.extractfile(member) if member.isreg() else None
                if found is not None and file_name(file):
                    yield file, found.read()
    except tarfile.TarError as error:
        raise InvalidError(
            Reason.INVALID_MIGRATION, f"{name}: the archive cannot be read ({error}): make it anew with tar -czf"
        ) from None


def unpack(name: str, encoded: str, limit: int = LARGEST) -> bytes:
    """The content of one key of ``binaryData``; raises InvalidError for what is broken, or larger than ``limit``."""
    try:
        content = base64.b64decode(encoded, validate=True)
        if not name.endswith((_GZIP, *_ARCHIVES)):
            return content
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        text = unpacker.decompress(content, limit + 1)
    except (binascii.Error, zlib.error) as error:
        raise InvalidError(
            Reason.INVALID_MIGRATION, f"{name}: binaryData cannot be unpacked ({error}): compress it with gzip again"
        ) from None
    if len(text) > limit or unpacker.unconsumed_tail:
        raise InvalidError(
            Reason.INVALID_MIGRATION,
            f"{name}: the source has more than {LARGEST // 2**20} MiB when it is unpacked: load such data otherwise",
        )
    if not unpacker.eof:
        raise InvalidError(Reason.INVALID_MIGRATION, f"{name}: the gzip file ends too early: compress it again")
    return text


def _add(files: dict[str, str], name: str, text: str) -> None:
    if name in files:
        raise InvalidError(
            Reason.INVALID_MIGRATION, f"file {name} stands twice in the configmaps of the source: remove one"
        )
    files[name] = text


def digest_of(files: Mapping[str, str], extra: object = None) -> str:
    """sha256 over names and contents, in hexadecimal."""
    text = json.dumps([sorted(files.items()), extra], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def source_of(obj: Object) -> Mapping[str, Any]:
    """``spec.migrations.source`` of a raw DatabaseSchema."""
    return ((obj.get("spec") or {}).get("migrations") or {}).get("source") or {}
