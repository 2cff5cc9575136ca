"""Forms in which an address is smuggled to a program that fetches: what must never be fetched.

`forms(ports)` gives over 500 different texts; each points at a loopback listener, at another
machine's private parts, or at a secret of this one.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from urllib.parse import quote

METADATA = ("169.254.169.254", "metadata.google.internal", "100.100.100.200", "[fd00:ec2::254]")
NAMES = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost.localdomain",
    "ip6-localhost",
    "loopback",
)
TRICKS = ("localtest.me", "127.0.0.1.nip.io", "spoofed.burpcollaborator.net", "1.1.1.1.xip.io")
SCHEMES = (
    "http",
    "https",
    "HTTP",
    "ftp",
    "gopher",
    "dict",
    "ldap",
    "tftp",
    "sftp",
    "ws",
    "jar:http",
)
SECRETS = (
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///proc/self/environ",
    "file:/etc/passwd", "file:\\\\\\etc\\passwd", "\\\\127.0.0.1\\share\\x", "env://RAG_LLM_API_KEY",
    "env:RAG_LLM_API_KEY", "cmd://touch PWNED", "cmd://id", "op://vault/item/key",
    "vault://secret/key", "data:text/html,<script>x</script>", "netdoc:///etc/passwd",
    "php://filter/resource=/etc/passwd", "expect://id", "$(touch PWNED)", "`touch PWNED`",
    "${RAG_LLM_API_KEY}", "%(RAG_LLM_API_KEY)s", "/etc/passwd", "../../../../etc/passwd",
    "unix:///var/run/docker.sock", "docker-image://x", "git+ssh://127.0.0.1/x.git",
)  # fmt: skip
FULLWIDTH = str.maketrans("0123456789.", "".join(map(chr, [*range(0xFF10, 0xFF1A), 0xFF0E])))
CIRCLED = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")


def hosts() -> list[str]:
    """127.0.0.1, ::1 and the metadata addresses in every spelling some parser takes."""
    quads = ([127, 0, 0, 1], [127, 1, 2, 3], [0, 0, 0, 0], [169, 254, 169, 254])
    return list(dict.fromkeys(chain(*map(_spellings, quads), _six(), NAMES, METADATA, TRICKS)))


def _spellings(parts: Sequence[int]) -> Iterator[str]:
    number = int.from_bytes(bytes(parts))
    plain = ".".join(map(str, parts))
    yield from (plain, f"{plain}.", plain.translate(FULLWIDTH), plain.translate(CIRCLED))
    yield plain.replace(".", "。")
    yield from (
        str(number),
        hex(number),
        f"0{number:o}",
        f"{number:#x}".upper(),
        str(number + 2**32),
    )
    yield from (".".join(map(hex, parts)), ".".join(f"0{part:o}" for part in parts))
    yield from (
        ".".join(f"{part:04o}" for part in parts),
        ".".join(f"{part:08x}" for part in parts),
    )
    yield from (
        f"{parts[0]}.{int.from_bytes(bytes(parts[1:]))}",
        f"{parts[0]}.{parts[1]}.{parts[3]}",
    )
    yield from (f"{parts[0]:#x}.{parts[1]}.0{parts[2]:o}.{parts[3]}", plain.replace(".", "%2e"))
    yield from (
        f"[::ffff:{plain}]",
        f"[0:0:0:0:0:ffff:{plain}]",
        f"[::{plain}]",
        f"[64:ff9b::{plain}]",
    )
    high, low = number >> 16, number & 0xFFFF
    yield from (
        f"[::ffff:{high:x}:{low:x}]",
        f"[::FFFF:{high:04X}:{low:04X}]",
        f"[2002:{high:x}:{low:x}::]",
    )


def _six() -> Iterator[str]:
    yield from ("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]")
    yield from ("[::1%25lo]", "[::1%lo]", "[fe80::1%25lo]", "[fd00::1]", "[::0:1]", "[0::1]")


def forms(ports: Sequence[int]) -> list[str]:
    """Return the corpus.

    Args:
        ports: Where listeners wait, to be seen when one of them is reached.
    """
    port = ports[0]
    target = f"127.0.0.1:{port}"
    plain = [f"http://{host}:{ports[at % len(ports)]}/hit" for at, host in enumerate(hosts())]
    bare = [f"{host}:{port}" for host in hosts()]
    schemes = [f"{scheme}://{host}/hit" for scheme in SCHEMES for host in (target, f"[::1]:{port}")]
    users = [
        f"http://{user}@{target}/hit"
        for user in (
            "a",
            "a:b",
            "example.com",
            "example.com:80",
            "example.com%00",
            "example.com%20",
        )
    ]
    confused = [
        f"http://example.com\\@{target}/", f"http://{target}\\@example.com/", f"http://{target}#@example.com/",
        f"http://{target}?@example.com/", f"http://{target};@example.com/", f"http:{target}/hit",
        f"http:/{target}/hit", f"//{target}/hit", f"/\\{target}/hit",
        f"\\\\{target}\\hit", f"http:\\\\{target}\\hit",
        f"http:///{target}/hit", f"http://{target}/redirect?to=http://{target}/hit", f" http://{target}/hit",
        f"http://{target}/\r\nHost: x", f"http://{target}%0d%0aX: y", f"\thttp://{target}/hit", f"ht\ntp://{target}/",
        f"url:http://{target}/hit", f"http://{target}/hit?x=1&y=http://[::1]:{port}/", f"http://0/{port}", f"http://0:{port}/hit",
        f"feed:http://{target}/hit", f"view-source:http://{target}/hit", f"blob:http://{target}/hit", f"http://@{target}/hit",
        f"http://{target}@{target}/hit", f"http://xn--127-0-0-1.{target}/", f"gopher://{target}/_GET%20/hit", f"dict://{target}/d:x",
    ]  # fmt: skip
    encoded = [quote(one, safe="") for one in plain] + [
        quote(quote(one, safe=""), safe="") for one in plain[:40]
    ]
    coded = [base64.b64encode(one.encode()).decode() for one in plain[:20]]
    found = [*plain, *bare, *schemes, *users, *confused, *encoded, *coded, *SECRETS]
    return list(dict.fromkeys(found))


def files(url: str) -> dict[str, bytes]:
    """Return documents of every kind that would have a careless reader fetch this URL."""
    entity = f'<!DOCTYPE x [<!ENTITY % p SYSTEM "{url}"> %p; <!ENTITY e SYSTEM "{url}">]>'
    html = (
        f'<html><head><base href="{url}"><link rel="stylesheet" href="{url}">'
        f'<meta http-equiv="refresh" content="0;url={url}"><script src="{url}"></script></head>'
        f'<body background="{url}"><p>Some words of a page.</p><img src="{url}" srcset="{url} 2x">'
        f'<iframe src="{url}"></iframe><object data="{url}"></object><embed src="{url}">'
        f'<video src="{url}" poster="{url}"></video><svg><image href="{url}"/><use href="{url}#x"/></svg>'
        f'<form action="{url}"></form><a href="{url}" ping="{url}">a link</a></body></html>'
    )
    svg = f'{entity}<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/>&e; words</svg>'
    return {
        "page.html": html.encode(),
        "xhtml.html": (f'<?xml version="1.0"?>{entity}{html}<p>&e;</p>').encode(),
        "note.md": (
            f"---\nurl: {url}\nsource: {url}\n---\n# Note\n\n![x]({url}) [a]({url}) <{url}>\n\n"
            f'<img src="{url}">\n\n[r]: {url}\n\n{{% include "{url}" %}}\n'
        ).encode(),
        "note.rst": f"Note\n====\n\n.. include:: {url}\n\n.. image:: {url}\n\nwords\n".encode(),
        "rows.csv": f'name,url\na,{url}\nb,"=WEBSERVICE(""{url}"")"\nc,"=IMPORTXML(""{url}"")"\n'.encode(),
        "rows.jsonl": (
            json.dumps({"id": "1", "text": f"words {url}", "url": url, "$ref": url}) + "\n"
        ).encode(),
        "image.svg": svg.encode(),
        "image.html": f"<body>{svg}</body>".encode(),
        "link.pdf": pdf(url),
        "outside.docx": docx(url),
        "entity.docx": docx(url, entity=entity),
    }


def pdf(url: str) -> bytes:
    """Return a PDF whose actions, annotation and external stream name the URL."""
    safe = url.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    objects = [
        f"<</Type/Catalog/Pages 2 0 R/OpenAction<</S/URI/URI({safe})>>/AA<</WC<</S/Launch/F({safe})>>>>>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>"
        "/XObject<</X 6 0 R>>>>"
        f"/Annots[<</Type/Annot/Subtype/Link/Rect[0 0 9 9]/A<</S/URI/URI({safe})>>>>]>>",
        "<</Length 44>>\nstream\nBT /F1 12 Tf 20 100 Td (Words of a page) Tj ET\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        "<</Type/XObject/Subtype/Image/Width 1/Height 1/Length 0"
        f"/F<</FS/URL/F({safe})>>>>\nstream\n\nendstream",
    ]  # fmt: skip
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, text in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{text}\nendobj\n".encode("utf-8", "replace"))
    start = out.tell()
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{rows}".encode())
    out.write(f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF".encode())
    return out.getvalue()


def docx(url: str, *, entity: str = "") -> bytes:
    """Return a Word document whose relationships (and entities) name the URL."""
    from xml.sax.saxutils import quoteattr

    said = quoteattr("".join(letter for letter in url if letter >= " "))
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    outside = "".join(
        f'<Relationship Id="r{at}" Type="{office}/{kind}" Target={said} TargetMode="External"/>'
        for at, kind in enumerate(("attachedTemplate", "image", "hyperlink", "oleObject", "frame"))
    )
    parts = {
        "[Content_Types].xml": f'<?xml version="1.0"?><Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{main}"/></Types>',
        "_rels/.rels": f'<?xml version="1.0"?><Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="a" Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": '<?xml version="1.0"?>'
        f'<Relationships xmlns="{package}/relationships">{outside}</Relationships>',
        "word/document.xml": f'<?xml version="1.0"?>{entity}<w:document xmlns:w='
        '"http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>'
        f"<w:t>Words of a page{' &e;' if entity else ''}</w:t></w:r></w:p></w:body></w:document>",
    }  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()
