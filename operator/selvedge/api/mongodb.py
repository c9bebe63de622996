"""``DatabaseSchema.spec.mongodb``: collections with validators and indexes, and roles, of one MongoDB database."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from selvedge.api.base import Bool, Checked, Ensure, Int, Model, Rule, Seconds, Word, listed

Document = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A document that the server reads and that is kept as it was written; the order of its keys is lost."""

FieldPath = Annotated[str, StringConstraints(min_length=1, max_length=255)]
CollectionName = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[^$\x00]+$")]
IndexName = Annotated[str, StringConstraints(min_length=1, max_length=127, pattern=r"^[^$*\x00]+$")]
Language = Annotated[str, StringConstraints(max_length=32)]


class ValidationLevel(StrEnum):
    """Which writes are checked."""

    STRICT = "Strict"
    MODERATE = "Moderate"
    DISABLED = "Disabled"


class ValidationAction(StrEnum):
    """What happens with a document that does not pass."""

    ERROR = "Error"
    WARN = "Warn"


class Rollout(StrEnum):
    """How a stricter validator comes into force."""

    DIRECT = "Direct"
    WARN_FIRST = "WarnFirst"


class IndexType(StrEnum):
    """What kind of index a key makes."""

    TEXT = "Text"
    HASHED = "Hashed"
    SPHERE_2D = "2dsphere"
    FLAT_2D = "2d"
    WILDCARD = "Wildcard"


class Granularity(StrEnum):
    """Time between two measurements of one source."""

    SECONDS = "Seconds"
    MINUTES = "Minutes"
    HOURS = "Hours"


class CaseFirst(StrEnum):
    """Which case sorts first."""

    UPPER = "Upper"
    LOWER = "Lower"


class Alternate(StrEnum):
    """Whether spaces and punctuation count in comparisons."""

    NON_IGNORABLE = "NonIgnorable"
    SHIFTED = "Shifted"


class MaxVariable(StrEnum):
    """Which characters do not count with alternate Shifted."""

    PUNCT = "Punct"
    SPACE = "Space"


class IndexKey(Checked):
    """One field of an index. The list of keys has an order, which a JSON object would lose."""

    field: FieldPath
    """The field; metadata.description for one in a sub-document. With type Wildcard the sub-document, or $** for
    all."""
    order: Literal[1, -1] | None = Field(default=None, json_schema_extra={"type": "integer"})
    """1 ascending (also where order and type are left out), -1 descending."""
    type: IndexType | None = None
    """A special index in place of an order."""

    RULES = (
        Rule(
            "!(has(self.order) && has(self.type))",
            "an index key has order or type, not both: remove one",
            lambda self: self.order is None or self.type is None,
        ),
    )


_LOWER = ("caseFirst", "alternate", "maxVariable")


class Collation(Model):
    """How strings are compared. What is left out is the server's default."""

    locale: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    """ICU locale, or simple."""
    strength: Annotated[Int, Field(ge=1, le=5)] | None = None
    """Level of comparison; 2 ignores case."""
    case_level: Bool | None = None
    """Compare case at strength 1 and 2."""
    case_first: CaseFirst | None = None
    """Upper or Lower case first; off, which is the default, where it is left out."""
    numeric_ordering: Bool | None = None
    """Compare digits as numbers."""
    alternate: Alternate | None = None
    """Whether spaces and punctuation count."""
    max_variable: MaxVariable | None = None
    """With alternate Shifted: which characters do not count."""
    backwards: Bool | None = None
    """Compare accents from the end."""
    normalization: Bool | None = None
    """Normalize the text first."""

    def for_server(self) -> dict[str, Any]:
        """The collation in MongoDB's words (``upper``, ``non-ignorable``), without what is left out."""
        words = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.alternate is Alternate.NON_IGNORABLE:
            words["alternate"] = "non-ignorable"
        return {key: word.lower() if key in _LOWER else word for key, word in words.items()}


class Index(Model):
    """createIndexes."""

    name: IndexName
    """Name of the index."""
    keys: tuple[IndexKey, ...] = listed(32, min_items=1, default=...)
    """The fields, in order."""
    unique: Bool = False
    """unique: no two documents with the same key."""
    sparse: Bool = False
    """sparse: only documents that have the field."""
    hidden: Bool = False
    """hidden: maintained, but not used by queries."""
    expire_after: Seconds | None = None
    """expireAfterSeconds: documents are deleted this long after the time in the field; whole seconds."""
    partial_filter: Document | None = Field(default=None)
    """partialFilterExpression: only documents that match."""
    collation: Collation | None = None
    """collation."""
    weights: dict[FieldPath, Annotated[Int, Field(ge=1, le=99999)]] = Field(default_factory=dict, max_length=32)
    """weights of a text index, by field; 1 where it is left out."""
    default_language: Language | None = None
    """default_language of a text index."""
    language_override: Annotated[str, StringConstraints(max_length=255)] | None = None
    """language_override: the field of a document that names its language."""
    wildcard_projection: dict[FieldPath, Annotated[Int, Field(ge=0, le=1)]] = Field(default_factory=dict, max_length=64)
    """wildcardProjection of an index on $**: 1 for fields that are in it, or 0 for those that are not."""
    bits: Annotated[Int, Field(ge=1, le=32)] | None = None
    """bits: precision of a 2d index."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: dropIndexes."""
    renamed_from: IndexName | None = None
    """The name that it had before."""


class TimeSeries(Model):
    """timeseries: a collection of measurements. It cannot be changed afterwards, granularity aside."""

    time_field: FieldPath
    """Field with the time of a measurement."""
    meta_field: FieldPath | None = None
    """Field that names the source."""
    granularity: Granularity = Granularity.SECONDS
    """Time between two measurements of one source; it can only be made coarser."""


class Collection(Checked):
    """create, and collMod."""

    name: CollectionName
    """Name of the collection."""
    validator: Document | None = None
    """validator: $jsonSchema or a query; none where it is left out."""
    validation_level: ValidationLevel = ValidationLevel.STRICT
    """validationLevel. Moderate leaves documents alone that did not pass before. Disabled is the server's off."""
    validation_action: ValidationAction = ValidationAction.ERROR
    """validationAction: refuse the write, or only log it."""
    rollout: Rollout = Rollout.DIRECT
    """Direct: at once. WarnFirst: warn, count the documents that do not pass, and refuse when there are none."""
    indexes: tuple[Index, ...] = listed(63, "name")
    """Its indexes, besides _id_. Others are left alone."""
    time_series: TimeSeries | None = None
    """timeseries."""
    expire_after: Seconds | None = None
    """expireAfterSeconds of a time series: age at which measurements are deleted; whole seconds. An ordinary collection
    has an index with expireAfter."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: drop."""
    renamed_from: CollectionName | None = None
    """renameCollection: the name that it had before."""

    RULES = (
        Rule(
            "!self.name.startsWith('system.')",
            "names that begin with system. belong to MongoDB: choose another name",
            lambda self: not self.name.startswith("system."),
            path=".name",
        ),
        Rule(
            "!has(self.expireAfter) || has(self.timeSeries)",
            "expireAfter of a collection needs timeSeries: give an index with expireAfter instead",
            lambda self: self.expire_after is None or self.time_series is not None,
        ),
        Rule(
            "!(has(self.validator) && has(self.timeSeries))",
            "a time series has no validator: remove one of the two",
            lambda self: self.validator is None or self.time_series is None,
        ),
    )


class MongoPrivilege(Model):
    """Actions on collections."""

    collections: tuple[CollectionName, ...] = listed(200)
    """Collections of this database; all of them where it is empty."""
    actions: tuple[Word, ...] = listed(64, min_items=1, default=...)
    """MongoDB's privilege actions, such as find and insert."""


class MongoRoleRef(Model):
    """A role that another one includes."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """Name of the role."""
    database: Annotated[str, StringConstraints(max_length=63)] = ""
    """The database in which it is defined; this one where it is empty."""


class MongoRole(Model):
    """createRole."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """Name of the role."""
    privileges: tuple[MongoPrivilege, ...] = listed(64)
    """What it may do."""
    roles: tuple[MongoRoleRef, ...] = listed(64)
    """Roles that it includes."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: dropRole."""
    renamed_from: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None
    """The name that it had before."""


class MongoDatabase(Checked):
    """What is in a MongoDB database."""

    collections: tuple[Collection, ...] = listed(200, "name")
    """Its collections. Others are left alone."""
    roles: tuple[MongoRole, ...] = listed(200, "name")
    """createRole."""
