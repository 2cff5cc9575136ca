"""`rag sync s3://…`: a bucket on a loopback double that checks signatures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from s3_double import S3Double, running
from sync_kit import ids, plan, sync

from rag_kit.errors import StepError
from rag_retrieve import Retriever
from rag_retrieve.documents import MAX_DOCUMENT_BYTES
from rag_retrieve.sources import Access, open_source
from rag_retrieve.sources.signature import Credentials, signed_headers

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Double]:
    """A bucket that wants signatures, whose keys are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setattr("rag_retrieve.sources.bucket.PAUSE_S", 0.001)
    with running(KEYS) as double:
        double.objects = {
            "docs/a.md": b"# A\n\nThe board signs.",
            "docs/sub/b c+ü~'(1).txt": b"Bring a pen.",
            "docs/": b"",
            "docs/scan.bin": b"x",
            "other/z.md": b"Z.",
        }
        yield double


def access(bucket: S3Double) -> Access:
    """Return how the double is reached."""
    return Access(endpoint=bucket.url, region=bucket.region)


def test_signatures_are_those_that_amazon_publishes() -> None:
    """The examples of the Amazon S3 API reference, with their keys and their date."""
    host, now = "examplebucket.s3.amazonaws.com", datetime(2013, 5, 24, tzinfo=UTC)
    query = {"max-keys": "2", "prefix": "J"}
    listed = signed_headers(
        KEYS, host=host, path="/", query=query, region="us-east-1", now=now
    )  # fmt: skip
    ranged = {"range": "bytes=0-9"}
    read = signed_headers(
        KEYS, host=host, path="/test.txt", query={}, region="us-east-1", now=now, headers=ranged
    )

    assert listed["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )
    assert read["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_only_changed_objects_are_read(retriever: Retriever, bucket: S3Double) -> None:
    """By their ETags; keys are what they are, and those outside the prefix are not listed."""
    first = sync(retriever, "s3://papers/docs", access=access(bucket))
    bucket.read.clear()
    again = sync(retriever, "s3://papers/docs/", access=access(bucket))
    quiet = list(bucket.read)
    bucket.objects["docs/a.md"] = b"# A\n\nThe chair signs."
    bucket.objects["docs/n.md"] = b"New."
    del bucket.objects["docs/sub/b c+ü~'(1).txt"]
    last = sync(retriever, "s3://papers/docs", access=access(bucket), prune=True)

    assert first.added == ["docs/a.md", "docs/sub/b c+ü~'(1).txt"]
    assert [(one.ending, one.files) for one in first.skipped] == [(".bin", 1)]
    assert (quiet, again.embeddings) == ([], 0)
    assert bucket.read == ["docs/a.md", "docs/n.md"]
    assert (last.updated, last.added) == (["docs/a.md"], ["docs/n.md"])
    assert last.deleted == ["docs/sub/b c+ü~'(1).txt"]
    metadata = retriever.document("default", "docs/a.md").metadata
    assert metadata["source_url"] == f"{bucket.url}/papers/docs/a.md"
    assert metadata["source_revision"] == bucket.etag("docs/a.md")


def test_keys_that_climb_or_hide_are_counted_and_not_read(
    retriever: Retriever, bucket: S3Double
) -> None:
    """No id begins with `..`, and one bad key costs one object."""
    hostile = ("docs/../../etc/passwd.md", "docs/./x.md", "docs/.hidden.md", "docs//double.md")
    bucket.objects |= dict.fromkeys(hostile, b"Hostile.")
    report = sync(retriever, "s3://papers/docs", access=access(bucket))

    assert [one.files for one in report.skipped if one.reason == "hidden"] == [3]
    assert not any(".." in one for one in ids(retriever))
    assert "docs/a.md" in ids(retriever)


def test_an_object_that_is_too_large_is_not_read(retriever: Retriever, bucket: S3Double) -> None:
    """The list tells its size; it is refused, and stays refused when the list lies."""
    bucket.claimed["docs/a.md"] = MAX_DOCUMENT_BYTES + 1
    report = sync(retriever, "s3://papers/docs", access=access(bucket))

    assert [one.document_id for one in report.failed] == ["docs/a.md"]
    assert "docs/a.md" not in bucket.read


def test_a_server_that_is_busy_is_asked_again(retriever: Retriever, bucket: S3Double) -> None:
    """Statuses 503 and 500 cost a pause."""
    bucket.failures = [503, 500]

    assert len(sync(retriever, "s3://papers/docs", access=access(bucket)).added) == 2


def test_a_bucket_in_another_region_is_found(retriever: Retriever, bucket: S3Double) -> None:
    """The server names the region; the request is signed for it."""
    bucket.failures = [301]
    there = Access(endpoint=bucket.url, region="us-east-1")

    assert len(sync(retriever, "s3://papers/docs", access=there).added) == 2


def test_a_list_that_fails_or_does_not_end_deletes_nothing(
    retriever: Retriever, bucket: S3Double
) -> None:
    """The error names the bucket and what came; the documents stay."""
    sync(retriever, "s3://papers/docs", access=access(bucket))
    bucket.failures = [503] * 4
    with pytest.raises(StepError, match="HTTP 503"):
        sync(retriever, "s3://papers/docs", access=access(bucket), prune=True)
    bucket.endless = True
    with pytest.raises(StepError, match="does not end"):
        sync(retriever, "s3://papers/docs", access=access(bucket), prune=True)
    assert len(ids(retriever)) == 2


def test_wrong_keys_are_an_error_that_names_them(
    retriever: Retriever, bucket: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their variables, never their values; one of the two alone is refused at once."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StepError, match="AWS_SECRET_ACCESS_KEY") as failed:
        plan(retriever, "s3://papers/docs", access=access(bucket))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StepError, match="only one of"):
        plan(retriever, "s3://papers/docs", access=access(bucket))

    assert failed.value.code == "misconfigured"
    assert KEYS.access_key not in failed.value.message


def test_a_public_bucket_needs_no_keys(retriever: Retriever) -> None:
    """Requests are not signed then."""
    with running() as public:
        public.objects = {"a.md": b"A."}
        report = sync(retriever, "s3://papers", access=access(public))

    assert report.added == ["papers/a.md"]


@pytest.mark.parametrize("address", ["s3://", "s3:///x", "s3://key:secret@papers", "s3://a?b"])
def test_an_address_without_a_bucket_is_refused(address: str) -> None:
    """The error says how it is written."""
    with pytest.raises(StepError, match="s3://BUCKET/PREFIX") as failed:
        open_source(address)

    assert "secret" not in failed.value.message


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    """With the value."""
    with pytest.raises(StepError, match="'minio:9000' is no URL"):
        open_source("s3://papers", access=Access(endpoint="minio:9000"))
