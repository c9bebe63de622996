"""What all custom resources have in common: the model's configuration, the bounded types, rules and decoding.

A declaration is frozen once it is decoded. Attributes are snake_case, documents are camelCase. The description of a
field is the docstring below it; :mod:`selvedge.api.docs` reads it when CRDs and reference are generated, so that it
costs nothing when the operator starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from selvedge.core import duration
from selvedge.core.errors import InvalidError
from selvedge.core.names import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "selvedge.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
LIST_MAP = "x-kubernetes-list-map-keys"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule about an object, for the API server (``cel``) and for documents that never see one (``holds``).

    A rule without ``holds`` compares with the object before (``oldSelf``), which only the API server knows.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    path: str = ""


class Model(BaseModel):
    """The base of every part of a declaration and of a status."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True, extra="ignore"
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """What the API server checks on this object by CEL, and :func:`parse` by itself."""


class Checked(Model):
    """A part with rules or named lists: decoding refuses what the API server would have refused."""

    named_lists: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """Attribute, field and key of each list whose entries have a key."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Remember the named lists once, and not with each object."""
        super().__pydantic_init_subclass__(**kwargs)
        found = []
        for attribute, info in cls.model_fields.items():
            keys = info.json_schema_extra.get(LIST_MAP) if isinstance(info.json_schema_extra, dict) else None
            if isinstance(keys, list):
                found.append((attribute, info.alias or attribute, str(keys[0])))
        cls.named_lists = tuple(found)

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for attribute, field, key in self.named_lists:
            keys = [getattr(entry, key) for entry in getattr(self, attribute)]
            if len(keys) > 1 and len(set(keys)) < len(keys):
                twice = next(name for name in keys if keys.count(name) > 1)
                raise ValueError(f"{field} has two entries with {key} {twice}: remove one, or name it otherwise")
        for rule in self.RULES:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self


_NO_DURATION = "not a duration: write a number and ms, s, m, h or d, such as 30s or 5m"


def _seconds(value: object) -> object:
    if isinstance(value, float):
        return value
    try:
        return duration.parse_duration(value if isinstance(value, str) else "")
    except InvalidError:
        raise ValueError(_NO_DURATION) from None


def _fits(value: str) -> str:
    # maxLength counts characters, Postgres bytes; most names are ASCII and need no second look
    if not value.isascii() and len(value.encode()) > MAX_BYTES:
        raise ValueError(f"{value[:20]}… is {len(value.encode())} bytes long and {MAX_BYTES} are kept: shorten it")
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    PlainSerializer(duration.format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": duration.DURATION_PATTERN,
            "maxLength": duration.DURATION_MAX_LENGTH,
            "x-selvedge-duration": True,
        },
        mode="validation",
    ),
]
"""A duration: text such as ``30s`` in the document, seconds as a float here."""

Bool = StrictBool
Int = StrictInt

Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_BYTES, pattern=r'^[^\x00-\x1f\x7f"]+$'),
    AfterValidator(_fits),
]
"""A name in a database: at most 63 bytes, no quote, no control character."""

SchemaName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_BYTES, pattern=r'^[^\x00-\x1f\x7f".]+$'),
    AfterValidator(_fits),
]
"""A schema: as an identifier, but without a dot, or ``schema.table`` could mean two things."""

TableName = Annotated[
    str, StringConstraints(min_length=3, max_length=127, pattern=r'^[^\x00-\x1f\x7f".]+\.[^\x00-\x1f\x7f".]+$')
]
"""A table, view, sequence or type with its schema: ``shared.users``."""

FunctionName = Annotated[
    str,
    StringConstraints(min_length=5, max_length=512, pattern=r'^[^\x00-\x1f\x7f".()]+\.[^\x00-\x1f\x7f".()]+\(.*\)$'),
]
"""A function with its schema and the types of its arguments: ``shared.soft_delete(text, uuid, uuid)``."""

ResourceName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""The name of a Kubernetes object."""

Namespace = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
SecretKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Word = Annotated[str, StringConstraints(max_length=64)]
Text = Annotated[str, StringConstraints(max_length=1024)]
Message = Annotated[str, StringConstraints(max_length=4096)]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^(sha256:[0-9a-f]{64})?$")]
Time = Annotated[
    str, StringConstraints(max_length=40), WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40})
]


def listed(max_items: int, key: str = "", *, min_items: int = 0, default: Any = ()) -> Any:
    """A list field of at most ``max_items`` entries: merged by ``key`` if it has one, else replaced as a whole."""
    extra: dict[str, Any] = {"x-kubernetes-list-type": "map" if key else "atomic"}
    if key:
        extra[LIST_MAP] = [key]
    return Field(default=default, max_length=max_items, min_length=min_items or None, json_schema_extra=extra)


class SecretRef(Model):
    """A Secret in the resource's own namespace."""

    name: ResourceName
    """Name of the Secret."""


class Ensure(StrEnum):
    """Whether an object is to be there."""

    PRESENT = "Present"
    ABSENT = "Absent"


class Destructive(StrEnum):
    """What happens with a change that would lose data."""

    REQUIRE_APPROVAL = "RequireApproval"
    REFUSE = "Refuse"
    ALLOW = "Allow"


class DeletionPolicy(StrEnum):
    """What becomes of the database when the resource is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Condition(Model):
    """One condition of a status (Kubernetes API conventions)."""

    type: Word = Field(min_length=1)
    """Ready, Reconciling, Stalled, or one of the kind's own."""
    status: Word = "Unknown"
    """True, False or Unknown."""
    reason: Word = ""
    """One CamelCase word; all of them stand in docs/reference/reasons.md."""
    message: Message = ""
    """What is the case, which object it concerns, and the next step."""
    observed_generation: int | None = None
    """The metadata.generation that this was seen for."""
    last_transition_time: Time | None = None
    """When status last changed."""


class Status(Model):
    """What every kind reports. No field is required, so that a status that holds only an error can be written."""

    observed_generation: int | None = None
    """The metadata.generation that this status speaks of."""
    conditions: tuple[Condition, ...] = listed(16, "type")
    """Ready, Reconciling, Stalled and the kind's own."""
    next_retry_time: Time | None = None
    """When a failed pass is tried again; absent while nothing failed."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``."""

    title: str
    path: str
    description: str
    type: str = "string"


_READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether everything is as declared")
_REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is so")
_AGE = Column("Age", ".metadata.creationTimestamp", "Time since it was created", "date")


@dataclass(frozen=True, slots=True)
class Kind:
    """The names of a custom resource, its parts, and its columns in ``kubectl get``.

    Ready, Reason and Age are every kind's: ``first`` are the columns before them, ``more`` those between Reason and
    Age.
    """

    kind: str
    short: str
    spec: type[Model]
    status: type[Status]
    description: str
    first: tuple[Column, ...]
    more: tuple[Column, ...] = ()

    @property
    def plural(self) -> str:
        """The name in URLs and of the CRD."""
        return self.kind.lower() + "s"

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them, in order."""
        return (*self.first, _READY, _REASON, *self.more, _AGE)


def document(model: Model) -> dict[str, Any]:
    """The model as the document that a user would write: camelCase, durations as text, without what is default."""
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
