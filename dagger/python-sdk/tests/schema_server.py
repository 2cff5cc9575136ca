"""A double of the engine for the SDK's tests: a small schema over real HTTP, run by graphql-core.

It has a few of the engine's own types, and a dependency `store` with every shape that a function can have.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import graphql

SCHEMA = """
scalar JSON
scalar Void
enum StoreColour { DARK_RED BLUE }
type Query {
  version: String!
  node(id: ID!): Node
  container: Container!
  directory: Directory!
  currentFunctionCall: FunctionCall!
  error(message: String!): Error!
  function(name: String!, returnType: ID!): Function!
  typeDef: TypeDef!
  module: Module!
  store(path: String = "here", readOnly: Boolean): Store!
}
interface Node { id: ID! }
type Container implements Node { id: ID! from(address: String!): Container! asStore: Store! }
type Directory implements Node { id: ID! }
type Module implements Node {
  id: ID! withObject(object: ID!): Module! withDescription(description: String!): Module!
}
type TypeDef implements Node {
  id: ID! withObject(name: String!, description: String): TypeDef! withConstructor(function: ID!): TypeDef!
}
type Function implements Node { id: ID! withDescription(description: String!): Function! }
type Error implements Node { id: ID! withValue(name: String!, value: JSON!): Error! }
type FunctionCall implements Node { id: ID! parentName: String! returnError(error: ID!): Void }
# of the module itself: not in the file that the SDK is given
# own {
interface OwnShelf { id: ID! label(text: String!): String! }
type Shelf implements Node & OwnShelf { id: ID! label(text: String!): String! }
# }
type Item implements Node { id: ID! name: String! }
type Store implements Node {
  id: ID!
  name: String!
  size: Int!
  share: Float!
  open: Boolean!
  note: String
  data: JSON!
  tags: [String!]!
  colour: StoreColour!
  colours: [StoreColour!]!
  clear: Void
  items: [Item!]!
  none: [Item!]!
  first: Item!
  paint(colour: StoreColour!): Store!
  put(name: String!, count: Int!, note: String = "none", files: [ID!]): String!
  import(from: ID!): String!
  HTTPUrl: String!
  show(shelf: ID): String!
}
"""


@dataclass
class SchemaServer:
    """Answers the SDK's queries; `asked` has each query's fields and arguments, as sent."""

    port: int
    schema: graphql.GraphQLSchema
    asked: list[str] = field(default_factory=list)

    @property
    def introspection(self) -> str:
        """Return the schema as the engine hands it to an SDK, without the module's own types."""
        others = re.sub(r"# own {.*?# }", "", SCHEMA, flags=re.DOTALL)
        return json.dumps(graphql.introspection_from_schema(graphql.build_schema(others)))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a query over the values of `VALUES`."""
        self.asked.append(" ".join(request["query"].split()))
        result = graphql.graphql_sync(
            self.schema,
            request["query"],
            variable_values=request.get("variables"),
            field_resolver=_resolve,
            type_resolver=lambda value, *_: value.get("__typename", "Store"),
        )
        return {
            "data": result.data,
            **(
                {"errors": [{"message": e.message} for e in result.errors]} if result.errors else {}
            ),
        }


VALUES: dict[str, Any] = {
    "name": "north",
    "size": 3,
    "share": 0.5,
    "open": True,
    "note": None,
    "data": '{"a": 1}',
    "tags": ["a", "b"],
    "colour": "DARK_RED",
    "colours": ["BLUE", "DARK_RED"],
    "clear": None,
    "items": [{"id": "item-1", "name": "one"}, {"id": "item-2", "name": "two"}],
    "none": [],
    "HTTPUrl": "http://store",
    "version": "v0.21.8",
    "parentName": "",
}
NODES = {
    "item-1": {"__typename": "Item", "id": "item-1", "name": "one"},
    "item-2": {"__typename": "Item", "id": "item-2", "name": "two"},
    "shelf-1": {"__typename": "Shelf", "id": "shelf-1"},
}


def _resolve(source: Any, info: graphql.GraphQLResolveInfo, **arguments: Any) -> Any:
    name = info.field_name
    if name == "node":
        return NODES[arguments["id"]]
    if isinstance(source, dict) and name in source:
        return source[name]
    if name == "id":
        return f"{info.parent_type.name}-id"
    if name in VALUES:
        return VALUES[name]
    if isinstance(graphql.get_named_type(info.return_type), graphql.GraphQLObjectType):
        return {}
    return f"{name} {json.dumps(arguments, sort_keys=True)}"


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = json.dumps(self.server.double.answer(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def schema_server() -> Iterator[SchemaServer]:
    """Serve the schema on a free port of this machine."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.double = SchemaServer(server.server_port, graphql.build_schema(SCHEMA))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
