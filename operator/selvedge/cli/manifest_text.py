"""Manifests as a person would have written them: what is short on one line, text as text, nothing by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from textwrap import wrap
from typing import Any

import yaml

from selvedge.cli.output import clean

_WIDTH = 120
#: Words of one of the dialects of YAML that are no text: quoted, whatever this one says.
_NO_TEXT = re.compile(
    r"y|n|yes|no|on|off|true|false|null|none|~|[-+.]?(nan|inf)|<<|="
    r"|[-+.]?[0-9][-+0-9_.:,]*(e[-+0-9]*)?|[-+]?0[xob]?[0-9a-f_]+",
    re.IGNORECASE,
)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text and _is_block(text):
        style = "|"
    elif not text.isprintable() or _NO_TEXT.fullmatch(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _is_block(text: str) -> bool:
    """Whether every dialect reads the text back from a block as it was."""
    lines = text.split("\n")
    plain = all(line.isprintable() and line == line.rstrip() for line in lines)
    return plain and bool(lines[0]) and not lines[0].startswith(" ") and not text.endswith("\n\n")


def to_text(documents: Iterable[tuple[Mapping[str, Any], Iterable[str]]]) -> str:
    """The documents, each below its comments."""
    return "".join(f"---\n{_comments(notes)}{_document(document)}" for document, notes in documents).removeprefix(
        "---\n"
    )


def _comments(notes: Iterable[str]) -> str:
    # A line break in a name would end the comment.
    lines = (wrap(clean(note), _WIDTH - 2, subsequent_indent="  ", break_long_words=False) for note in notes)
    return "".join(f"# {line}\n" for found in lines for line in found)


def _document(document: Mapping[str, Any]) -> str:
    node = _Dumper(StringIO(), sort_keys=False).represent_data(document)
    _style(node, 0, inside=False)
    return yaml.serialize(node, Dumper=_Dumper, width=_WIDTH, allow_unicode=True)


def _style(node: yaml.Node, indent: int, *, inside: bool) -> None:
    """What fits on one line goes on one, but for the outer levels, which everybody expects as blocks."""
    if not isinstance(node, yaml.CollectionNode):
        return
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, item) for item in node.value]
    flat = inside or (
        not isinstance(node, yaml.MappingNode) and all(isinstance(x, yaml.ScalarNode) for x in node.value)
    )
    node.flow_style = not node.value or (flat and indent + len(_flow(node)) <= _WIDTH and not _blocks(node))
    if node.flow_style:
        return
    for key, item in pairs:
        entry = key is None
        width = indent + (2 if entry else len(str(getattr(key, "value", ""))) + 2)
        outer = str(getattr(key, "value", "")) in ("metadata", "spec", "postgres", "mongodb")
        _style(item, width, inside=entry or (inside and not outer) or (not outer and not _listy(item)))


def _listy(node: yaml.Node) -> bool:
    """A list of mappings: one entry on each line."""
    return isinstance(node, yaml.SequenceNode) and any(isinstance(x, yaml.MappingNode) for x in node.value)


def _flow(node: yaml.Node) -> str:
    """About how long it is on one line."""
    return json.dumps(_plain(node), ensure_ascii=False).replace('"', "")


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(item) for key, item in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return node.value


def _blocks(node: yaml.Node) -> bool:
    """Whether a text in it needs a block of its own."""
    if isinstance(node, yaml.MappingNode):
        return any(_blocks(item) for _, item in node.value)
    if isinstance(node, yaml.SequenceNode):
        return any(_blocks(item) for item in node.value)
    return getattr(node, "style", None) == "|"
