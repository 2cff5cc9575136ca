"""Limit the size of request headers; httptools has no limit."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_BYTES = 64 * 1024
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class HeaderLimit(HttpToolsProtocol):
    """Closes a connection whose request line and headers exceed `MAX_BYTES`.

    One read of the socket is parsed as it comes, so that a little more may pass.
    """

    _complete = True  # whether the headers have ended
    _size = 0  # bytes of them so far

    def on_message_begin(self) -> None:
        """Start to count."""
        super().on_message_begin()
        self._complete, self._size = False, 0

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._complete = True
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse with 431 when the headers are too large."""
        super().data_received(data)
        if not self._complete and not self.transport.is_closing():
            self._size += len(data)
            if self._size > MAX_BYTES:
                self.transport.write(REFUSAL)
                self.transport.close()
