"""The SDK's Python side: the client made from a schema, the command that runs a module, what both rely on."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dagger.mod", reason="dagger-io is not installed")

from schema_server import SchemaServer, schema_server

SDK = Path(__file__).resolve().parents[1]
ROOT = SDK.parents[1]
MAIN = (SDK / "main.dang").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def engine() -> Iterator[SchemaServer]:
    """A double of the engine."""
    with schema_server() as server:
        yield server


@pytest.fixture(scope="module")
def container(engine: SchemaServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /opt/sdk of a module's container, as main.dang lays it out."""
    folder = tmp_path_factory.mktemp("sdk")
    for target, source in re.findall(
        r'withFile\("/opt/sdk/(\w+\.py)", own.file\("(\S+)"\)\)', MAIN
    ):
        shutil.copy(SDK / source, folder / target)
    (folder / "schema.json").write_text(engine.introspection)
    return folder


def run(
    engine: SchemaServer, container: Path, *command: str, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with the container's files, connected to the double."""
    engine.asked.clear()
    session = {"DAGGER_SESSION_PORT": str(engine.port), "DAGGER_SESSION_TOKEN": "token"}
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **session, "DAGGER_MODULE": "my-module", "NO_COLOR": "1", **env},
        cwd=container,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


VALUES = {
    "await store.name()": "north",
    "await store.size()": 3,
    "await store.share()": 0.5,
    "await store.open()": True,
    "await store.note()": None,
    "await store.clear()": None,
    "await store.tags()": ["a", "b"],
    "[type(await store.data()).__name__, await store.data()]": ["JSON", '{"a": 1}'],
    "(await store.colour()).name": "DARK_RED",
    "await store.colour() is dagger.StoreColour.DARK_RED": True,
    "[each.name for each in await store.colours()]": ["BLUE", "DARK_RED"],
    "[await each.name() for each in await store.items()]": ["one", "two"],
    "await store.none()": [],
    "await store.first().name()": "north",
    "await store.http_url()": "http://store",
    "await store.with_(lambda it: it.first()).name()": "north",
    "await dag.container().as_store().name()": "north",
    "str(inspect.signature(dagger.Store.put))": "(self, /, name, count, *, note=None, files=None)",
    "'Store' in dir(dagger)": True,
    "__debug__": True,  # asserts of a module are kept
}
SENT = {
    "await store.put('x', 2)": 'put(name: "x", count: 2)',
    "await store.put(count=2, name='x', note='n')": 'put(name: "x", count: 2, note: "n")',
    "await store.put('x', 0, note=None)": 'put(name: "x", count: 0)',
    "await store.put('', 1, note='')": 'put(name: "", count: 1, note: "")',
    "await dag.store(path='a', read_only=False).name()": 'store(path: "a", readOnly: false)',
    "await store.paint(dagger.StoreColour.BLUE).name()": "paint(colour: BLUE)",
    "await store.import_(dag.directory())": 'import(from: "Directory-id")',
    "await store.show(shelf=store)": 'show(shelf: "Store-id")',
    "await store.put('x', 1, files=[dag.directory(), dag.container()])": (
        'files: ["Directory-id", "Container-id"]'
    ),
}
WRONG = {
    "await store.put('x')": "missing a required argument: 'count'",
    "await store.put('x', 1, nte='y')": "unexpected keyword argument 'nte'",
    "await store.put('x', 1, 'y')": "too many positional arguments",
    "dag.store(pth='x')": "unexpected keyword argument 'pth'",
}
SCRIPT = """
import ast, asyncio, inspect, json, sys
import runtime
import dagger
from dagger import dag

async def value(code):
    names = {**globals(), "store": dag.store()}
    try:
        found = eval(compile(code, "code", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        return await found if inspect.iscoroutine(found) else found
    except TypeError as error:
        return str(error)
    finally:
        await dag.version()  # ends what this one asked

async def main():
    async with await dagger.connect():
        print(json.dumps([await value(code) for code in json.load(sys.stdin)]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def evaluated(engine: SchemaServer, container: Path) -> dict[str, tuple[Any, list[str]]]:
    """Each expression with what it gives in a module's process, and the queries that it sent."""
    codes = [*VALUES, *SENT, *WRONG]
    (container / "script.py").write_text(SCRIPT)
    ran = run(engine, container, "script.py", stdin=json.dumps(codes))
    assert ran.returncode == 0, ran.stderr
    asked: list[list[str]] = [[]]
    for query in engine.asked:
        asked[-1].append(query)
        if query == "{ version }":
            asked[-1].pop()
            asked.append([])
    results = zip(json.loads(ran.stdout), asked[:-1], strict=True)
    return dict(zip(codes, results, strict=True))


@pytest.mark.parametrize(("code", "expected"), VALUES.items())
def test_a_dependency_gives_values_of_every_type(
    evaluated: dict[str, tuple[Any, list[str]]], code: str, expected: Any
) -> None:
    """Scalars, null, lists, enums and objects come back as the plain SDK's generated client gives them."""
    assert evaluated[code][0] == expected


@pytest.mark.parametrize(("code", "sent"), SENT.items())
def test_arguments_reach_the_engine(
    evaluated: dict[str, tuple[Any, list[str]]], code: str, sent: str
) -> None:
    """Required ones by position or name, others by name; objects by their id; what is None is left out."""
    assert sent in evaluated[code][1][-1]


@pytest.mark.parametrize(("code", "said"), WRONG.items())
def test_a_wrong_argument_is_a_type_error(
    evaluated: dict[str, tuple[Any, list[str]]], code: str, said: str
) -> None:
    """As for any Python function, before anything is sent."""
    assert said in evaluated[code][0]
    assert evaluated[code][1] == []


def test_the_schema_is_not_asked_for(engine: SchemaServer, container: Path) -> None:
    """It is in a file; a connection sends no introspection query."""
    (container / "script.py").write_text(SCRIPT)

    ran = run(engine, container, "script.py", stdin="[]")

    assert (ran.stdout, engine.asked) == ("[]\n", []), ran.stderr


def test_nothing_for_a_terminal_is_imported(engine: SchemaServer, container: Path) -> None:
    """A function's process is started for every call; rich, pygments and click have no use there."""
    code = "[name for name in ('rich', 'pygments', 'click', 'dagger.provisioning') if sys.modules.get(name)]"
    (container / "script.py").write_text(SCRIPT)

    ran = run(engine, container, "script.py", stdin=json.dumps([code]))

    assert json.loads(ran.stdout) == [[]], ran.stderr


def test_for_a_type_of_the_module_itself_the_engine_is_asked_once(
    engine: SchemaServer, container: Path
) -> None:
    """Another module's object, given for an interface of this one, is called as the interface."""
    call = (
        "dag._ctx.select_id('OwnShelf', 'shelf-1').select('OwnShelf', 'label', "
        "[__import__('dagger.client._core').client._core.Arg('text', 'x')]).execute(str)"
    )
    (container / "script.py").write_text(SCRIPT)

    ran = run(engine, container, "script.py", stdin=json.dumps([call, call]))

    assert json.loads(ran.stdout) == ['label {"text": "x"}'] * 2, ran.stderr
    assert sum("__schema" in each for each in engine.asked) == 1
    assert ran.stderr == ""


def module(folder: Path, text: str) -> str:
    """Write an installed project with one package; return the path of both."""
    (folder / "my_module").mkdir(parents=True)
    (folder / "my_module/__init__.py").write_text(text)
    info = folder / "my_module-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-module\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dagger.mod]\nmain_object = my_module:Named\n")
    return str(folder)


OBJECT = '"""Says things."""\nfrom dagger import object_type\n@object_type\nclass Named:\n    """Says."""\n'


def test_the_types_are_written_to_the_file_that_the_engine_reads(
    engine: SchemaServer, container: Path, tmp_path: Path
) -> None:
    """The main object is the one that the entry point names."""
    types = tmp_path / "types.json"
    env = {"PYTHONPATH": module(tmp_path / "src", OBJECT), "DAGGER_MODULE_FILE": str(types)}

    ran = run(engine, container, "runtime.py", "--register", **env)

    assert ran.returncode == 0, ran.stderr
    assert json.loads(types.read_text()) == "Module-id"
    assert any('withObject(name: "Named"' in each for each in engine.asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        ("x = (", "'(' was never closed"),
        ("class Named: pass", "must be a class decorated with @dagger.object_type"),
    ],
)
def test_a_module_that_cannot_be_loaded_says_why(
    engine: SchemaServer, container: Path, tmp_path: Path, text: str, said: str
) -> None:
    """The last line of standard error, which the engine shows, is the reason."""
    path = module(tmp_path / "src", text)

    ran = run(engine, container, "runtime.py", "--register", PYTHONPATH=path)

    assert ran.returncode == 1
    assert said in ran.stderr.splitlines()[-1]


# -- what dagger-io has to have ------------------------------------------------------------------


def test_the_private_names_of_dagger_io_are_there() -> None:
    """Each name that runtime.py and bindings.py use beyond the public ones, in the pinned version."""
    from dagger.client import _core, _guards, _session, base, gen
    from dagger.mod import _module, cli

    assert "GraphQLClient(" in inspect.getsource(_session.ClientSession)
    options = inspect.getsource(_session.ClientSession.__init__)
    assert re.search(r"fetch_schema_from_transport=True,", options)
    assert inspect.iscoroutinefunction(_module.Module.register)
    assert callable(cli.app) and callable(cli.load_module)
    assert callable(_guards.typecheck)
    assert list(_core.Arg._fields)[:2] == ["name", "value"]
    assert {"type_name", "inline_type"} <= {each.name for each in fields(_core.Field)}
    assert {"conn", "selections"} <= {each.name for each in fields(_core.Context)}
    for name in ("execute", "execute_object_list", "build"):
        assert inspect.iscoroutinefunction(getattr(_core.Context, name))
    assert callable(base.Type._select) and issubclass(base.Enum, object)
    assert issubclass(gen.Client, gen.Query) and gen.__all__
    source = inspect.getsource(_module)
    for variable in ("DAGGER_MAIN_OBJECT", "DAGGER_MODULE", "DAGGER_MODULE_FILE"):
        assert f'os.getenv("{variable}"' in source
    assert 'os.getenv("DAGGER_DEFAULT_PYTHON_PACKAGE"' in inspect.getsource(cli)


def test_dagger_io_loads_the_bindings_and_goes_without_what_is_left_out() -> None:
    """`dagger_gen` is imported in place of the generated client; what runtime.py hides may be missing."""
    import dagger
    import httpx

    source = inspect.getsource(dagger)

    assert "from dagger_gen import *" in source
    assert re.search(r"suppress\(ModuleNotFoundError\):\s+from dagger.provisioning import", source)
    assert re.search(r"from ._main import main\s+except ImportError", inspect.getsource(httpx))


def test_image_and_uv_are_those_of_the_steps() -> None:
    """The base image and the hashes of uv stand in the SDK and in the kit: the same ones."""
    from rag_kit import container as image

    assert re.findall(r'"(python:\S+)"', MAIN) == [image.BASE] * 2
    assert (SDK / "uv.txt").read_text(encoding="utf-8") == image.UV
