"""CustomResourceDefinitions from the models: structural schemas with bounds, rules, columns and descriptions."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from selvedge.api.base import GROUP, VERSION, Kind, Model, Rule, Status
from selvedge.api.docs import field_docs
from selvedge.api.settings import settings_schema
from selvedge.core.duration import format_duration

if TYPE_CHECKING:
    from pydantic_core import core_schema

PRESERVE = "x-kubernetes-preserve-unknown-fields"
VALIDATIONS = "x-kubernetes-validations"
_NOT_STRUCTURAL = ("title", "propertyNames", "$defs", "const", "patternProperties")


class _Described(GenerateJsonSchema):
    """Pydantic's generator, with the descriptions from the docstrings and the rules of the models."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        """Add to a model's schema what Pydantic does not know of."""
        result = super().model_schema(schema)
        model = schema["cls"]
        if not issubclass(model, Model):
            return result
        docs = field_docs(model)
        for attribute, info in model.model_fields.items():
            described = result["properties"][info.alias or attribute]
            described["description"] = docs[attribute]
        if model.RULES:
            result[VALIDATIONS] = [_validation(rule) for rule in model.RULES]
        return result


def _validation(rule: Rule) -> dict[str, Any]:
    validation = {"rule": rule.cel, "message": rule.message}
    if rule.path:
        validation["fieldPath"] = rule.path
    return validation


def _resolved(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """The node with references put in place and ``anyOf: [X, null]`` made X; what stands beside them wins."""
    beside = {key: value for key, value in node.items() if key not in ("$ref", "allOf", "anyOf")}
    if "$ref" in node:
        target = defs[str(node["$ref"]).removeprefix("#/$defs/")]
        return _resolved({**copy.deepcopy(target), **beside}, defs)
    if "allOf" in node and len(node["allOf"]) == 1:
        return _resolved({**node["allOf"][0], **beside}, defs)
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise ValueError(f"a union has no structural schema: {node}")
        return _resolved({**choices[0], **beside}, defs)
    return node


def _structural(node: dict[str, Any], defs: dict[str, Any], *, status: bool) -> dict[str, Any]:
    """A schema that the API server accepts: no references, no unions, no nulls; defaults only of scalars."""
    node = _resolved(node, defs)
    result = {key: value for key, value in node.items() if key not in _NOT_STRUCTURAL}
    default = result.pop("default", None)
    if result.pop("x-selvedge-duration", False) and default is not None:
        default = format_duration(default)
    if not status and isinstance(default, str | int | float | bool):
        result["default"] = default
    if result.pop("x-selvedge-settings", False):
        return {"description": result.get("description", ""), **settings_schema(result["maxProperties"])}
    if result.get(PRESERVE):
        result.pop("additionalProperties", None)
        return result
    if "properties" in result:
        result["properties"] = {
            name: _structural(child, defs, status=status) for name, child in result["properties"].items()
        }
        result.pop("additionalProperties", None)
    elif isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(result["additionalProperties"], defs, status=status)
    if "items" in result:
        result["items"] = _structural(result["items"], defs, status=status)
    return _ordered(result)


_ORDER = ("description", "type", "format", "enum", "default")


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    first = {key: schema[key] for key in _ORDER if key in schema}
    return {**first, **{key: value for key, value in schema.items() if key not in first}}


def schema_of(model: type[Model]) -> dict[str, Any]:
    """The structural OpenAPI v3 schema of a spec or a status."""
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Described)
    return _structural(raw, raw.get("$defs", {}), status=issubclass(model, Status))


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind, as a document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["selvedge"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": column.title,
                            "type": column.type,
                            "jsonPath": column.path,
                            "description": column.description,
                        }
                        for column in kind.columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "description": kind.description,
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": schema_of(kind.spec),
                                "status": schema_of(kind.status),
                            },
                        }
                    },
                }
            ],
        },
    }


def to_yaml(document: dict[str, Any]) -> str:
    """The document as YAML text, always the same for the same document."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their key, and nothing is an anchor."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent list items as the rest."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        """Write what is used twice out twice."""
        return True
