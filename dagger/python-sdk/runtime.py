"""Run one function of a Python module; with --register, write the module's types to a file.

It is dagger-io's own command with these differences: the schema comes from a file and not from a query
to the engine, nothing is imported that only a person at a terminal needs, the main object is known from the
project's entry point, and a module that cannot be loaded says so in one line.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

gc.disable()  # nothing that an import makes is garbage
for unneeded in ("dagger.provisioning", "httpx._main"):  # engines; httpx as a command, with rich
    sys.modules[unneeded] = None  # type: ignore[assignment]


def main_object(module: str) -> str:
    """Return the name of a module's main class: that of its entry point, else `MyModule` of `my-module`."""
    for entry in entry_points(group="dagger.mod", name="main_object"):
        return entry.attr
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-_ ]", module))


os.environ["DAGGER_MAIN_OBJECT"] = main_object(os.environ["DAGGER_MODULE"])
os.environ["DAGGER_DEFAULT_PYTHON_PACKAGE"] = re.sub(r"[- ]", "_", os.environ["DAGGER_MODULE"])

import anyio  # noqa: E402
import dagger  # noqa: E402, reads the environment
import dagger.client._session as session  # noqa: E402
from dagger.client._core import Context  # noqa: E402
from dagger.mod.cli import app, load_module  # noqa: E402
from gql.client import Client as GraphQLClient  # noqa: E402
from gql.dsl import DSLSelectable  # noqa: E402
from graphql import build_client_schema  # noqa: E402

gc.freeze()
gc.enable()


class Client(GraphQLClient):
    """A GraphQL client that has the schema and does not ask the engine for it."""

    def __init__(self, *, fetch_schema_from_transport: bool, **options: Any) -> None:
        schema = json.loads(Path(__file__).with_name("schema.json").read_bytes())
        super().__init__(schema=build_client_schema(schema), **options)


async def build(self: Context) -> DSLSelectable:
    """Build a query; where it names a type of the module itself, which is not in the file, ask the engine."""
    connection = self.conn.session
    known = (await connection.get_schema()).type_map
    used = {name for each in self.selections for name in (each.type_name, each.inline_type)}
    if used - {None} - known.keys():
        await (await connection.get_session()).fetch_schema()
    return await build_by_schema(self)


session.GraphQLClient = Client  # type: ignore[attr-defined,assignment]
build_by_schema, Context.build = Context.build, build  # type: ignore[method-assign]


async def register() -> None:
    """Write the module's types to the file that the engine reads."""
    async with await dagger.connect():
        await load_module().register()  # type: ignore[no-untyped-call]


def main() -> int:
    """Run what the engine asks for; returns the exit code."""
    if "--register" not in sys.argv[1:]:
        return app() or 0
    try:
        anyio.run(register)
    except dagger.DaggerError as error:
        sys.stderr.write(f"The module's types cannot be read: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
