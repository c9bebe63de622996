"""``DatabaseSchema.spec.migrations.conventions``: the names that migrations are advised to give."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from selvedge.api.base import Bool, Model, listed

Template = Annotated[str, StringConstraints(max_length=128, pattern=r"^([^{}]|\{(table|columns|column|foreign)\})*$")]
"""A name with ``{table}``, ``{columns}``, ``{column}`` and ``{foreign}`` in it; an empty one asks for nothing."""

ColumnTemplate = Annotated[str, StringConstraints(max_length=128, pattern=r"^([^{}]|\{table\})*$")]
NamePart = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class NamingConventions(Model):
    """Names that migrations are advised to give (Postgres); what departs from them stands in a run's advice."""

    plural_tables: Bool = True
    """Tables are named in the plural."""
    plural_exceptions: tuple[NamePart, ...] = listed(
        100, default=("activity", "children", "data", "history", "media", "metadata", "people")
    )
    """Last words of tables' names that are plural without an s: activity, children, data, history, media, metadata and
    people where it is left out."""
    snake_case: Bool = True
    """Tables and columns are in small letters, digits and underscores."""
    boolean_prefixes: tuple[NamePart, ...] = listed(20, default=("is_", "has_", "can_"))
    """What names of boolean columns begin with: is_, has_ and can_ where it is left out; anything where it is empty."""
    foreign_key_column: ColumnTemplate = "{table}_id"
    """A column that refers to a table, which may stand in the singular; empty for any."""
    foreign_key_suffixes: tuple[NamePart, ...] = listed(20, default=("_by", "parent_id"))
    """Ends of other names for such columns: _by and parent_id where it is left out."""
    index: Template = "idx_{table}_{columns}"
    """An index. An empty text asks for nothing, here and in those below."""
    unique_index: Template = "uidx_{table}_{columns}"
    """A unique index."""
    primary_key: Template = "pk_{table}"
    """A primary key."""
    foreign_key: Template = "fk_{table}_{foreign}_{column}"
    """A foreign key."""
    check: Template = "chk_{table}_{column}"
    """A check."""
    unique: Template = "unq_{table}_{columns}"
    """A unique constraint."""
