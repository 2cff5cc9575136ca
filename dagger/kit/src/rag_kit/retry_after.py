"""Read the header Retry-After of a server that refuses a request for now."""

from __future__ import annotations

import email.utils
import math
import time

MAX_RETRY_AFTER_S = 60.0  # seconds; longer waits are capped


def is_soon(wait: float | None) -> bool:
    """Whether a server's wait is unknown or short: after a capped one, a retry would be too early."""
    return wait is None or wait < MAX_RETRY_AFTER_S


def retry_after(value: str | None) -> float | None:
    """Return the seconds of Retry-After (number or date), capped; None without a valid one."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
