"""`rag sync https://…`: a loopback site, friendly and hostile."""

from __future__ import annotations

import gzip
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from site_double import Page, Site, serving
from sync_kit import ids, plan, sync

from rag_kit.errors import StepError
from rag_retrieve import Retriever
from rag_retrieve.sources import Access, open_source
from rag_retrieve.sources.web import addresses
from rag_retrieve.sources.web.addresses import refusal, resolve

OPEN = Access(private=True, delay_s=0.0)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site of three pages that lead to each other, and pauses that take no time."""
    monkeypatch.setattr("rag_retrieve.sources.web.fetch.PAUSE_S", 0.0)
    with serving() as double:
        double.page("/docs/", "The board signs contracts.", "a", "/docs/b.html#x", "/elsewhere")
        double.page("/docs/a", "Bring a pen to the signing.", "/docs/", "deep/c?x=1")
        double.page("/docs/b.html", "Holidays are granted by the lead.", "https://example.com/")
        double.page("/docs/deep/c?x=1", "A third page about badges.")
        double.page("/elsewhere", "Not below the address.")
        yield double


def names(site: Site, *paths: str) -> list[str]:
    """Return ids of documents of the site."""
    return [f"127.0.0.1/{path}" for path in paths]


ALL = ("docs/a.html", "docs/b.html", "docs/deep/c?x=1.html", "docs/index.html")


def test_a_site_is_followed_below_its_address(retriever: Retriever, site: Site) -> None:
    """Pages get ids with an ending and carry their address; what lies elsewhere is not requested."""
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)
    metadata = retriever.document("default", "127.0.0.1/docs/deep/c?x=1.html").metadata

    assert report.added == sorted(names(site, *ALL))
    assert sorted(site.requests()) == ["/docs/", "/docs/a", "/docs/b.html", "/docs/deep/c?x=1"]
    assert metadata["source_url"] == f"{site.url}/docs/deep/c?x=1"


def test_only_changed_pages_are_sent_and_embedded(retriever: Retriever, site: Site) -> None:
    """Every page is asked for on condition; a new one behind an unchanged one is found; a lost one goes."""
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    again = sync(retriever, f"{site.url}/docs/", access=OPEN)
    unchanged = list(site.unchanged)
    site.page("/docs/a", "Bring two pens to the signing.", "new")
    site.page("/docs/new", "A new page.")
    last = sync(retriever, f"{site.url}/docs/", access=OPEN, prune=True)

    assert (again.embeddings, len(again.unchanged), len(unchanged)) == (0, 4, 4)
    assert last.updated == names(site, "docs/a.html")
    assert last.added == names(site, "docs/new.html")
    assert last.deleted == names(site, "docs/deep/c?x=1.html")


def test_a_page_that_is_gone_is_deleted_only_with_prune(retriever: Retriever, site: Site) -> None:
    """404 is gone; 500 is not."""
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    site.pages["/docs/a"] = Page(status=500)
    broken = sync(retriever, f"{site.url}/docs/", access=OPEN, prune=True)
    del site.pages["/docs/a"]
    kept = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert [one.document_id for one in broken.failed] == names(site, "docs/a")
    assert "127.0.0.1/docs/a.html" in ids(retriever)
    assert "127.0.0.1/docs/a.html" in kept.missing


def test_a_site_that_changes_its_tags_but_not_its_pages_costs_nothing(
    retriever: Retriever, site: Site
) -> None:
    """The bytes decide; the new tags are remembered for the next time."""
    for page in site.pages.values():
        page.headers["last-modified"] = "Mon, 05 Jan 2026 10:00:00 GMT"
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    for page in site.pages.values():
        page.headers["last-modified"] = "Tue, 06 Jan 2026 10:00:00 GMT"
        page.conditional = False
    planned = plan(retriever, f"{site.url}/docs/", access=OPEN)
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert (planned.changed, len(planned.unchanged)) == ([], 4)
    assert (report.updated, report.embeddings) == ([], 0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_sitemap_says_which_pages_there_are(
    retriever: Retriever, site: Site, packed: bool
) -> None:
    """Through an index, packed or not; links are not followed, other sites not asked."""
    ending = ".xml.gz" if packed else ".xml"
    site.sitemap("/sitemap.xml", f"{site.url}/sitemap-1{ending}", "/sitemap.xml", index=True)
    site.sitemap(
        f"/sitemap-1{ending}", f"{site.url}/docs/b.html", f"{site.url}/elsewhere",
        "http://169.254.169.254/docs/x", "http://[", packed=packed,
    )  # fmt: skip
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert report.added == names(site, "docs/b.html")
    assert site.requests() == ["/docs/b.html"]


def test_bad_sitemaps_are_told_and_links_are_followed(retriever: Retriever, site: Site) -> None:
    """Named by robots.txt, each is worth a warning; nothing of a file on this machine is read."""
    entity = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset><url><loc>&a;</loc></url></urlset>'
    without_pages = (b"<urlset><url><loc>", entity)
    broken = (
        *(b"this is no XML", b"\x1f\x8bbroken", gzip.compress(b" " * (51 * 2**20))),
        *(b"<html><body>Not found</body></html>", b""),
    )
    for number, text in enumerate((*without_pages, *broken)):
        site.pages[f"/sitemap-{number}.xml"] = Page(text)
    lines = "".join(f"Sitemap: /sitemap-{number}.xml\n" for number in range(8))
    site.pages["/robots.txt"] = Page(f"{lines}Sitemap: http://[\n".encode())
    planned = plan(retriever, f"{site.url}/docs/", access=OPEN)

    assert planned.added == sorted(names(site, *ALL))
    told = [number for number in range(8) if any(f"-{number}.xml" in w for w in planned.warnings)]
    assert told == [2, 3, 4, 5, 6, 7]


def test_sitemaps_without_end_are_left(
    retriever: Retriever, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that names ever more indexes costs a bounded number of requests."""
    monkeypatch.setattr("rag_retrieve.sources.web.sitemaps.MAX_FILES", 5)
    for n in range(9):
        site.sitemap(f"/sitemap{n or ''}.xml", f"{site.url}/sitemap{n + 1}.xml", index=True)
    planned = plan(retriever, f"{site.url}/docs/", access=OPEN)

    assert sum("sitemap" in path for path in site.asked) == 5
    assert any("more than 5 sitemaps" in one for one in planned.warnings)


def test_robots_txt_is_obeyed(retriever: Retriever, site: Site) -> None:
    """Rules with wildcards count; what was brought before a rule came is kept."""
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    site.requests()
    site.pages["/robots.txt"] = Page(
        b"User-agent: *\nDisallow: /docs/*.html$\nDisallow: /docs/deep\n"
    )
    report = sync(retriever, f"{site.url}/docs/", access=OPEN, prune=True)

    assert sorted(site.requests()) == ["/docs/", "/docs/a"]
    assert len(report.failed) == 2 and all("robots.txt" in one.message for one in report.failed)
    assert (report.deleted, len(ids(retriever))) == ([], 4)


@pytest.mark.parametrize("status", [500, 503])
def test_a_robots_txt_that_fails_means_that_nothing_is_read(
    retriever: Retriever, site: Site, status: int
) -> None:
    """RFC 9309, section 2.3.1.4."""
    site.pages["/robots.txt"] = Page(status=status)
    with pytest.raises(StepError, match="robots"):
        sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert site.requests() == []


def test_pages_say_themselves_whether_they_are_kept(retriever: Retriever, site: Site) -> None:
    """`noindex` and `nofollow`, as a tag, a header, or of a link."""
    site.page("/docs/a", "Hidden.", "deep/c?x=1", x_robots_tag="noindex")
    text = '<meta name="robots" content="nofollow"><p>Kept.</p><a href="trap">x</a>'
    site.pages["/docs/b.html"] = Page(text.encode(), headers={"content-type": "text/html"})
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert report.added == names(site, "docs/b.html", "docs/deep/c?x=1.html", "docs/index.html")
    assert "/docs/trap" not in site.requests()


def test_links_without_end_are_bounded(retriever: Retriever, site: Site) -> None:
    """By pages and by depth; a run that stopped at a bound deletes nothing."""
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    for n in range(30):
        site.page(f"/docs/{n}", f"Day {n}.", f"{n + 1}")
    site.page("/docs/", "The board signs contracts.", "0")
    few = sync(retriever, f"{site.url}/docs/", access=replace(OPEN, max_pages=5), prune=True)
    near = plan(retriever, f"{site.url}/docs/", access=replace(OPEN, depth=3))

    assert any("--max-pages" in note for note in few.notes)
    assert few.deleted == []
    assert [one for one in near.added if one.endswith("/3.html")] == []


def test_an_endless_page_is_cut_off(
    retriever: Retriever, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs at most the limit of a document, and only itself."""
    monkeypatch.setattr("rag_retrieve.sources.web.site.MAX_DOCUMENT_BYTES", 100_000)
    site.pages["/docs/a"] = Page(None)
    bomb = gzip.compress(b"<p>" + b"x" * 5_000_000)
    packed = {"content-type": "text/html", "content-encoding": "gzip"}
    site.pages["/docs/b.html"] = Page(bomb, headers=packed)
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert report.added == names(site, "docs/index.html")
    assert all("more than 100000 bytes" in one.message for one in report.failed)
    assert len(report.failed) == 2


def test_the_charset_of_the_header_counts(retriever: Retriever, site: Site) -> None:
    """Windows-1251 without a tag is Russian; a charset that does not exist changes nothing."""
    text = "<p>Совет подписывает договоры.</p>"
    headers = {"content-type": "text/html; charset=windows-1251"}
    site.pages["/docs/a"] = Page(text.encode("cp1251"), headers=headers)
    site.pages["/docs/b.html"] = Page(
        "<p>Größe.</p>".encode(), headers={"content-type": "text/html; charset=x"}
    )
    sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert "Совет подписывает" in retriever.document("default", "127.0.0.1/docs/a.html").text
    assert "Größe" in retriever.document("default", "127.0.0.1/docs/b.html").text


def test_documents_of_other_formats_are_read_by_their_type(
    retriever: Retriever, site: Site
) -> None:
    """By ending or media type; images and scripts are not requested."""
    site.page("/docs/", "Start.", "plain", "data.csv", "logo.png", "film.mp4", "odd", "v1.2")
    site.pages["/docs/plain"] = Page(b"Plain text.", headers={"content-type": "text/plain"})
    site.pages["/docs/data.csv"] = Page(b"name,age\nAnn,3\n", headers={"content-type": "text/csv"})
    site.pages["/docs/odd"] = Page(b"\0\1", headers={"content-type": "application/octet-stream"})
    site.page("/docs/v1.2", "Release notes.")
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert report.added == names(
        site, "docs/data.csv", "docs/index.html", "docs/plain.txt", "docs/v1.2.html"
    )
    assert {"/docs/logo.png", "/docs/film.mp4"}.isdisjoint(site.requests())


# -- hostile ------------------------------------------------------------------------------


ELSEWHERE = (
    *("http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/x", "http://localhost/x"),
    *("//[::1]/x", "http://2130706433/x", "http://0x7f.1/x", "file:///etc/passwd", "ftp://x/y"),
    *("http://user@127.0.0.1/", "http://[", "gopher://127.0.0.1:6379/_", "http://example.com/"),
)


def test_threat_sync_request_forgery_by_redirect(
    retriever: Retriever, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is refused with the reason, and nothing but the site is connected to."""
    connected: set[Any] = set()
    original = socket.create_connection

    def connect(address: Any, *rest: Any, **more: Any) -> socket.socket:
        connected.add(address)
        return original(address, *rest, **more)

    monkeypatch.setattr(socket, "create_connection", connect)
    site.page("/docs/", "Start.", *(f"r{number}" for number in range(len(ELSEWHERE))))
    for number, target in enumerate(ELSEWHERE):
        site.redirect(f"/docs/r{number}", target)
    planned = plan(retriever, f"{site.url}/docs/", access=OPEN)

    assert len(planned.refused) == len(ELSEWHERE)
    assert all("redirects" in one.message for one in planned.refused)
    assert {f"http://{host}:{port}" for host, port in connected} == {site.url}


def test_redirects_on_the_site_are_followed_a_few_times(retriever: Retriever, site: Site) -> None:
    """The page has the id of where it stands; a circle is refused."""
    site.redirect("/docs/a", "/docs/moved", 301)
    site.page("/docs/moved", "Here it is.")
    site.redirect("/docs/b.html", "/docs/b.html")
    report = sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert "127.0.0.1/docs/moved.html" in report.added
    assert [one.message for one in report.failed] == ["it redirects more than 5 times"]


def test_without_private_nothing_of_this_machine_is_read(retriever: Retriever, site: Site) -> None:
    """Not one request is sent; the error names the option."""
    with pytest.raises(StepError, match="--private") as failed:
        plan(retriever, f"{site.url}/docs/", access=Access(delay_s=0.0))

    assert failed.value.code == "target_not_allowed"
    assert site.asked == []


def test_threat_sync_request_forgery_by_name(
    retriever: Retriever, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request goes to the address that was checked for it, with the name in `Host`."""
    port = int(site.url.rpartition(":")[2])
    answers = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "169.254.169.254"]
    original = socket.getaddrinfo

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        if host != "wiki.test":
            return original(host, *rest, **more)
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", lookup)
    with pytest.raises(StepError, match=r"wiki.test is at 169\.254\.169\.254") as failed:
        plan(retriever, f"http://wiki.test:{port}/docs/", access=OPEN)

    assert failed.value.code == "target_not_allowed"
    assert site.hosts == {f"wiki.test:{port}"}


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "localhost"),
        *("::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("10.0.0.1", "172.16.5.5", "192.168.1.1", "100.64.0.1", "fd00::1", "fe80::1", "169.254.169.254"),
        *("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "224.0.0.1", "ff02::1", "240.0.0.1"),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_networks_are_refused(host: str) -> None:
    """In every notation that a resolver understands."""
    with pytest.raises(StepError) as failed:
        resolve(host, 80, private=False)

    assert failed.value.code == "target_not_allowed"


@pytest.mark.parametrize(
    ("address", "private", "allowed"),
    [
        *(("93.184.216.34", False, True), ("2606:2800:220:1::1", False, True)),
        *(("10.0.0.1", True, True), ("127.0.0.1", True, True), ("fd00::1", True, True)),
        *(("::ffff:10.0.0.1", True, True), ("100.64.0.1", True, True)),
        *(("169.254.169.254", True, False), ("fe80::1", True, False), ("0.0.0.0", True, False)),
        *(("::ffff:169.254.169.254", True, False), ("64:ff9b::a9fe:a9fe", True, False)),
        *(("fd00:ec2::254", True, False), ("100.100.100.200", True, False), ("224.0.0.1", True, False)),
    ],
)  # fmt: skip
def test_private_networks_are_allowed_on_request_and_metadata_never(
    address: str, private: bool, allowed: bool
) -> None:
    """Also as the IPv4 address in an IPv6 one."""
    assert (refusal(ipaddress.ip_address(address), private) is None) == allowed


@pytest.mark.parametrize("code", [404, 403, 500])
def test_fault_source_unavailable_changes_nothing(
    retriever: Retriever, site: Site, code: int
) -> None:
    """Not even with --prune."""
    sync(retriever, f"{site.url}/docs/", access=OPEN)
    site.pages["/docs/"] = Page(status=code)
    with pytest.raises(StepError, match=f"HTTP {code}"):
        sync(retriever, f"{site.url}/docs/", access=OPEN, prune=True)

    assert len(ids(retriever)) == 4


def test_a_site_that_ends_in_the_middle_changes_nothing(
    retriever: Retriever, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pages in a row that cannot be reached are a site that is down."""
    site.sitemap("/sitemap.xml", *(f"{site.url}/docs/{n}" for n in range(9)))
    for n in range(9):
        site.pages[f"/docs/{n}"] = Page(b"x", headers={"content-encoding": "br"})
    with pytest.raises(StepError, match="nothing was changed"):
        sync(retriever, f"{site.url}/docs/", access=OPEN)

    assert retriever.collections() == []


@pytest.mark.parametrize(
    "address", ["https://", "http:///x", "https://me:secret@example.com/", "http://[::1"]
)
def test_an_address_that_names_no_site_is_refused(address: str) -> None:
    """Without its password."""
    with pytest.raises(StepError, match="https://HOST/PATH") as failed:
        open_source(address, kind="web")

    assert "secret" not in failed.value.message
