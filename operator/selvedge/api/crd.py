"""CustomResourceDefinitions from the models: structural schemas with bounds, rules, columns and descriptions."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Structure:
    """Turns Pydantic's schema into one that the API server accepts: no references, no unions, no nulls.

    Defaults are those of scalars, for a default of an object would write all of it into every resource. In a list they
    stand in the description only: ``kubectl apply`` and GitOps tools compare lists as a whole, and one that the API
    server completes would differ from its manifest for ever. The models fill them in when they decode.
    """

    defs: dict[str, Any]
    status: bool
    list_defaults: bool

    def of(self, node: dict[str, Any], *, in_list: bool = False) -> dict[str, Any]:
        """The structural schema of one node and all below it."""
        node = self._resolved(node)
        result = {key: value for key, value in node.items() if key not in _NOT_STRUCTURAL}
        self._place_default(result, in_list=in_list)
        if result.pop("x-selvedge-settings", False):
            return {"description": result["description"], **settings_schema(result["maxProperties"])}
        inner = result.pop("additionalProperties", None)
        if result.get(PRESERVE):
            return result
        if "properties" in result:
            result["properties"] = {
                name: self.of(child, in_list=in_list) for name, child in result["properties"].items()
            }
        elif isinstance(inner, dict):
            result["additionalProperties"] = self.of(inner, in_list=True)
        if "items" in result:
            result["items"] = self.of(result["items"], in_list=True)
        return _ordered(result)

    def _place_default(self, schema: dict[str, Any], *, in_list: bool) -> None:
        default = schema.pop("default", None)
        if schema.pop("x-selvedge-duration", False) and default is not None:
            default = format_duration(default)
        if self.status or not isinstance(default, str | int | float | bool):
            return
        if not in_list or self.list_defaults:
            schema["default"] = default
        elif default not in ("", False):
            shown = str(default).lower() if isinstance(default, bool) else default
            schema["description"] = f"{schema['description']} Default: {shown}."

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node with references put in place and ``anyOf: [X, null]`` made X; what stands beside them wins."""
        beside = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "$ref" in node:
            target = self.defs[str(node["$ref"]).removeprefix("#/$defs/")]
            return self._resolved({**target, **beside})
        if "anyOf" in node:
            choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
            if len(choices) != 1:
                raise ValueError(f"a union has no structural schema: {node}")
            return self._resolved({**choices[0], **beside})
        return node


#: What the API server shows of a resource that nobody has looked at: without it, kstatus (Flux, kubectl, Argo CD) takes
#: a resource without a status for one that is as declared.
_UNSEEN = {"observedGeneration": -1}

_ORDER = ("description", "type", "format", "enum", "default")


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    first = {key: schema[key] for key in _ORDER if key in schema}
    return {**first, **{key: value for key, value in schema.items() if key not in first}}


def schema_of(model: type[Model], *, list_defaults: bool = False) -> dict[str, Any]:
    """The structural OpenAPI v3 schema of a spec or a status.

    ``list_defaults`` keeps the defaults of fields in lists, as the reference shows them.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Described)
    structure = _Structure(raw.get("$defs", {}), issubclass(model, Status), list_defaults)
    return structure.of(raw)


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
                                "status": _ordered({**schema_of(kind.status), "default": _UNSEEN}),
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
