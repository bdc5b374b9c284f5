"""A small server that speaks the part of S3's protocol that reading needs."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

__all__ = ["s3_store"]


@contextmanager
def s3_store(objects: Mapping[str, bytes]) -> Iterator[None]:
    """Serve `objects`, by key, as the bucket `bucket`, and set the environment variables that name this store."""

    class Bucket(_Bucket):
        contents = objects

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Bucket(BaseHTTPRequestHandler):
    """GET, HEAD and ListObjectsV2 of one bucket."""

    contents: Mapping[str, bytes]

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
                for name, data in self.contents.items()
                if name.startswith(prefix)
            )
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
            self.answer(200, body.encode(), kind="application/xml")
        elif key in self.contents:
            data = self.contents[key]
            start, end = 0, len(data) - 1
            if (requested := self.headers.get("Range")) is not None:
                first, last = requested.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last), len(data) - 1)
            self.answer(206 if requested else 200, data[start : end + 1])
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

    def log_message(self, *arguments: Any) -> None:
        pass
