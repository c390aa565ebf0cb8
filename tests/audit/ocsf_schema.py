"""Validates records against the compiled OCSF schema: members, types, requirements, enumerations, constraints and profiles."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.audit.shared import ocsf_schema

_JSON = {"string_t": str, "integer_t": int, "long_t": int, "float_t": (int, float), "boolean_t": bool}


def problems(record: dict[str, Any]) -> list[str]:
    """What OCSF 1.8.0 finds wrong with a record; empty if nothing is."""
    schema = ocsf_schema()
    found = [each for each in schema["classes"].values() if each["uid"] == record.get("class_uid")]
    if not found:
        return [f"class_uid {record.get('class_uid')} is unknown"]
    profiles = set(record["metadata"].get("profiles", ()))
    unknown = profiles - set(found[0]["profiles"])
    return [*(f"profile {each} does not apply" for each in unknown), *_members(record, found[0], profiles, "")]


def _members(value: dict[str, Any], kind: dict[str, Any], profiles: set[str], path: str) -> Iterator[str]:
    attributes = {name: each for name, each in kind["attributes"].items() if each.get("profile") in {None, *profiles}}
    for name, attribute in attributes.items():
        if attribute.get("requirement") == "required" and name not in value:
            yield f"{path}{name} is required"
    for choice, names in (kind.get("constraints") or {}).items():
        there = sum(name in value for name in names)
        if there == 0 or (choice == "just_one" and there > 1):
            yield f"{path} needs {choice} of {names}"
    for name, member in value.items():
        if name not in attributes:
            yield f"{path}{name} is unknown (profiles {sorted(profiles)})"
            continue
        many = attributes[name].get("is_array")
        if many and not isinstance(member, list):
            yield f"{path}{name} is no array"
            continue
        for each in member if many else [member]:
            yield from _value(each, attributes[name], profiles, f"{path}{name}")


def _value(value: Any, attribute: dict[str, Any], profiles: set[str], path: str) -> Iterator[str]:
    schema = ocsf_schema()
    kind = attribute["type"]
    if kind not in schema["types"]:
        if kind == "object" or not schema["objects"][kind]["attributes"]:
            if not isinstance(value, dict):
                yield f"{path} is no object"
        elif not isinstance(value, dict):
            yield f"{path} is no {kind}"
        else:
            yield from _members(value, schema["objects"][kind], profiles, f"{path}.")
        return
    declared = schema["types"][kind]
    base = kind
    while schema["types"][base]["type"]:
        base = schema["types"][base]["type"]
    if base in _JSON and (not isinstance(value, _JSON[base]) or (isinstance(value, bool) and base != "boolean_t")):
        yield f"{path} is {type(value).__name__}, not {kind}"
        return
    if declared["regex"] and not _pattern(declared["regex"]).search(value):
        yield f"{path} is no {kind}: {value!r}"
    if declared["max_len"] and len(value) > declared["max_len"]:
        yield f"{path} is longer than {declared['max_len']}"
    if declared["range"] and not declared["range"][0] <= value <= declared["range"][1]:
        yield f"{path} is out of range: {value}"
    enum = attribute.get("enum")
    if enum and isinstance(value, int) and str(value) not in enum:
        yield f"{path} is none of {sorted(enum)}: {value}"


@cache
def _pattern(regex: str) -> re.Pattern[str]:
    return re.compile(regex)
