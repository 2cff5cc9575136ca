"""A limit for request lines and headers, which the HTTP parser has not."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_BYTES = 64 * 1024
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request line and headers do not end within 64 KiB.

    What comes in one read of the socket is not cut, so that a little more may pass.
    """

    _whole = True  # whether no head is being read
    _read = 0

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        self._whole, self._read = False, 0

    def on_headers_complete(self) -> None:
        """Note that it ended."""
        self._whole = True
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the head is not too large."""
        super().data_received(data)
        if not self._whole and not self.transport.is_closing():
            self._read += len(data)
            if self._read > MAX_BYTES:
                self.transport.write(REFUSAL)
                self.transport.close()
