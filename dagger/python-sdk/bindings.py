"""The client of a module: dagger-io's own, and what the schema has beyond it.

In the module's container this file is `dagger_gen.py`, which `import dagger` loads. The plain SDK puts
generated source there; here the classes are made from the schema when the process starts.
"""

from __future__ import annotations

import inspect
import json
import keyword
import re
from collections.abc import Callable, Iterator
from inspect import Parameter
from pathlib import Path
from typing import Any

from dagger.client import _guards

# The type checks of the generated client take half of its import; the engine checks arguments, too.
_guards.typecheck = lambda function: function

from dagger.client import gen  # noqa: E402
from dagger.client._core import Arg  # noqa: E402
from dagger.client.base import Enum, Type  # noqa: E402
from graphql.pyutils import camel_to_snake  # noqa: E402

Json = dict[str, Any]
SCHEMA: Json = json.loads(Path(__file__).with_name("schema.json").read_bytes())
ACRONYM = re.compile(r"([A-Z\d]+)(?=[A-Z\d]|$)")
BUILTINS = {"str", "int", "float", "bool", "list", "type"}
SCALARS = {"ID": str, "Int": int, "String": str, "Float": float, "Boolean": bool}
OBJECTS = {"OBJECT", "INTERFACE"}
BY_POSITION, BY_NAME = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY
made: dict[str, type] = {}


def python_name(name: str) -> str:
    """Return a GraphQL name as the generated client spells it: `endpointURL` is `endpoint_url`."""
    snake = camel_to_snake(ACRONYM.sub(lambda found: found[0].title(), name))
    return f"{snake}_" if keyword.iskeyword(snake) or snake in BUILTINS else snake


def class_of(name: str) -> Any:
    """Return the class of a type, from the generated client or made here; a scalar it lacks is a `str`."""
    return SCALARS.get(name) or made.get(name) or getattr(gen, name, str)


def python_type(kind: Json) -> Any:
    """Return a GraphQL type as a type hint."""
    if kind["kind"] == "NON_NULL":
        return _not_null(kind["ofType"])
    return _not_null(kind) | None


def _not_null(kind: Json) -> Any:
    return list[python_type(kind["ofType"])] if kind["kind"] == "LIST" else class_of(kind["name"])  # type: ignore[misc]


def named(kind: Json) -> Json:
    """Return the innermost type of lists and non-null types."""
    while kind.get("ofType"):
        kind = kind["ofType"]
    return kind


def is_list(kind: Json) -> bool:
    """Tell whether a type is a list, null or not."""
    return "LIST" in (kind["kind"], (kind.get("ofType") or {}).get("kind"))


def signature(field: Json) -> inspect.Signature:
    """Return the parameters of a field: required ones by position or name, the others by name."""
    required = [each for each in field["args"] if not _has_default(each)]
    optional = [each for each in field["args"] if _has_default(each)]
    return inspect.Signature(
        [
            Parameter("self", Parameter.POSITIONAL_ONLY),
            *(Parameter(python_name(each["name"]), BY_POSITION) for each in required),
            *(Parameter(python_name(each["name"]), BY_NAME, default=None) for each in optional),
        ]
    )


def _has_default(argument: Json) -> bool:
    return argument["type"]["kind"] != "NON_NULL" or argument["defaultValue"] is not None


def method(field: Json) -> Callable[..., Any]:
    """Return the method of a field: an object at once, a value or a list of objects when awaited."""
    result = named(field["type"])
    if result["kind"] not in OBJECTS:
        void = result["name"] == "Void"
        call = _value_method(field, None if void else python_type(field["type"]))
    elif is_list(field["type"]):
        call = _objects_method(field, result["name"])
    else:
        call = _object_method(field, result["name"])
    call.__name__ = call.__qualname__ = python_name(field["name"])
    call.__doc__ = field["description"]
    call.__signature__ = signature(field)  # type: ignore[attr-defined]
    return call


def _value_method(field: Json, expected: Any) -> Callable[..., Any]:
    async def call(*given: Any, **by_name: Any) -> Any:
        return await select(field, given, by_name).execute(expected)

    return call


def _objects_method(field: Json, name: str) -> Callable[..., Any]:
    async def call(*given: Any, **by_name: Any) -> Any:
        return await select(field, given, by_name).execute_object_list(class_of(name))

    return call


def _object_method(field: Json, name: str) -> Callable[..., Any]:
    def call(*given: Any, **by_name: Any) -> Any:
        return class_of(name)(select(field, given, by_name))

    return call


def select(field: Json, given: tuple[Any, ...], by_name: dict[str, Any]) -> Any:
    """Return the selection of a field of `given[0]`; arguments that are None are left out.

    Raises:
        TypeError: An argument is missing, unknown or given twice.
    """
    bound = signature(field).bind(*given, **by_name).arguments
    values = {each["name"]: bound.get(python_name(each["name"])) for each in field["args"]}
    arguments = [Arg(name, value) for name, value in values.items() if value is not None]
    return given[0]._select(field["name"], arguments)


def make(type_: Json) -> type:
    """Return the class of an enum, an object or an interface that the generated client lacks."""
    if type_["kind"] == "ENUM":
        members = {each["name"]: each["name"] for each in type_["enumValues"]}
        made_enum: type = Enum(type_["name"], members)  # type: ignore[call-arg,assignment]
        return made_enum
    return type(type_["name"], (Type,), {"__doc__": type_["description"], "with_": with_})


def with_(self: Any, cb: Callable[[Any], Any]) -> Any:
    """Call a function with this object, without breaking the chain."""
    return cb(self)


def missing() -> Iterator[Json]:
    """Yield each type of the schema that the generated client lacks."""
    for each in SCHEMA["__schema"]["types"]:
        known = each["name"].startswith("_") or hasattr(gen, each["name"])
        if each["kind"] in {*OBJECTS, "ENUM"} and not known:
            yield each


def add_methods(type_: Json) -> None:
    """Give a class the methods of the fields that it lacks."""
    owner = class_of(type_["name"])
    for field in type_["fields"]:
        if not hasattr(owner, python_name(field["name"])):
            setattr(owner, python_name(field["name"]), method(field))


made.update({each["name"]: make(each) for each in missing()})
for type_ in SCHEMA["__schema"]["types"]:
    if type_["kind"] in OBJECTS and class_of(type_["name"]) is not str:
        add_methods(type_)
globals().update({name: getattr(gen, name) for name in gen.__all__} | made)
__all__ = [*gen.__all__, *made]
