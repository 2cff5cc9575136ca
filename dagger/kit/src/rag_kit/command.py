"""A step as a command: one request from a file to a file, or the resident server."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path

import pydantic_core

from .errors import StepError, dump_error, error_of
from .handler import Handler, OpenStep


def open_later(package: str) -> OpenStep:
    """Return `open_step` of a step's `wire.py`, imported at its first call: a server listens before that."""

    def open_step() -> AbstractContextManager[Handler]:
        opened: AbstractContextManager[Handler] = import_module(f"{package}.wire").open_step()
        return opened

    return open_step


def command(
    step: str,
    prog: str,
    about: str,
    open_step: OpenStep,
    argv: list[str] | None = None,
    *,
    verbs: tuple[str, ...] = ("run",),
) -> int:
    """Run the step's command line; returns the exit code (0, 1 error envelope written, 2 usage).

    `--input in.json --output out.json` answers one request; `-` is standard input or output.
    `serve` keeps the step resident behind HTTP, with one POST route per verb.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=about, epilog=f"`{prog} serve --help` tells how to keep it running."
    )
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["serve"]:
        parser = argparse.ArgumentParser(
            prog=f"{prog} serve",
            description=f"Keep the step resident: {', '.join(f'POST /{verb}' for verb in verbs)}, "
            f"GET /healthz, GET /readyz. {about}",
        )
        parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8080, help="port (default: %(default)s)")
        options = parser.parse_args(arguments[1:])
        from rag_kit.server import serve

        return serve(open_step, step=step, host=options.host, port=options.port, verbs=verbs)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="request JSON, - for standard input"
    )
    parser.add_argument(
        "--output", default="-", metavar="FILE", help="response JSON (default: standard output)"
    )
    options = parser.parse_args(arguments)
    try:
        raw = sys.stdin.buffer.read() if options.input == "-" else Path(options.input).read_bytes()
    except OSError as error:
        print(f"{prog}: cannot read --input {options.input}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        with open_step() as handler:
            text = handler(raw)
    except StepError as error:
        text = dump_error(error, step=step)
    try:
        _write(options.output, text)
    except OSError as error:
        print(f"{prog}: cannot write --output {options.output}: {error.strerror}", file=sys.stderr)
        return 2
    failed = error_of(pydantic_core.from_json(text))
    if failed:
        print(f"{prog}: {failed['code']}: {failed['message']}", file=sys.stderr)
    return 1 if failed else 0


def _write(target: str, text: str) -> None:
    if target == "-":
        print(text)
        return
    path = Path(target)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
