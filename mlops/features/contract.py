"""What a registered model may rely on: the features of its service, under the names and types it was trained on.

A run and a model version say so in three tags. A feature more breaks no model; one that is gone, or is of another type,
or comes at another age, breaks those that read it.
"""

import json
from collections.abc import Mapping, Sequence

from mlops.registry.record import FEATURE_SCHEMA, FEATURE_SERVICE, SERVED_AGE
from mlops.result import Failure


def schema_in(tags: Mapping[str, str], model: str) -> dict[str, str]:
    """The schema that a model's tags record; empty where it reads no features.

    Raises Failure where it cannot be read.
    """
    try:
        schema = json.loads(tags.get(FEATURE_SCHEMA, "{}"))
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise Failure(
            f"{model}: its tag {FEATURE_SCHEMA} is not a JSON object of features and types: train and register it "
            "anew, or take its aliases away"
        )
    return schema


def breaks(
    tags: Mapping[str, str], services: Mapping[str, Mapping[str, str]], ages: Mapping[str, str], model: str
) -> list[str]:
    """What a model would miss, as a diff of what it was trained on (-) and what there would be (+).

    services, ages: the schema and the served age of each declared service by its name; model: how messages call the
    model. A model of an earlier release, which does not say at which age it was trained, takes any.
    """
    service, schema = tags.get(FEATURE_SERVICE), schema_in(tags, model)
    if service is None:
        return []
    if service not in services:
        return [f"- service {service}, with {len(schema)} features"]
    declared = services[service]
    lines: list[str] = []
    age = tags.get(SERVED_AGE, ages[service])
    if age != ages[service]:
        lines += [f"- served age: {age}", f"+ served age: {ages[service]}"]
    for reference, dtype in schema.items():
        if reference not in declared:
            lines.append(f"- {reference} {dtype}")
        elif declared[reference] != dtype:
            lines += [f"- {reference} {dtype}", f"+ {reference} {declared[reference]}"]
    return lines


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> Sequence[str]:
    """A diff of two descriptions: a line `- name: text` for what goes, `+ name: text` for what comes."""
    lines = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            lines += [f"- {name}: {before[name]}"] if name in before else []
            lines += [f"+ {name}: {after[name]}"] if name in after else []
    return lines
