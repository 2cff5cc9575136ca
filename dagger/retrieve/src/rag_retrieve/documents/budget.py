"""How much a file that holds other files may unpack to: archives and mails, also inside each other."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES = 200 * 1024 * 1024  # of all that one file holds, unpacked
MAX_MEMBERS = 5000
MAX_DEPTH = 4  # a zip in a mail in a zip


@dataclass
class Budget:
    """What may still be unpacked of one file; shared by all that is in it."""

    bytes: int = MAX_BYTES
    members: int = MAX_MEMBERS
    depth: int = MAX_DEPTH
