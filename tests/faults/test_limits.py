"""Limits of what a request may hold: nothing large is read, unpacked or built before it is refused."""

from __future__ import annotations

import io
import json
import re
import socket
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from inside import Inside, bearer
from ssrf_corpus import docx
from test_serve import Served, environment

from rag_service.http.header_limit import MAX_BYTES

pytestmark = pytest.mark.xdist_group("inside")

KEY = bearer("all")
JSON = KEY | {"content-type": "application/json"}
MIB = 2**20
BODY = 256 * 1024  # RAG_MAX_BODY_BYTES


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- JSON -----------------------------------------------------------------------------------------


def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> bytes:
    return f'{{"query":"x","filters":{opening * (depth - 1)}1{closing * (depth - 1)}}}'.encode()


def wide(size: int) -> bytes:
    return json.dumps({"query": "x", **{f"k{at}": at for at in range(size)}}).encode()


BODIES: dict[str, tuple[bytes, str, str]] = {
    "17 levels": (nested(17), "invalid_request", "nests deeper than 16 levels"),
    "17 levels of lists": (nested(17, "[", "]"), "invalid_request", "nests deeper than 16 levels"),
    "a hundred thousand levels": (nested(40_000), "invalid_request", "not valid JSON"),
    "only brackets": (b"[" * 250_000, "invalid_request", "not valid JSON"),
    "NaN": (b'{"query":"x","min_score":NaN}', "invalid_request", "not valid JSON"),
    "Infinity": (b'{"query":"x","min_score":-Infinity}', "invalid_request", "not valid JSON"),
    "1e999": (b'{"query":"x","min_score":1e999}', "invalid_request", "too large"),
    "an integer of 5,000 digits": (
        b'{"query":"x","top_k":' + b"9" * 5000 + b"}",
        "invalid_request",
        "not valid JSON",
    ),
    "2**70": (
        b'{"query":"x","filters":{"a":1180591620717411303424}}',
        "invalid_request",
        "64 bits",
    ),
    "15,000 keys": (wide(15_000), "invalid_request", "unknown option"),
    "20,000 conditions": (
        json.dumps({"query": "x", "filters": {"$or": [{"a": 1}] * 20_000}}).encode(),
        "invalid_request",
        "at most 64",
    ),
    "a list of values": (
        json.dumps({"query": "x", "filters": {"a": {"$in": list(range(257))}}}).encode(),
        "invalid_request",
        "at most 256",
    ),
    "query of 8 KiB and a byte": (
        json.dumps({"query": "x" * 8193}).encode(),
        "invalid_request",
        "at most 8192",
    ),
    "query of 8 KiB in characters": (
        json.dumps({"query": "ä" * 4097}, ensure_ascii=False).encode(),
        "invalid_request",
        "at most 8192",
    ),
    "top_k 101": (b'{"query":"x","top_k":101}', "invalid_request", "less than or equal to 100"),
    "top_k 0": (b'{"query":"x","top_k":0}', "invalid_request", "greater than or equal to 1"),
    "no UTF-8": (b'{"query":"\xff\xfe"}', "invalid_request", "not valid JSON"),
    "half a surrogate pair": (b'{"query":"\\ud800"}', "invalid_request", "JSON"),
    "two values": (b'{"query":"x"}{"query":"y"}', "invalid_request", "not valid JSON"),
    "nothing": (b"", "invalid_request", "not valid JSON"),
    "a byte too many": (b'{"query":"x"}' + b" " * BODY, "body_too_large", str(BODY)),
}


@pytest.mark.parametrize("name", BODIES)
def test_threat_huge_requests_in_json(name: str, inside: Inside) -> None:
    """Refused with the limit in the message, in a moment, on every route that reads JSON."""
    body, expected, said = BODIES[name]
    status = 413 if expected == "body_too_large" else 422
    for path in ("/rag_modules", "/v1/search"):
        answer = inside.ask("POST", path, content=body, headers=JSON)

        assert code(answer) == (status, expected)
        assert said in answer.json()["error"]["message"]
        assert len(answer.content) < 2048


@pytest.mark.parametrize(
    "body",
    [
        nested(16),
        json.dumps({"query": "x" * 8192}).encode(),
        b'{"query":"x","top_k":100}',
        b'{"query":"who signs"}' + b" " * (BODY - 21),
    ],
    ids=["16 levels", "a query of 8 KiB", "100 results", "all of the body"],
)
def test_what_is_just_within_a_limit_is_read(body: bytes, inside: Inside) -> None:
    """The limits are where they are said to be."""
    answer = inside.ask("POST", "/v1/search", content=body, headers=JSON)

    if body.startswith(b'{"query":"x","filters"'):
        assert "levels" not in answer.json()["error"]["message"].replace("8 levels", "")
    else:
        assert answer.status_code == 200, answer.text


# -- uploads ----------------------------------------------------------------------------------------


def archive(*parts: tuple[str | zipfile.ZipInfo, bytes], packed: bool = True) -> bytes:
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", method) as made:
        for name, data in parts:
            made.writestr(name, data)
    return out.getvalue()


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def lying(data: bytes, size: int) -> bytes:
    """Return a zip whose directory says another unpacked size, for its largest part."""
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        largest = max(made.infolist(), key=lambda part: part.file_size)
    told = largest.file_size.to_bytes(4, "little")
    return data.replace(told, size.to_bytes(4, "little"))


def words(text: str = "") -> list[tuple[str, bytes]]:
    """The parts of a Word document, its text replaced."""
    with zipfile.ZipFile(io.BytesIO(docx("http://127.0.0.1/"))) as made:
        parts = [(name, made.read(name)) for name in made.namelist()]
    return [
        (name, data.replace(b"Words of a page", text.encode()) if text else data)
        for name, data in parts
    ]


LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'ha'>" + "".join(
    f"<!ENTITY a{at} '{f'&a{at - 1};' * 10}'>" for at in range(1, 10)
)


def bombs() -> dict[str, bytes]:
    """Archives that unpack to far more than they say, or elsewhere."""
    zeros = b"\0" * (64 * MIB)
    inner = archive(("a.txt", zeros))
    return {
        "ratio.docx": archive(*words(), ("word/media/x.xml", zeros)),
        "many.docx": archive(*words(), *((f"p{at}", b"") for at in range(10_001))),
        "nested.docx": archive(*words()[1:], ("inner.docx", inner)),
        "nested.zip": archive(("inner.zip", archive(("inner.zip", inner)))),
        "lies.docx": lying(archive(*words("ha " * (8 * MIB))), 100),
        "laughs.docx": archive(
            *(
                (
                    name,
                    data.replace(b"<w:document", f"{LAUGHS}]><w:document".encode()).replace(
                        b"Words", b"&a9;"
                    ),
                )
                for name, data in words()
            )
        ),
        "truncated.docx": archive(*words())[:-60],
    }


def elsewhere() -> dict[str, bytes]:
    """Word documents with parts that point out of the archive; they are read, and stay in it."""
    out = (
        "../../etc/PWNED",
        "/tmp/PWNED",
        "C:\\PWNED",
        "word\\..\\..\\PWNED",
        "a\0b",
        "\u202ePWNED",
    )
    return {
        "traversal.docx": archive(*words(), *((name, b"x") for name in out)),
        "link.docx": archive(*words(), link("word/link.xml", "/etc/passwd")),
        "twice.docx": archive(*words(), ("word/x.xml", b"x")),
    }


def test_threat_huge_requests_by_archives(inside: Inside, tmp_path: Path) -> None:
    """A bomb is refused by its directory, or ends where its said size does; parts stay in the archive."""
    for name, data in bombs().items():
        made = [("files", (name, data))]
        answer = inside.ask("POST", "/v1/documents?collection=bombs", files=made, headers=KEY)
        assert code(answer) == (422, "document_unreadable"), name
        assert "Traceback" not in answer.text
    made = [("files", (name, data)) for name, data in elsewhere().items()]
    read = inside.ask("POST", "/v1/documents?collection=bombs", files=made, headers=KEY)
    inside.ask("DELETE", "/v1/collections/bombs", headers=KEY)

    assert read.status_code == 200, read.text
    assert sorted(read.json()["added"]) == ["link.docx", "traversal.docx", "twice.docx"]
    assert not list(Path("/tmp").glob("PWNED")) and not Path("/etc/PWNED").exists()


NAMES = {
    "../../../etc/passwd.txt": "etc/passwd.txt",
    "/abs/x.txt": "abs/x.txt",
    "C:\\Users\\x.txt": "x.txt",
    "a\0b.txt": "a%00b.txt",  # so its client wrote it
    "\uff0e\uff0e/x.txt": "\uff0e\uff0e/x.txt",  # fullwidth dots are letters of a name
    "..%2f..%2fx.txt": "..%2f..%2fx.txt",  # and nobody decodes a name
    "....//....//x.txt": "..../..../x.txt",
    "\u202egpj.txt": "gpj.txt",
    "con.txt": "con.txt",
    "x" * 300 + ".txt": "x" * 251 + ".txt",
}


def test_threat_huge_requests_and_hostile_names_of_files(inside: Inside, tmp_path: Path) -> None:
    """A name is an id, not a path: no file gets it, and it is cut to what fits."""
    made = [("files", (name, f"words of {at}".encode())) for at, name in enumerate(NAMES)]
    answer = inside.ask("POST", "/v1/documents?collection=names", files=made, headers=KEY)
    long = [("files", ("/".join(["d" * 250] * 5) + "/x.txt", b"words"))]
    refused = inside.ask("POST", "/v1/documents?collection=names", files=long, headers=KEY)
    store = Path(inside.home) / "store"
    found = [
        path.name for path in store.rglob("*") if "passwd" in path.name or path.name == "x.txt"
    ]
    inside.ask("DELETE", "/v1/collections/names", headers=KEY)

    assert answer.status_code == 200, answer.text
    assert set(answer.json()["added"]) == set(NAMES.values())
    assert code(refused) == (422, "document_unreadable")
    assert "1024 bytes" in refused.json()["error"]["message"]
    assert found == []


# -- bytes on the wire ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`rag serve` in a process of its own, which answers by a composite that is not there."""
    home = tmp_path_factory.mktemp("limits")
    more = {"RAG_COMPOSITE_URL": "http://127.0.0.1:9", "RAG_RUNNER": "remote"}
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("rag")), "serve", "--port", "0"],
        env=environment(home, **more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        served = Served(process)
        try:
            httpx.get(f"{served.url}/healthz", trust_env=False, timeout=30)
            yield served
        finally:
            process.kill()
            served.ended()


def memory(pid: int | str, what: str) -> int:
    """Return a figure of a process's memory, in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def push(served: Served, head: bytes, block: bytes, most: int) -> tuple[int, bytes]:
    """Send a head and blocks until an answer comes; returns the bytes taken, and the answer."""
    port = int(served.url.rpartition(":")[2])
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall(head)
        try:
            while sent < most:
                raw.setblocking(False)
                try:
                    if answer := raw.recv(65536):
                        break
                except BlockingIOError:
                    pass
                raw.setblocking(True)
                raw.sendall(block)
                sent += len(block)
            raw.settimeout(30)
            answer = answer or raw.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return sent, answer


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_fault_body_too_large_without_a_length_is_cut_and_kept_nowhere(
    served: Served, lane: Any
) -> None:
    """A chunked body without end: 413 after the limit, and memory stays as it was."""
    block = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = (
        b"POST /rag_modules HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    push(served, head, block, MIB)  # once, so that what is loaded by a first request is there
    before = memory(served.process.pid, "VmRSS")
    told = [push(served, head, block, 1024 * MIB) for _ in range(lane(3, 50))]
    grown = memory(served.process.pid, "VmHWM") - before

    assert all(answer.startswith(b"HTTP/1.1 413") for _, answer in told if answer)
    assert any(answer for _, answer in told)
    assert max(sent for sent, _ in told) < 16 * MIB  # the limit, and what both sockets hold
    assert grown < 32 * MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "block",
    [b"x-name-" + b"n" * 1000 + b": " + b"v" * 15_000 + b"\r\n", b"v" * 16_384],
    ids=["many headers", "one header without end"],
)
def test_threat_huge_requests_in_headers(block: bytes, served: Served) -> None:
    """A head that does not end is cut off with 431."""
    before = memory(served.process.pid, "VmRSS")
    sent, answer = push(served, b"GET /healthz HTTP/1.1\r\nx-a: ", block, 256 * MIB)
    alive = httpx.get(f"{served.url}/healthz", trust_env=False, timeout=30)

    assert answer.startswith(b"HTTP/1.1 431") or not answer  # a reset may overtake it
    assert sent < 16 * MIB + MAX_BYTES
    assert memory(served.process.pid, "VmHWM") - before < 32 * MIB
    assert alive.status_code == 200


def test_many_large_requests_in_a_row_do_not_add_up(served: Served, lane: Any) -> None:
    """The largest bodies that are read are given back."""
    body = b'{"query":"x","a":"' + b"y" * (BODY - 64) + b'"}'
    before = memory(served.process.pid, "VmRSS")
    with httpx.Client(base_url=served.url, trust_env=False, timeout=30) as client:
        for _ in range(lane(30, 500)):
            assert client.post("/v1/search", content=body, headers=JSON).status_code == 422

    assert memory(served.process.pid, "VmRSS") - before < 32 * MIB
