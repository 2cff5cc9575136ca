"""`python -m rag_retrieve`: the step as a command and as a resident server."""

import sys

from .shapes import command
from .wire import open_step

if __name__ == "__main__":
    sys.exit(
        command(
            "retrieve",
            "python -m rag_retrieve",
            "Find passages for a question in a collection under $RAG_HOME.",
            open_step,
        )
    )
