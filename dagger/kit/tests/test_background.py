"""The loop that coroutines run on beside plain code."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from rag_kit.background import BackgroundLoop


def test_closing_cancels_what_runs_and_only_then_closes_its_client() -> None:
    """A connection that comes up in a closed client would stay open."""
    seen: list[str] = []
    begun = threading.Barrier(4)

    async def call() -> None:
        try:
            await asyncio.to_thread(begun.wait)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # a cancelled connection takes a turn to end
            seen.append("call ended")

    async def close_client() -> None:
        seen.append("client closed")

    background = BackgroundLoop("test")
    calls = [background.submit(call()) for _ in range(3)]
    begun.wait(10)
    background.close(close_client)
    background.close(close_client)  # twice is fine

    assert seen == ["call ended"] * 3 + ["client closed"]
    assert background.closed
    for each in calls:
        with pytest.raises(CancelledError):
            each.result()
