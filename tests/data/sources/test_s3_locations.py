"""Files on S3 are found and read; a small server speaks the part of the protocol that reading needs."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from brew_data.sources.file_formats import DelimitedFile
from brew_data.sources.locations import find_files
from brew_platform.errors import DataError

OBJECTS = {"shop/2024/a.csv": b"id,n\n1,010\n", "shop/2024/b.csv": b"id,n\n2,x\n", "shop/readme.txt": b"hello"}


class Bucket(BaseHTTPRequestHandler):
    """GET, HEAD and ListObjectsV2 of one bucket."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        key, query = (rest[0] if rest else ""), parse_qs(parts.query)
        if bucket != "bucket":
            self.answer(404, b"")
        elif "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            found = "".join(
                f"<Contents><Key>{name}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
                f"<Size>{len(data)}</Size></Contents>"
                for name, data in OBJECTS.items()
                if name.startswith(prefix)
            )
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
            self.answer(200, body.encode(), kind="application/xml")
        elif key in OBJECTS:
            data = OBJECTS[key]
            start, end = 0, len(data) - 1
            if (requested := self.headers.get("Range")) is not None:
                first, last = requested.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last), len(data) - 1)
            self.answer(206 if requested else 200, data[start : end + 1], kind="text/csv")
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_objects_are_found_by_address_and_by_glob(store: None) -> None:
    found = find_files(["s3://bucket/shop/2024/*.csv"])
    assert [location.name for location in found] == ["s3://bucket/shop/2024/a.csv", "s3://bucket/shop/2024/b.csv"]
    [batch] = DelimitedFile(found[0]).batches(["n", "id"])
    assert batch.table.to_pylist() == [{"n": "010", "id": "1"}]
    assert len(found[0].digest()) == 64
    assert find_files(["s3://bucket/shop/2024/b.csv"])[0].path == "bucket/shop/2024/b.csv"
    for address in ("s3://bucket/shop/none.csv", "s3://bucket/other/*.csv"):
        with pytest.raises(DataError, match="matches no object|cannot be read"):
            find_files([address])
