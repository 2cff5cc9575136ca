"""`python -m rag_augment`: the step as a command and as a server."""

import sys

from rag_kit.command import command, open_later

if __name__ == "__main__":
    sys.exit(
        command(
            "augment",
            "python -m rag_augment",
            "Build a prompt from passages.",
            open_later("rag_augment"),
        )
    )
