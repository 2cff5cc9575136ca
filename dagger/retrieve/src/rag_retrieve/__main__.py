"""`python -m rag_retrieve`: the step as a command and as a resident server."""

import argparse
import sys
from pathlib import Path

from rag_kit.command import command, open_later
from rag_kit.errors import StepError, dump_error

PROG = "python -m rag_retrieve"


def index(arguments: list[str]) -> int:
    """Bring files and folders into a collection; prints the report, or the error envelope."""
    parser = argparse.ArgumentParser(
        prog=f"{PROG} index",
        description="Bring files and folders into a collection under $RAG_HOME; unchanged "
        "documents compute no embedding.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files and folders")
    parser.add_argument("--collection", default="default", help="default: %(default)s")
    parser.add_argument(
        "--prune", action="store_true", help="delete documents whose file is gone from the folder"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that embed and write, on Ray (RAY_ADDRESS: a cluster); needs Qdrant and the "
        "extra bulk; default: %(default)s",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there, too")
    options = parser.parse_args(arguments)
    from .retriever import Retriever

    try:
        with Retriever.open() as retriever:
            report = retriever.ingest(
                options.paths,
                collection=options.collection,
                prune=options.prune,
                workers=options.workers,
                progress=lambda at: print(
                    f"{at.done}/{at.total} {at.document_id}", file=sys.stderr
                ),
            )
    except StepError as error:
        text = dump_error(error, step="retrieve")
        failures = [f"{PROG} index: {error.code}: {error.message}"]
    else:
        text = report.model_dump_json()
        failures = [f"{each.document_id}: {each.code}: {each.message}" for each in report.failed]
        for each in report.warnings:
            print(f"{each.document_id}: warning: {each.message}", file=sys.stderr)
        for left in report.skipped:
            print(f"not read: {left.files} {left.ending} ({left.reason})", file=sys.stderr)
    print(text)
    if options.report:
        options.report.write_text(text + "\n", encoding="utf-8")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def main(arguments: list[str]) -> int:
    """Run `index`, `serve`, or answer one request."""
    if arguments[:1] == ["index"]:
        return index(arguments[1:])
    about = (
        "Find passages for a question in a collection under $RAG_HOME; "
        f"`{PROG} index --help` tells how to bring documents in."
    )
    return command("retrieve", PROG, about, open_later("rag_retrieve"), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
