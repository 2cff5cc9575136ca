"""`python -m rag_superlinked serve`: the resident server."""

from __future__ import annotations

import argparse
import sys

from rag_kit.errors import StepError
from rag_kit.origins import is_loopback

from .server import application
from .settings import SuperlinkedSettings

PROG = "python -m rag_superlinked"


def main(arguments: list[str]) -> int:
    """Serve until a signal; returns the exit code."""
    import uvicorn

    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Multi-signal search with Superlinked: text, recency and category, weighted "
        "per question.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="keep the server resident",
        description="Stores on the Qdrant server of RAG_QDRANT_URL (key: RAG_QDRANT_API_KEY or "
        "RAG_QDRANT_API_KEY_FILE). Without a URL it keeps everything in memory, in Superlinked's "
        "in-memory database: empty after a restart, and then filled again by its client.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8090, help="port (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        settings = SuperlinkedSettings.read()
    except StepError as error:
        print(f"{PROG}: {error.message}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        application(settings, local=is_loopback(options.host)),
        host=options.host,
        port=options.port,
        log_level="info",
        access_log=False,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
