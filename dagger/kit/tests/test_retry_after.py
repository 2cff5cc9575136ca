from __future__ import annotations

import email.utils
import time

import pytest

from rag_kit.retry_after import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0.25", 0.25), ("-5", 0.0), ("61", 60.0), ("nan", None), ("inf", None),
        ("soon", None), (email.utils.formatdate(1_000_030, usegmt=True), 30.0),
        (email.utils.formatdate(999_000, usegmt=True), 0.0), (None, None),
    ],
)  # fmt: skip
def test_the_wait_a_server_asks_for(
    value: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number or a date; capped at a minute; nonsense is no wait."""
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)

    assert retry_after(value) == seconds
