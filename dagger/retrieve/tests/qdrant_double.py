"""A double of the Qdrant REST API: a loopback HTTP server that speaks just what our clients use:
the step's own store, and Superlinked's connector.

It is not Qdrant. It parses the same JSON and answers in the same shapes, and keeps each
collection in a real shard of the engine (`qdrant_edge`), so scores, filters and term statistics
are the engine's own. Aliases, routing, validation of bodies and error texts are imitations. Run
the same tests against a real server by setting RAG_TEST_QDRANT_URL.

`faults` makes it fail on purpose; `requests` lists what it was asked.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import qdrant_edge as q

MAX_REQUEST = 32 * 2**20  # bytes of a body, as Qdrant has it unless configured otherwise


@dataclass
class Faults:
    """What goes wrong; change it while the server runs.

    Args:
        status: Answer everything with this HTTP status.
        words: What the error of such an answer says.
        html: Answer 200 with a page of HTML, as a captive portal does.
        nan: Replace every score by NaN.
        drop: So many requests get their connection closed without an answer.
        hold: Wait for this event before every answer.
        alter: Changes the `result` of an answer before it is sent.
        alias_saves: The server dies after saving so many more changes of aliases, which it saves one by
            one, and comes back at once with what it has saved; None: it does not.
        before: Called with "METHOD /path" before each request is answered, outside the lock.
        only: Fail only requests whose "METHOD /path" contains this.
        sizes: Gets the bytes of each body that writes points.
    """

    status: int | None = None
    words: str = "a fault on purpose"
    html: bool = False
    nan: bool = False
    drop: int = 0
    hold: threading.Event | None = None
    alter: Callable[[Any], Any] | None = None
    alias_saves: int | None = None
    before: Callable[[str], None] | None = None
    only: str = ""
    sizes: list[int] = field(default_factory=list)


class DiedError(Exception):
    """The server was killed while it worked on a request: the client gets no answer."""


class ProblemError(Exception):
    """A request the double refuses, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class QdrantDouble:
    """The double; a context manager. `api_key` None accepts everyone."""

    def __init__(self, api_key: str | None = None) -> None:
        self.api_key = api_key
        self.faults = Faults()
        self.requests: list[str] = []
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="qdrant-double-"))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.double = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> QdrantDouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for collection in self.collections.values():
            collection.shard.close()
        shutil.rmtree(self._folder)

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Return the `result` of one request."""
        match method, [unquote(part) for part in path.strip("/").split("/")]:
            case "GET", ["collections"]:
                return {"collections": [{"name": name} for name in self.collections]}
            case "GET", ["aliases"]:
                return {
                    "aliases": [
                        {"alias_name": alias, "collection_name": name}
                        for alias, name in self.aliases.items()
                    ]
                }
            case "POST", ["collections", "aliases"]:
                return self._change_aliases(body["actions"])
            case "PUT", ["collections", name]:
                return self._create(name, body)
            case "DELETE", ["collections", name]:
                return self._delete(name)
            case "GET", ["collections", name, "exists"]:
                return {"exists": self.aliases.get(name, name) in self.collections}
            case _, ["collections", name, *rest]:
                return self._collection(name).answer(method, rest, body)
        raise ProblemError(404, f"no such path: {path}")

    def _collection(self, name: str) -> Collection:
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise ProblemError(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def _create(self, name: str, body: Any) -> bool:
        if name in self.collections or name in self.aliases:
            raise ProblemError(409, f"Wrong input: Collection `{name}` already exists!")
        self.collections[name] = Collection(
            self._folder / f"{len(list(self._folder.iterdir()))}", body
        )
        return True

    def _delete(self, name: str) -> bool:
        found = self.collections.pop(name, None)
        if found is not None:
            found.shard.close()
            self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}
        return found is not None

    def _change_aliases(self, actions: list[Any]) -> bool:
        for action in actions:
            aliases = dict(self.aliases)
            if drop := action.get("delete_alias"):
                aliases.pop(drop["alias_name"], None)
            if make := action.get("create_alias"):
                if make["collection_name"] not in self.collections:
                    raise ProblemError(
                        404, f"Collection `{make['collection_name']}` doesn't exist!"
                    )
                if make["alias_name"] in self.collections:
                    raise ProblemError(
                        409, f"Wrong input: Collection `{make['alias_name']}` already exists!"
                    )
                aliases[make["alias_name"]] = make["collection_name"]
            if self.faults.alias_saves == 0:
                self.faults.alias_saves = None
                raise DiedError
            self.aliases = aliases  # saved one after the other, as Qdrant does
            if self.faults.alias_saves is not None:
                self.faults.alias_saves -= 1
        return True


class Collection:
    """One collection: a shard, and the parameters it was created with."""

    def __init__(self, folder: Path, body: Any) -> None:
        self.body = body
        self.indexed: list[str] = []
        self.updates = 0
        vectors = {
            name: q.EdgeVectorParams(params["size"], getattr(q.Distance, params["distance"]))
            for name, params in body["vectors"].items()
        }
        sparse = {
            name: q.EdgeSparseVectorParams(
                modifier=q.Modifier.Idf if params.get("modifier") == "idf" else None
            )
            for name, params in (body.get("sparse_vectors") or {}).items()
        }
        if not vectors and not sparse:  # the engine insists, the server does not
            vectors["unused"] = q.EdgeVectorParams(1, q.Distance.Dot)
        config = q.EdgeConfig(vectors=vectors, sparse_vectors=sparse, max_search_threads=1)
        self.shard = q.EdgeShard.create(str(folder), config)

    def answer(self, method: str, rest: list[str], body: Any) -> Any:
        match method, rest:
            case "GET", []:
                return self._info()
            case "PUT", ["index"]:
                return self._index(body)
            case "PUT", ["points"]:
                return self._update(_upsert(body))
            case "POST", ["points", "delete"]:
                return self._update(_delete(body))
            case "POST", ["points", "payload"]:
                return self._update(
                    q.UpdateOperation.set_payload_by_filter(
                        _filter(body["filter"]), body["payload"]
                    )
                )
            case "POST", ["points", "payload", "delete"]:
                return self._update(
                    q.UpdateOperation.delete_payload_by_filter(
                        _filter(body["filter"]), body["keys"]
                    )
                )
            case "POST", ["points"]:
                payload, vectors = _selector(body.get("with_payload")), body.get("with_vector")
                return [_record(one) for one in self.shard.retrieve(body["ids"], payload, vectors)]
            case "POST", ["points", "scroll"]:
                return self._scroll(body)
            case "POST", ["points", "count"]:
                request = q.CountRequest(exact=body["exact"], filter=_filter(body.get("filter")))
                return {"count": self.shard.count(request)}
            case "POST", ["points", "batch"]:
                return [self._operation(one) for one in body["operations"]]
            case "POST", ["points", "query"]:
                (found,) = self._search([body])
                return found
            case "POST", ["points", "query", "batch"]:
                return self._search(body["searches"])
        raise ProblemError(404, f"no such path: {rest}")

    def _search(self, searches: list[Any]) -> list[dict[str, Any]]:
        batch = q.QueryBatchRequest([_query(one) for one in searches])
        return [
            {"points": [{**_record(hit), "version": 0, "score": hit.score} for hit in hits]}
            for hits in self.shard.query_batch(batch)
        ]

    def _operation(self, raw: Any) -> dict[str, Any]:
        if upsert := raw.get("upsert"):
            return self._update(_upsert(upsert))
        raise ProblemError(400, f"no such operation here: {list(raw)}")

    def _update(self, operation: Any) -> dict[str, Any]:
        self.shard.update(operation)
        self.updates += 1
        return {"operation_id": self.updates, "status": "completed"}

    def _index(self, body: Any) -> dict[str, Any]:
        kind = getattr(q.PayloadSchemaType, body["field_schema"].capitalize())
        self.indexed.append(body["field_name"])
        return self._update(q.UpdateOperation.create_field_index(body["field_name"], kind))

    def _scroll(self, body: Any) -> dict[str, Any]:
        records, offset = self.shard.scroll(
            q.ScrollRequest(
                offset=body.get("offset"),
                limit=body["limit"],
                filter=_filter(body.get("filter")),
                with_payload=_selector(body.get("with_payload")),
                with_vector=body.get("with_vector") or False,
            )
        )
        points = [_record(record) for record in records]
        return {"points": points, "next_page_offset": None if offset is None else str(offset)}

    def _info(self) -> dict[str, Any]:
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "points_count": self.shard.info().points_count,
            "config": {
                "params": {
                    "vectors": self.body["vectors"],
                    "sparse_vectors": self.body.get("sparse_vectors"),
                },
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
            },
            "payload_schema": {
                name: {"data_type": "keyword", "points": 0} for name in self.indexed
            },
        }


MODES = {
    "insert_only": q.UpdateMode.InsertOnly,
    "update_only": q.UpdateMode.UpdateOnly,
    "upsert": q.UpdateMode.Upsert,
}


def _upsert(body: Any) -> Any:
    return q.UpdateOperation.upsert_points(
        list(map(_point, body["points"])),
        condition=_filter(body.get("update_filter")),
        update_mode=MODES[body.get("update_mode") or "upsert"],
    )


def _delete(body: Any) -> Any:
    if "filter" in body:
        return q.UpdateOperation.delete_points_by_filter(_filter(body["filter"]))
    return q.UpdateOperation.delete_points(body["points"])


def _point(raw: Any) -> Any:
    return q.Point(raw["id"], {k: _vector(v) for k, v in raw["vector"].items()}, raw.get("payload"))


def _vector(raw: Any) -> Any:
    return q.SparseVector(raw["indices"], raw["values"]) if isinstance(raw, dict) else raw


def _record(record: Any) -> dict[str, Any]:
    answer = {"id": str(record.id), "payload": record.payload}
    if record.vector is not None:
        answer["vector"] = {name: _plain(vector) for name, vector in record.vector.items()}
    return answer


def _plain(vector: Any) -> Any:
    if isinstance(vector, q.SparseVector):
        return {"indices": list(vector.indices), "values": list(vector.values)}
    return vector


def _selector(raw: Any) -> Any:
    return (
        list(raw["include"] if isinstance(raw, dict) else raw)
        if isinstance(raw, dict | list)
        else raw
    )


def _query(raw: Any) -> Any:
    params = raw.get("params") or {}
    query = raw["query"]
    if isinstance(query, dict) and "nearest" in query:
        query = query["nearest"]
    return q.QueryRequest(
        limit=raw["limit"],
        query=q.Query.Nearest(_vector(query), using=raw["using"]),
        filter=_filter(raw.get("filter")),
        with_payload=_selector(raw.get("with_payload")),
        with_vector=bool(raw.get("with_vector")),
        params=q.SearchParams(hnsw_ef=params.get("hnsw_ef"), exact=params.get("exact") or False),
    )


def _filter(raw: Any) -> Any:
    if raw is None:
        return None
    clauses = {
        name: [_condition(one) for one in raw[name]]
        for name in ("must", "should", "must_not")
        if raw.get(name) is not None
    }
    return q.Filter(**clauses)


def _condition(raw: Any) -> Any:
    if "is_null" in raw and isinstance(raw["is_null"], dict):
        # the server looks into a list by the path of its elements, `a[]`; the embedded engine does
        # by `a`, and one list too deep by `a[]`
        return q.IsNullCondition(raw["is_null"]["key"].removesuffix("[]"))
    if "is_empty" in raw and isinstance(raw["is_empty"], dict):
        return q.IsEmptyCondition(raw["is_empty"]["key"])
    if "has_id" in raw:
        return q.HasIdCondition(set(raw["has_id"]))
    if "key" not in raw:
        return _filter(raw)
    if raw.get("match") is not None:
        if "any" in raw["match"]:
            return q.FieldCondition(raw["key"], match=q.MatchAny(raw["match"]["any"]))
        value = raw["match"]["value"]
        value = np.bool_(value) if isinstance(value, bool) else value
        return q.FieldCondition(raw["key"], match=q.MatchValue(value))
    bounds = {name: value for name, value in raw["range"].items() if value is not None}
    return q.FieldCondition(raw["key"], range=q.RangeFloat(**bounds))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    double: QdrantDouble

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients that gave up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        double = self.server.double
        path = urlsplit(self.path).path
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {path}"
        double.requests.append(asked)
        faults = double.faults if double.faults.only in asked else Faults()
        if faults.hold is not None:
            faults.hold.wait()
        if faults.drop > 0:
            faults.drop -= 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if faults.before is not None:
            faults.before(asked)
        if asked.startswith("PUT ") and path.endswith("/points"):
            faults.sizes.append(len(raw))
        if faults.html:
            self._send(200, b"<!doctype html><title>Sign in</title>", "text/html")
            return
        try:
            status, answer = self._answer(double, faults, path, raw)
        except DiedError:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if faults.alter is not None and "result" in answer:
            answer["result"] = faults.alter(answer["result"])
        text = json.dumps(answer)
        if faults.nan:
            text = _with_nan(answer)
        self._send(status, text.encode(), "application/json")

    do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815  # names of the base class

    def _answer(
        self, double: QdrantDouble, faults: Faults, path: str, raw: bytes
    ) -> tuple[int, dict[str, Any]]:
        if faults.status is not None:
            return faults.status, {"status": {"error": faults.words}, "time": 0.0}
        if double.api_key is not None and self.headers.get("api-key") != double.api_key:
            return 401, {"status": {"error": "Must provide an API key"}, "time": 0.0}
        if len(raw) > MAX_REQUEST:
            told = f"JSON payload ({len(raw)} bytes) is larger than allowed (limit: {MAX_REQUEST} bytes)."
            return 400, {"status": {"error": told}, "time": 0.0}
        try:
            with double.lock:
                result = double.answer(self.command, path, json.loads(raw) if raw else None)
        except DiedError:
            raise
        except ProblemError as problem:
            return problem.status, {"status": {"error": str(problem)}, "time": 0.0}
        except Exception as error:
            return 400, {"status": {"error": f"Wrong input: {error}"}, "time": 0.0}
        return 200, {"result": result, "status": "ok", "time": 0.0}

    def _send(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _with_nan(answer: Any) -> str:
    for batch in answer.get("result") or []:
        for hit in batch.get("points", []) if isinstance(batch, dict) else []:
            hit["score"] = float("nan")
    return json.dumps(answer)
