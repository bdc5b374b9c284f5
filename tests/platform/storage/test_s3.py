"""S3 under faults: lost responses, 409, 412, 5xx, cut connections; uploads in parts; refused stores and credentials."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brew_platform.errors import StorageError
from brew_platform.storage import s3_upload
from brew_platform.storage.base import Digest, open_store
from brew_platform.storage.s3 import S3Store
from brew_platform.storage.s3_client import Retries
from brew_platform.storage.s3_upload import part_size

from ...fault_proxy import Fault, FaultProxy, fault_proxy
from ...s3_servers import make_bucket, s3_environment

MIB = 1024 * 1024
QUICK = Retries(attempts=4, first_seconds=0.001, most_seconds=0.002)
LOST = Fault(kind="lose")
CUT = Fault(kind="cut")
FAILED = Fault(kind="answer", status=500)
SERVERS = ["moto", pytest.param("rgw", marks=pytest.mark.real)]


@contextmanager
def proxy_before(variables: dict[str, str]) -> Iterator[FaultProxy]:
    """A proxy before a server with an empty bucket; the environment names the proxy."""
    with (
        fault_proxy(variables["AWS_ENDPOINT_URL"]) as proxy,
        s3_environment(variables | {"AWS_ENDPOINT_URL": proxy.url}),
    ):
        proxy.bucket = f"faults-{random.randrange(10**9)}"
        make_bucket(proxy.bucket, variables)
        yield proxy


@pytest.fixture(params=SERVERS)
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with proxy_before(request.getfixturevalue(request.param)) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return S3Store(proxy.bucket, "p", retries=QUICK, part_bytes=5 * MIB)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of three parts."""
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(11 * MIB))
    return path


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(LOST, id="the response is lost"),
        pytest.param(Fault(kind="answer", status=500, reaches_server=True), id="500 after the write"),
        pytest.param(Fault(kind="answer", status=409, reaches_server=True), id="409 after the write"),
        pytest.param(Fault(kind="answer", status=409), id="409"),
        pytest.param(Fault(kind="answer", status=412), id="412 although the key is free"),
        pytest.param(Fault(kind="answer", status=503), id="503"),
        pytest.param(Fault(kind="refuse"), id="cut before the write"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_write_whose_response_is_lost_knows_its_own_object(
    store: S3Store, proxy: FaultProxy, fault: Fault, times: int
) -> None:
    proxy.inject("PUT", *[fault] * times)
    assert store.put_if_absent("slot", b"same")
    proxy.inject("PUT", fault)
    assert not store.put_if_absent("slot", b"same")
    assert store.get("slot") == b"same"
    assert store.list() == ["slot"]


def test_a_write_that_lost_the_race_while_it_was_repeated_says_so(store: S3Store, proxy: FaultProxy) -> None:
    other = S3Store(proxy.bucket, "p", retries=QUICK)
    raced = threading.Event()

    def choose(method: str, path: str) -> Fault | None:
        if method == "PUT" and not raced.is_set():
            raced.set()
            assert other.put_if_absent("slot", b"theirs")
            return FAILED
        return None

    proxy.choose = choose
    assert not store.put_if_absent("slot", b"ours")
    assert store.get("slot") == b"theirs"


@pytest.mark.parametrize("fault", [FAILED, Fault(kind="answer", status=503), Fault(kind="refuse"), CUT, LOST])
def test_every_request_is_repeated(store: S3Store, proxy: FaultProxy, tmp_path: Path, fault: Fault) -> None:
    store.put_if_absent("a", bytes(1000))
    calls: dict[str, tuple[str, Callable[[], Any], Any]] = {
        "get": ("GET", lambda: store.get("a"), bytes(1000)),
        "list": ("GET", store.list, ["a"]),
        "digest": ("GET", lambda: store.digest("a").size, 1000),
        "download": ("GET", lambda: store.download("a", tmp_path / "a"), None),
        "exists": ("HEAD", lambda: store.exists("a"), True),
        "size": ("HEAD", lambda: store.size("a"), 1000),
        "delete": ("DELETE", lambda: store.delete("a"), None),
    }
    for name, (method, call, result) in calls.items():
        if fault is CUT and method != "GET":
            continue
        proxy.inject(method, fault, fault)
        assert call() == result, name
    assert (tmp_path / "a").read_bytes() == bytes(1000)


def test_a_download_continues_where_it_was_cut(store: S3Store, proxy: FaultProxy, big: Path, tmp_path: Path) -> None:
    store.upload_if_absent("big", big)
    whole = S3Store(proxy.bucket, "p", retries=QUICK, part_bytes=64 * MIB)
    for source in (store, whole):
        proxy.requests.clear()
        proxy.inject("GET", CUT)
        source.download("big", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == big.read_bytes()
    ranges = [range_ for method, _, range_ in proxy.requests if method == "GET"]
    assert ranges == [f"bytes=0-{11 * MIB - 1}", f"bytes={11 * MIB // 2}-{11 * MIB - 1}"]
    proxy.inject("GET", CUT)
    assert whole.digest("big") == Digest.of_file(big)


def test_a_request_that_keeps_failing_is_one_sentence(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.choose = lambda method, path: FAILED
    with pytest.raises(StorageError) as caught:
        store.put_if_absent("a", b"")
    assert str(caught.value) == (
        f"cannot write 'a' in s3://{proxy.bucket}/p: {proxy.url} answered 500 InternalError injected. Try again later, "
        f"or ask the operator of the store."
    )
    assert len(proxy.requests) == QUICK.attempts
    proxy.choose = lambda method, path: Fault(kind="refuse")
    with pytest.raises(
        StorageError, match=r"^cannot read 'a' in .* cannot be reached .*Check AWS_ENDPOINT_URL, the netw"
    ):
        store.download("a", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "does not accept the credentials. Check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "does not accept the credentials. Check AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "the credentials have expired. Get new ones"),
        (403, "RequestTimeTooSkewed", "the clock of this machine differs from the clock of the store. Set the clock"),
        (403, "AccessDenied", "permission denied. Allow these credentials"),
        (404, "NoSuchBucket", "the bucket does not exist. Create it"),
        (507, "InsufficientStorage", "the store is full or its quota is used up"),
    ],
)
def test_a_permanent_fault_says_what_to_do_and_is_not_repeated(
    store: S3Store, proxy: FaultProxy, status: int, code: str, words: str
) -> None:
    proxy.requests.clear()
    proxy.choose = lambda method, path: Fault(kind="answer", status=status, code=code)
    with pytest.raises(StorageError) as caught:
        store.get("a")
    assert words in str(caught.value)
    assert len(proxy.requests) == 1
    if code != "AccessDenied":
        with pytest.raises(StorageError, match=r"cannot write '\.probe/create-only' in"):
            open_store(store.url)


def test_a_file_in_parts_is_one_object(store: S3Store, proxy: FaultProxy, big: Path) -> None:
    digest, created = store.upload_by_digest("blobs", big)
    assert created
    assert store.digest(f"blobs/{digest.sha256}") == Digest.of_file(big)
    assert len([path for method, path, _ in proxy.requests if method == "PUT" and "partNumber" in path]) == 3
    assert store.upload_by_digest("blobs", big) == (digest, False)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("fault", [FAILED, LOST, Fault(kind="refuse"), Fault(kind="answer", status=503)])
def test_an_upload_in_parts_survives_faults(
    store: S3Store, proxy: FaultProxy, big: Path, method: str, fault: Fault
) -> None:
    proxy.inject(method, fault, None, fault, fault)
    assert store.upload_if_absent("big", big)
    assert store.digest("big") == Digest.of_file(big)
    assert not store.upload_if_absent("big", big)


@pytest.mark.parametrize("changed", [False, True])
def test_an_upload_of_a_killed_process_is_continued(
    store: S3Store, proxy: FaultProxy, big: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    proxy.choose = lambda method, path: FAILED if "partNumber=3" in path else None
    with pytest.raises(StorageError, match="cannot write .p/big. .* answered 500"):
        store.upload_if_absent("big", big)
    assert store.list() == []
    if changed:  # its first part is another
        with big.open("r+b") as file:
            file.write(b"changed")
    monkeypatch.setattr(s3_upload, "IDLE_SECONDS", -1000.0)
    proxy.choose = lambda method, path: None
    proxy.requests.clear()
    store.upload_if_absent("big", big, expected=Digest.of_file(big))
    sent = [path.split("partNumber=")[1][0] for method, path, _ in proxy.requests if "partNumber" in path]
    assert sorted(sent) == (["1", "3"] if changed else ["3"])
    assert store.digest("big") == Digest.of_file(big)
    assert _uploads(store) == []


def test_an_upload_that_still_runs_is_left_alone(store: S3Store, proxy: FaultProxy, big: Path) -> None:
    proxy.choose = lambda method, path: FAILED if "partNumber=3" in path else None
    with pytest.raises(StorageError):
        store.upload_if_absent("big", big)
    proxy.choose = lambda method, path: None
    assert store.upload_if_absent("big", big)
    assert len(_uploads(store)) == 1


def test_an_upload_that_another_process_ended_starts_again(store: S3Store, proxy: FaultProxy, big: Path) -> None:
    ended = threading.Event()

    def choose(method: str, path: str) -> Fault | None:
        if "partNumber=3" in path and not ended.is_set():
            ended.set()
            return Fault(kind="answer", status=404, code="NoSuchUpload")
        return None

    proxy.choose = choose
    assert store.upload_if_absent("big", big)
    assert store.digest("big") == Digest.of_file(big)


def test_a_file_that_changed_is_not_uploaded_in_parts(store: S3Store, big: Path) -> None:
    with pytest.raises(
        StorageError, match=r"big\.bin changed while it was uploaded: 11534336 bytes with sha256 000000"
    ):
        store.upload_if_absent("big", big, expected=Digest(size=11 * MIB, sha256="0" * 64))
    assert store.list() == []
    assert _uploads(store) == []


def test_uploads_of_one_file_at_the_same_time_make_one_object(store: S3Store, big: Path) -> None:
    expected = Digest.of_file(big)
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda _: store.upload_by_digest("blobs", big), range(4)))
    assert {digest for digest, _ in created} == {expected}
    assert any(is_new for _, is_new in created)
    assert store.list() == [f"blobs/{expected.sha256}"]
    assert store.digest(f"blobs/{expected.sha256}") == expected


def test_a_file_has_at_most_10_000_parts() -> None:
    assert part_size(1, 5 * MIB) == 5 * MIB
    for size in (50_000 * MIB, 50_000 * MIB + 1, 5 * 1024 * 1024 * MIB):
        least = part_size(size, 5 * MIB)
        assert -(-size // least) <= 10_000
        assert least % MIB == 0


def test_random_faults_leave_one_winner_for_each_key(store: S3Store, proxy: FaultProxy) -> None:
    faults = [LOST, FAILED, Fault(kind="refuse"), Fault(kind="answer", status=409), Fault(kind="answer", status=412)]
    faults += [Fault(kind="answer", status=500, reaches_server=True), CUT]
    chance, lock, injected = random.Random(0), threading.Lock(), []

    def choose(method: str, path: str) -> Fault | None:
        with lock:
            if chance.random() > 0.25:
                return None
            fault = chance.choice(faults)
            if fault.status == 412 and method != "PUT":
                return None
            injected.append(fault)
            return fault

    proxy.choose = choose
    patient = S3Store(proxy.bucket, "p", retries=Retries(attempts=30, first_seconds=0.001, most_seconds=0.002))
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda w: [patient.put_if_absent(f"slot/{key}", b"%d" % w) for key in range(8)], range(4)))
    proxy.choose = lambda method, path: None
    assert len(injected) >= 5
    for key in range(8):
        assert [writer for writer in range(4) if won[writer][key]] == [int(store.get(f"slot/{key}"))]


def test_the_object_of_the_check_is_not_listed(store: S3Store, proxy: FaultProxy) -> None:
    assert repr(open_store(store.url)) == f"S3Store('s3://{proxy.bucket}/p')"
    assert open_store(store.url).list() == []


def test_a_store_that_ignores_conditions_is_refused(moto: dict[str, str]) -> None:
    """A real server would refuse the proxy's requests, whose headers are signed."""
    with proxy_before(moto) as proxy:
        url = f"s3://{proxy.bucket}/p"
        proxy.without_header = "If-None-Match"
        with pytest.raises(StorageError, match=r"does not support conditional writes \(PutObject with If-None-Match"):
            open_store(url)
        proxy.without_header = ""
        proxy.inject("PUT", Fault(kind="answer", status=501, code="NotImplemented"))
        with pytest.raises(StorageError, match=r"^s3://.* cannot be used: .*Use AWS S3, Ceph RGW, another store"):
            open_store(url)


def test_credentials_that_may_only_read_open_a_store(store: S3Store, proxy: FaultProxy) -> None:
    store.put_if_absent("a", b"x")
    proxy.choose = lambda method, path: (
        Fault(kind="answer", status=403, code="AccessDenied") if method == "PUT" else None
    )
    reader = open_store(store.url)
    assert reader.get("a") == b"x"
    with pytest.raises(StorageError, match="permission denied"):
        reader.put_if_absent("b", b"")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/x", "s3://bucket/x: the address has credentials or options"),
        ("s3://bucket/x?endpoint=http://host", "the address has credentials or options. Write s3://bucket/prefix only"),
        ("s3:///x", "s3:///x has no bucket"),
        ("s3://bucket/../x", "'../x' is not a valid key"),
    ],
)
def test_an_address_that_is_not_a_bucket_is_refused(url: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_missing_and_invalid_settings_are_named(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match=r"no credentials were found\. Set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        open_store("s3://bucket/p")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(StorageError, match=r"cannot open s3://bucket/p: .*absent.*Check the variables AWS_\*"):
        open_store("s3://bucket/p")


def test_a_missing_bucket_is_named(proxy: FaultProxy) -> None:
    with pytest.raises(StorageError, match=r"in s3://not-there/p: the bucket does not exist\. Create it"):
        open_store("s3://not-there/p")


@pytest.mark.real
class TestRealServer:
    """What moto does not check: signatures, clocks and the digest of a body."""

    @pytest.fixture
    def proxy(self, rgw: dict[str, str]) -> Iterator[FaultProxy]:
        with proxy_before(rgw) as proxy:
            yield proxy

    @pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_credentials(self, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "wrong")
        with pytest.raises(StorageError, match="the store does not accept the credentials"):
            open_store(f"s3://{proxy.bucket}/p")

    def test_a_body_that_was_damaged_on_the_way_is_refused(self, proxy: FaultProxy) -> None:
        store = S3Store(proxy.bucket, "p", retries=QUICK)
        proxy.edit_body = lambda body: body[:-1] + b"!"
        with pytest.raises(StorageError, match="cannot write 'a'"):
            store.put_if_absent("a", b"content")
        proxy.edit_body = bytes
        assert not store.exists("a")
        assert store.put_if_absent("a", b"content")


def _uploads(store: S3Store) -> list[Any]:
    found: list[Any] = store._boto.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])
    return found
