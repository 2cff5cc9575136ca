"""The real Superlinked server as a process, from its own environment."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def superlinked_process(python: Path) -> Iterator[str]:
    """Run `python -m rag_superlinked serve` in memory on a free port; give its URL as it listens."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    with subprocess.Popen(
        [python, "-m", "rag_superlinked", "serve", "--port", "0"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            if found := re.search(r"running on (http://\S+)", line):
                break
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            assert found, "the server did not start"
            yield found[1]
        finally:
            process.terminate()
            drain.join()
