"""`python -m rag_generate`: the step as a command and as a server."""

import sys

from rag_kit.command import command, open_later

if __name__ == "__main__":
    sys.exit(
        command(
            "generate",
            "python -m rag_generate",
            "Answer a prompt over numbered passages.",
            open_later("rag_generate"),
        )
    )
