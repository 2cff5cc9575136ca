"""Behind a real nginx that ends TLS and puts a prefix before the service's paths."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from service_kit import QUESTION, copy_home, free_port, serving, settings

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="no nginx (Debian: apt-get install nginx-light)"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, for a certificate"),
]
PREFIX = "/tools/rag"
# What docs/service.md shows, in a configuration of its own.
CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off; client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location {prefix}/ {{
      proxy_pass {upstream};
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      {forwarded}
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxied:
    """A service behind nginx.

    Args:
        url: Of the page, with a slash at the end.
        context: Trusts nginx's certificate.
    """

    url: str
    context: ssl.SSLContext

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.context, trust_env=False, timeout=60)


def certificate(folder: Path) -> ssl.SSLContext:
    """Make a certificate of 127.0.0.1; returns who trusts it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


def until_it_listens(port: int, nginx: subprocess.Popen[bytes]) -> None:
    while nginx.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.05)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError("nginx does not start; its error.log says why")


@pytest.fixture(scope="module", params=["cut off", "kept"])
def proxied(
    request: pytest.FixtureRequest, filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    """nginx cuts the prefix off and tells it, or keeps it and the service has it configured."""
    folder = tmp_path_factory.mktemp("nginx")
    home = copy_home(filled, tmp_path_factory.mktemp("behind") / "home")
    cut_off = request.param == "cut off"
    given = settings() if cut_off else settings(root_path=PREFIX)
    context, port = certificate(folder), free_port()
    with serving(given, home=home) as upstream:
        configuration = CONFIGURATION.format(
            folder=folder,
            port=port,
            prefix=PREFIX,
            upstream=f"{upstream}/" if cut_off else upstream,
            forwarded=f"proxy_set_header X-Forwarded-Prefix {PREFIX};" if cut_off else "",
        )
        (folder / "nginx.conf").write_text(configuration)
        assert NGINX is not None
        nginx = subprocess.Popen(
            [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        )
        try:
            origin = f"https://127.0.0.1:{port}"
            until_it_listens(port, nginx)
            yield Proxied(f"{origin}{PREFIX}/", context)
        finally:
            nginx.terminate()
            nginx.wait(30)


def test_page_api_page_and_answers_are_there(proxied: Proxied) -> None:
    """What the page and `/docs` load is found behind the prefix, by the names in them."""
    with proxied.client() as client:
        page = client.get("").text
        for part in re.findall(r"""(?:src|href)=["']([^"'#]+)["']""", page):
            assert client.get(part).status_code == 200, part
        docs = client.get("docs").text
        parts = re.findall(r"""["'](/[^"']*(?:\.js|\.css|\.json))["']""", docs)
        assert len(parts) >= 3
        root = proxied.url.removesuffix(f"{PREFIX}/")
        assert {client.get(f"{root}{part}").status_code for part in parts} == {200}
        assert client.get("openapi.json").json()["servers"] == [{"url": PREFIX}]
        assert client.head("healthz").status_code == 200
        # as the page sends it: with its origin, which is nginx's
        origin = {"origin": root, "sec-fetch-site": "same-origin"}
        answer = client.post("rag_modules", json={"query": QUESTION}, headers=origin)
        assert answer.json()["answerable"]
        alone = client.post("rag_modules", json={"query": QUESTION}, headers={"origin": root})
        assert alone.status_code == 200, "an older browser sends Origin alone"
        foreign = {"origin": "https://evil.example"}
        assert client.post("rag_modules", json={"query": "x"}, headers=foreign).status_code == 403


def test_the_api_page_sends_requests_in_a_browser(proxied: Proxied) -> None:
    """A request from `/docs` reaches the service behind the prefix."""
    from page_kit import expect, launched, opened

    with (
        launched() as browser,
        opened(browser, f"{proxied.url}docs", ignore_https_errors=True) as page,
    ):
        operation = page.locator(".opblock").filter(has_text="/v1/collections").first
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        status = operation.locator(".live-responses-table .response .response-col_status")
        expect(status).to_contain_text("200")


def test_the_prefix_without_its_slash_and_mcp_with_one(proxied: Proxied) -> None:
    with proxied.client() as client:
        sent = client.get(proxied.url.rstrip("/"))
        assert sent.is_redirect
        assert str(sent.next_request and sent.next_request.url) == proxied.url
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        accept = {"accept": "application/json, text/event-stream"}
        for path in ("mcp", "mcp/"):
            assert client.post(path, json=ping, headers=accept).status_code == 200, path


def test_an_answer_comes_through_piece_by_piece(proxied: Proxied) -> None:
    with proxied.client() as client:
        with client.stream("POST", "rag_modules?stream=true", json={"query": QUESTION}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            names = [line for line in response.iter_lines() if line.startswith("event:")]
        assert names[0] == "event: search_results" and names[-1] == "event: final_answer"


def test_an_upload_is_followed_by_the_paths_it_is_told(proxied: Proxied) -> None:
    root = proxied.url.removesuffix(f"{PREFIX}/")
    with proxied.client() as client:
        files = {"files": ("roof.md", b"# Roof\n\nThe roof was mended in May.\n")}
        job = client.post("v1/documents?wait=false", files=files)
        with client.stream("GET", f"{root}{job.json()['events']}") as response:
            assert "event: report" in list(response.iter_lines())
        assert client.get(f"{root}{job.headers['location']}").json()["status"] == "done"
