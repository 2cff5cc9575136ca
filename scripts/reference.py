"""Write contract/reference/ from the product itself, or check that it is up to date.

    python scripts/reference.py            write cli.md, http.md and modules.md
    python scripts/reference.py --check    write nothing; fail on a difference

The command line is read from the commands' own parsers, the HTTP API from the application's OpenAPI
document, the modules from what the Dagger SDK's loader sees of them (no engine is asked).
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pkgutil
import runpy
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from projects import PIPELINE, ROOT, STEPS

FOLDER = ROOT / "contract" / "reference"
WAY_OUT = "run `make contract`, and read what changed before you commit it"
Lines = Iterator[str]


def line(text: object) -> str:
    """Return a text on one line; what looks like an HTML tag stays readable."""
    shown = " ".join(str(text or "").split())
    return shown if "`" in shown else shown.replace("<", "&lt;")


def cell(text: object) -> str:
    """Return a text as a cell of a Markdown table."""
    return line(text).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Lines:
    """Yield a Markdown table and an empty line; nothing for no rows."""
    for number, row in enumerate(rows):
        if number == 0:
            yield f"| {' | '.join(head)} |"
            yield "|" + "---|" * len(head)
        yield f"| {' | '.join(cell(value) for value in row)} |"
    yield ""


def code(value: object) -> str:
    """Return a value in backticks, nothing for none."""
    return f"`{value}`" if value not in (None, "") else ""


# -- the command line ---------------------------------------------------------------------------

CLI_HEAD = """# Command line reference

Every command with its arguments, options and defaults, written by `make contract` from the commands' own
parsers. [The rag command](../../docs/command-line.md) tells what they are for and what their exit codes mean.
`--help` of each command says the same.
"""
STEP_PACKAGES = (*(f"rag_{step}" for step in STEPS), "rag_pipeline")
VERBS = {  # of a step's command; the others have `serve` alone
    "rag_retrieve": ("index", "serve"),
    "rag_pipeline": ("serve", "eval", "replay", "conformance"),
}


def cli() -> Lines:
    """Yield contract/reference/cli.md."""
    import typer

    from rag_pipeline.cli.main import app
    from rag_service.cli import app as serve

    rag: Any = typer.main.get_command(app)
    rag.commands["serve"] = typer.main.get_command(serve)  # what `rag serve` forwards to
    yield CLI_HEAD
    yield from command("rag", rag, level=2)
    yield "## The steps as commands"
    yield ""
    yield "Each step is a command of its own, and needs only its own package."
    yield ""
    for package in STEP_PACKAGES:
        yield from step_command(package, [])
        for verb in VERBS.get(package, ("serve",)):
            yield from step_command(package, [verb])


def command(name: str, found: Any, *, level: int) -> Lines:
    """Yield a command of `rag` and its subcommands."""
    yield f"{'#' * level} {name}"
    yield ""
    yield line(found.help)
    yield ""
    arguments = [each for each in found.params if each.param_type_name == "argument"]
    options = [each for each in found.params if each.param_type_name == "option"]
    subcommands = getattr(found, "commands", {})
    usage = [name, *(_usage(each) for each in arguments), "[OPTIONS]" if options else ""]
    if not subcommands:
        yield f"`{' '.join(filter(None, usage))}`"
        yield ""
    rows = [(code(_metavar(each)), "", each.help) for each in arguments]
    rows += [(code(_flags(each)), _shown(each), _meaning(each)) for each in options]
    yield from table(("Argument or option", "Default", "Meaning"), rows)
    if found.epilog:
        yield line(found.epilog).replace("[bold]", "`").replace("[/bold]", "`")
        yield ""
    for each, under in subcommands.items():
        yield from command(f"{name} {each}", under, level=min(level + 1, 4))


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _usage(argument: Any) -> str:
    return _metavar(argument) if argument.required else f"[{_metavar(argument)}]"


def _flags(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or _kind(option)[1]}"
    return ", ".join(option.opts) + value


def _kind(option: Any) -> tuple[Any, str]:
    """Return the type of an option's value, and its placeholder in the usage line."""
    kind = option.type_descriptor.annotation
    kind = (get_args(kind) or (kind,))[0]
    words = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return kind, words.get(kind, "NAME")


def _meaning(option: Any) -> str:
    text = line(option.help)
    kind, _ = _kind(option)
    if issubclass(kind, Enum):
        text += f" One of {', '.join(code(each.value) for each in kind)}."
    elif option.min is not None and option.max is not None:
        text += f" From {option.min} to {option.max}."
    return text + (" May be given again." if option.multiple else "")


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _shown(option: Any) -> str:
    """Return an option's default, as its help describes it."""
    shown = getattr(option, "show_default", None)
    return shown if isinstance(shown, str) else code(_default(option.default))


def _default(value: object) -> object:
    value = _plain(value)
    return None if value is None or value is False or callable(value) or value == [] else value


class _Found(Exception):  # noqa: N818, a parser is no error
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(module: str, verb: list[str]) -> argparse.ArgumentParser:
    """Return the parser that `python -m MODULE VERB` reads its arguments with."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Found(self)

    with (
        mock.patch.object(sys, "argv", [module, *verb]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.dict(sys.modules),
    ):
        sys.modules.pop(f"{module}.__main__", None)  # else runpy warns that it was imported before
        try:
            runpy.run_module(module, run_name="__main__")
        except _Found as found:
            return found.parser
    raise RuntimeError(f"python -m {module} {' '.join(verb)} reads no arguments")


def step_command(module: str, verb: list[str]) -> Lines:
    """Yield the command of a step."""
    parser = parser_of(module, verb)
    actions = [each for each in parser._actions if each.dest != "help"]
    shown = [_action(each) for each in actions if each.required]
    more = any(not each.required for each in actions)
    yield f"### {parser.prog}"
    yield ""
    yield line(parser.description)
    yield ""
    yield f"`{' '.join([parser.prog, *shown, *(['[OPTIONS]'] if more else [])])}`"
    yield ""
    rows = [
        (code(_action(each)), code(_default(each.default)), _help(each, parser)) for each in actions
    ]
    yield from table(("Argument or option", "Default", "Meaning"), rows)


def _action(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper().replace("_", "-")
    if not action.option_strings:
        return f"{value}…" if action.nargs == "+" else str(value)
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    for said in (f" (default: {action.default})", f"default: {action.default}"):
        text = text.removesuffix(said).removesuffix("; ")
    if action.choices:
        text += f" One of {', '.join(code(each) for each in action.choices)}."
    return text


# -- the HTTP API -------------------------------------------------------------------------------

HTTP_HEAD = """# HTTP reference

Every operation of `rag serve`, written by `make contract` from the application's OpenAPI document, which a
running service gives at `/openapi.json` and shows at `/docs`. [The service](../../docs/service.md) is the
guide.

Where keys are configured a request sends `Authorization: Bearer KEY`. Every failure is an `ErrorEnvelope`;
its `code` is what to act on. Which status has which codes stands [at the end](#statuses-and-error-codes).
"""


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the application with default settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    with (
        tempfile.TemporaryDirectory() as home,
        mock.patch.dict(os.environ, {**kept, "RAG_HOME": home}, clear=True),
    ):
        from rag_service.app import create_app

        document: dict[str, Any] = create_app().openapi()
    return document


def http() -> Lines:
    """Yield contract/reference/http.md."""
    document = openapi()
    schemas: dict[str, Any] = document["components"]["schemas"]
    usual = _usual_texts(document)
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method.upper(), path, operation))
    bodies = dict(
        _titled([by["requestBody"] for by in _operations(document) if "requestBody" in by])
    )
    yield HTTP_HEAD
    for tag, operations in by_tag.items():
        yield f"## {tag[0].upper()}{tag[1:]}"
        yield ""
        for method, path, operation in operations:
            yield from _operation(method, path, operation, usual)
    yield "## Requests and answers"
    yield ""
    for name, schema in sorted({**schemas, **bodies}.items()):
        if schema.get("properties"):
            yield from _model(name, schema)
    yield from _statuses(usual)


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for methods in document["paths"].values() for each in methods.values()]


def _titled(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects with a name that requests are made of; OpenAPI has them where they are used."""
    if isinstance(value, dict):
        if value.get("type") == "object" and "title" in value and "properties" in value:
            yield value["title"], value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _titled(each)


def _usual_texts(document: dict[str, Any]) -> dict[str, str]:
    """Return the description of each status that most operations share."""
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    for operation in _operations(document):
        for status, response in operation["responses"].items():
            texts[status][response["description"]] += 1
    return {status: found.most_common(1)[0][0] for status, found in sorted(texts.items())}


def _operation(
    method: str,
    path: str,
    operation: dict[str, Any],
    usual: dict[str, str],
) -> Lines:
    yield f"### {method} {path}"
    yield ""
    yield line(operation["description"])
    yield ""
    yield from table(
        ("Parameter", "In", "Type", "Meaning"),
        (
            (
                code(each["name"]),
                each["in"],
                _schema(each["schema"]),
                _text(each, each.get("required")),
            )
            for each in operation.get("parameters", [])
        ),
    )
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        shown = _schema(schema) if "title" in schema else _inline(schema)
        yield f"Takes `{kind}`: {shown}"
        yield ""
    failing = []
    for status, response in operation["responses"].items():
        if status >= "400":
            own = response["description"]
            failing.append(status if own == usual[status] else f"{status} ({own.rstrip('.')})")
            continue
        kinds = [
            f"`{kind}`: {_schema(content['schema'])}" if kind == "application/json" else f"`{kind}`"
            for kind, content in response.get("content", {}).items()
        ]
        about = "" if response["description"] == "Successful Response" else response["description"]
        yield f"- {status}: {about} {', or '.join(kinds)}".replace("  ", " ")
    if failing:
        yield f"- fails with {', '.join(sorted(failing))}"
    yield ""


def _inline(schema: dict[str, Any]) -> str:
    names = [
        f"`{name}` ({_schema(each)}{', required' if name in schema.get('required', []) else ''})"
        for name, each in schema.get("properties", {}).items()
    ]
    return ", ".join(names) or _schema(schema)


def _model(name: str, schema: dict[str, Any]) -> Lines:
    yield f"### {name}"
    yield ""
    yield line(schema.get("description"))
    yield ""
    required = schema.get("required", [])
    yield from table(
        ("Field", "Type", "Meaning"),
        (
            (code(field), _schema(each), _text(each, field in required))
            for field, each in schema["properties"].items()
        ),
    )


def _text(field: dict[str, Any], required: bool | None) -> str:
    text = line(field.get("description"))
    schema = field.get("schema", field)
    if "default" in schema and schema["default"] not in (None, "", [], {}):
        text += f" Default: {code(json.dumps(schema['default']))}."
    return ("Required. " if required else "") + text.strip()


def _schema(schema: dict[str, Any]) -> str:
    """Return a type in a few words: `string`, `list of Citation`, `integer from 1 to 100 or null`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_schema(each) for each in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(
            code(each if isinstance(each, str) else json.dumps(each)) if each != "" else "nothing"
            for each in values
        )
    if schema.get("type") == "object" and "title" in schema and "properties" in schema:
        return f"[{schema['title']}](#{schema['title'].lower()})"
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    if kind == "object" and schema.get("additionalProperties") not in (None, False, {}, True):
        return f"object of {_schema(schema['additionalProperties'])}"
    if kind == "string" and schema.get("format") == "binary":
        return "file"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {low:g} to {high:g}"
    return str(kind)


def _statuses(usual: dict[str, str]) -> Lines:
    from rag_kit.errors import CODES

    codes: dict[int, list[str]] = defaultdict(list)
    for name, each in CODES.items():
        codes[each.status].append(name)
    yield "## Statuses and error codes"
    yield ""
    yield "The [contract](../README.md#errors) tells which codes are worth another try."
    yield ""
    yield from table(
        ("Status", "Meaning", "Codes"),
        (
            (status, usual.get(str(status), ""), ", ".join(code(name) for name in names))
            for status, names in sorted(codes.items())
        ),
    )


# -- the modules --------------------------------------------------------------------------------

MODULES_HEAD = """# Dagger module reference

Every function of the modules with its arguments, written by `make contract` from what the Dagger SDK sees of
their source. [Dagger modules](../../docs/dagger.md) is the guide.

Arguments are written as on the command line; from code they have underscores: `--docs-name` is `docs_name`.
Those of a module stand before the function, `dagger call rag --docs ./papers run --query "…"`. What takes
a module's step can only be given from code. *Kept* tells how long the engine answers an equal call from
its cache.
"""


def modules() -> Lines:
    """Yield contract/reference/modules.md."""
    import dagger.mod  # noqa: F401, before the modules: they are declared with it

    yield MODULES_HEAD
    for name in (PIPELINE, *STEPS):
        project = tomllib.loads((ROOT / f"dagger/{name}/pyproject.toml").read_text())["project"]
        yield from _module(
            pkgutil.resolve_name(project["entry-points"]["dagger.mod"]["main_object"])
        )


def _module(main: Any) -> Lines:
    registered = main.__dagger_module__.get_object(main.__name__)
    constructor = registered.get_constructor()
    yield f"## {main.__name__.lower()}"
    yield ""
    yield line((main.__doc__ or "").partition("\n\n")[0])
    yield ""
    yield from _arguments("Argument of the module", constructor.parameters)
    for name, function in registered.functions.items():
        if not name:
            continue
        kind = _python_type(function.return_type)
        yield f"### {main.__name__.lower()} {name.replace('_', '-')}"
        yield ""
        kept = {"never": "never", "session": "for the session"}.get(
            function.cache_policy, function.cache_policy
        )
        yield f"{line(function.doc)} Gives a {kind}. Kept: {kept}."
        yield ""
        yield from _arguments("Argument", function.parameters)


def _arguments(head: str, parameters: dict[str, Any]) -> Lines:
    yield from table(
        (head, "Type", "Default", "Meaning"),
        (
            (
                code(f"--{name.replace('_', '-')}"),
                _python_type(each.resolved_type),
                _argument_default(each),
                each.doc,
            )
            for name, each in parameters.items()
        ),
    )


def _argument_default(parameter: Any) -> str:
    if parameter.default_path is not None:
        return f"`{parameter.default_path}` of the module's repository"
    if not parameter.is_optional:
        return "required"
    value = parameter.default_value
    return "" if value in (None, "null", '""', "[]") else f"`{str(value).strip(chr(34))}`"


def _python_type(kind: Any) -> str:
    """Return a type's name as Dagger has it: `Directory`, `string`, `list of Service`."""
    arguments = [each for each in get_args(kind) if each is not type(None)]
    if arguments and getattr(kind, "__origin__", None) is list:
        return f"list of {_python_type(arguments[0])}"
    if arguments:
        return _python_type(arguments[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(code(each.value) for each in kind)
    names = {"str": "string", "bool": "boolean", "int": "integer"}
    return names.get(kind.__name__, kind.__name__)


# -- all of it ----------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], Lines]] = {"cli.md": cli, "http.md": http, "modules.md": modules}


@cache
def page(name: str) -> str:
    """Return one page of the reference."""
    text = "\n".join(PAGES[name]())
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip() + "\n"


def check(folder: Path) -> int:
    """Print where the pages differ from the product; returns the exit code."""
    wrong = []
    for name in PAGES:
        path = folder / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = page(name)
        if old != new:
            wrong.append(str(path))
            sys.stdout.writelines(
                difflib.unified_diff(
                    old.splitlines(True), new.splitlines(True), str(path), f"{path} (product)", n=1
                )
            )
    if wrong:
        print(f"out of date: {', '.join(wrong)}; {WAY_OUT}", file=sys.stderr)
    return int(bool(wrong))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help="where the pages are (default: contract/reference)",
    )
    options = parser.parse_args(arguments)
    if options.check:
        return check(options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (options.folder / name).write_text(page(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
