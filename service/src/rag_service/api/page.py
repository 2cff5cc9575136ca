"""The pages at `/` and `/eval`: static files of this package, without build step or external resources."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent.parent / "page"
HEADERS = {"referrer-policy": "no-referrer", "x-frame-options": "DENY"}  # of every page
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def add_page(app: FastAPI) -> None:
    """Serve the pages at `/` and `/eval`, and their files under `/page/`."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return _page("index.html")

    @app.get("/eval", include_in_schema=False)
    async def evaluations() -> FileResponse:
        return _page("eval.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> FileResponse:
        return FileResponse(FOLDER / "favicon.svg", media_type="image/svg+xml")

    app.mount("/page", _Files(directory=FOLDER), name="page")


def _page(name: str) -> FileResponse:
    headers = {**HEADERS, "content-security-policy": POLICY, "cache-control": "no-cache"}
    return FileResponse(FOLDER / name, headers=headers)


class _Files(StaticFiles):
    """Files that a browser revalidates, so that an update takes effect."""

    def file_response(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response
