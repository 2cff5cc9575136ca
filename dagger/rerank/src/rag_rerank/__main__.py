"""`python -m rag_rerank`: the step as a command and as a server."""

import sys

from rag_kit.command import command, open_later

if __name__ == "__main__":
    sys.exit(
        command("rerank", "python -m rag_rerank", "Rank passages again.", open_later("rag_rerank"))
    )
