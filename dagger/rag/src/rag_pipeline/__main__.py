"""The composite as a command and as a server."""

from __future__ import annotations

import sys

from .shapes import command
from .wire import open_step

ABOUT = "Answer a question from your documents, with citations: retrieve, augment, generate."

if __name__ == "__main__":
    sys.exit(command("rag", "python -m rag_pipeline", ABOUT, open_step))
