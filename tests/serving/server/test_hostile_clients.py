"""Clients that mean harm, on this machine alone: bombs, broken forms, slow ones, floods, other origins, wrong keys."""

import contextlib
import io
import json
import logging
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from running_server import running_server, wait_until

from diffoundry.runtime.errors import InputError
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.log import JsonFormatter
from diffoundry.serving.server.security import read_keys

_LIMITS = Limits(
    body_bytes=200_000, held_bytes=400_000, body_seconds=0.5, header_seconds=0.5, write_seconds=0.5,
    image_pixels=10_000, drain_seconds=1, fields=20, files=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def guarded(emoji_pipe):
    """A server with tight limits, one job at a time, and one that may wait."""
    with running_server([emoji_pipe], limits=_LIMITS, dispatcher={"max_active": 1, "max_queued": 1}) as found:
        yield found


def _refused(answer, status, words):
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def _bomb(side):
    """A PNG file of a few bytes that says it has side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _edit(guarded, data):
    return httpx.post(f"{guarded.url}/v1/images/edits", data={"prompt": "x"}, files={"image": ("x.png", data)})


def test_images_with_more_pixels_than_allowed_are_refused_before_they_are_decoded(guarded):
    _refused(_edit(guarded, _bomb(30_000)), 400, "image: got too many pixels, expected at most")
    _refused(_edit(guarded, _bomb(101)), 400, "image: got too many pixels, expected at most 10,000; scale it down")
    plain = io.BytesIO()
    Image.new("RGB", (96, 96)).save(plain, "PNG")
    both = [("image", ("x.png", plain.getvalue())), ("mask_image", ("x.png", plain.getvalue()))]
    answer = httpx.post(f"{guarded.url}/v1/images/edits", data={"prompt": "x"}, files=both)
    _refused(answer, 400, "got too many pixels, expected at most 784")  # together
    _refused(_edit(guarded, b"GIF89a" + b"\0" * 100), 400, "image: cannot be read as an image, expected a file in PNG")
    _refused(_edit(guarded, b"%!PS-Adobe-3.0 EPSF-3.0\n"), 400, "image: cannot be read as an image")


def test_bodies_are_bounded(guarded):
    url = f"{guarded.url}/v1/images/generations"
    for content in (b"x" * 300_000, (b"x" * 10_000 for _ in range(30))):  # with Content-Length, and in chunks
        answer = httpx.post(url, content=content, headers={"Content-Type": "application/json"})
        _refused(answer, 413, "body: got more than 200,000 bytes")
    _refused(
        httpx.post(url, content=b"x", headers={"Content-Type": "text/plain"}), 415, "Content-Type: got 'text/plain'"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "body: it is no JSON"),
        (b"[1]", "body: got [1], expected a JSON object"),
        (b'{"n": 1, "n": 2}', "'n' twice in one object"),
        (b"[" * 10_000, "body: it is no JSON"),
        (b'{"prompt": "\\ud800"}', "body: it is no JSON (half of a surrogate pair)"),
        (b'{"prompt": "x", "n": NaN}', "n: got nan, expected a whole number"),
        (b'{"prompt": "x", "guidance_scale": 1e999}', "guidance_scale: got inf, expected a number"),
        (b"\xff\xfe", "body: it is not in UTF-8, from byte 0 on"),
        (b'\xef\xbb\xbf{"prompt": "x", "n": 0}', "n: got 0, expected a whole number"),  # a byte order mark is read over
    ],
)
def test_json_that_is_broken_is_refused(guarded, content, words):
    headers = {"Content-Type": "application/json"}
    _refused(httpx.post(f"{guarded.url}/v1/images/generations", content=content, headers=headers), 400, words)


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding: got 'gzip', expected none; send the body uncompressed"),
        ({"Content-Type": "application/json; charset=utf-16"}, 415, "Content-Type: got the charset 'utf-16', expected"),
        (
            {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"}, 415,
            "Content-Type: got the charset 'unicode_escape', expected utf-8; send the body in UTF-8",
        ),
        ({"Content-Type": 'application/json; charset="UTF-8"'}, 400, "\\ud800: no such parameter"),
    ],
)  # fmt: skip
def test_bodies_in_other_codes_are_refused(guarded, headers, status, words):
    """unicode_escape makes half of a surrogate pair of the name, which no answer could hold."""
    content = b'{"\\\\ud800": 1}'
    if "boundary" in headers.get("Content-Type", ""):
        content = b'--b\r\nContent-Disposition: form-data; name="\\ud800"\r\n\r\n1\r\n--b--\r\n'
    headers = {"Content-Type": "application/json", **headers}
    _refused(httpx.post(f"{guarded.url}/v1/images/generations", content=content, headers=headers), status, words)


_PART = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
_FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    "content",
    [
        b"", b"nothing", b"--b\r\n\r\n\r\n--b--", _PART, b"--b\r\nX: " + b"y" * 9000, _PART * 21 + b"--b--",
        _FILE * 4 + b"--b--",
    ],
    ids=["empty", "text", "nameless", "unfinished", "long header", "fields", "files"],
)  # fmt: skip
def test_forms_that_are_broken_are_refused(guarded, content):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{guarded.url}/v1/images/edits", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(("body: ", "image: got none", "prompt: got a list"))


def _connect(guarded):
    return socket.create_connection(("127.0.0.1", guarded.port), timeout=20)


def _rest(client):
    """Return what a connection still gives until it ends; nothing where it was reset."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(10_000):
            found += data
    return found


def test_slow_clients_are_cut_off(guarded):
    with _connect(guarded) as silent, _connect(guarded) as headers, _connect(guarded) as body:
        headers.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n")
        body.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        for one in (silent, headers):
            assert _rest(one) == b""
        found = _rest(body)
        assert b"408 Request Timeout" in found
        assert b"body: it did not arrive within 0.5 s" in found


def test_beyond_the_limit_of_connections_the_server_says_so_and_stays_healthy(emoji_pipe):
    limits = Limits(connections=2, drain_seconds=1)
    with running_server([emoji_pipe], limits=limits) as crowded, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connect(crowded)) for _ in range(2)]
        wait_until(lambda: len(crowded.state.connections) == 2)
        answer = httpx.get(f"{crowded.url}/v1/models")
        _refused(answer, 503, "connections: 3 are open, expected at most 2 (--max-connections); try again later")
        assert answer.json()["error"]["code"] == "too_many_connections"
        assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("2", "close")
        for path in ("/health", "/ready", "/metrics"):
            assert httpx.get(f"{crowded.url}{path}").status_code == 200
        for one in silent:
            one.close()
        wait_until(lambda: not crowded.state.connections)
        assert httpx.get(f"{crowded.url}/v1/models").status_code == 200


def test_silent_connections_make_room_for_others(emoji_pipe):
    """The server keeps 32 beyond its limit for those that ask for its state."""
    limits = Limits(connections=2, drain_seconds=1)
    with running_server([emoji_pipe], limits=limits) as crowded, contextlib.ExitStack() as stack:
        silent = []
        for count in range(1, 51):
            silent.append(stack.enter_context(_connect(crowded)))
            wait_until(lambda count=count: len(crowded.state.connections) == min(count, 34))
        assert [_rest(one) for one in silent[:16]] == [b""] * 16  # the oldest are closed
        assert httpx.get(f"{crowded.url}/health").status_code == 200


def test_what_is_no_http_is_refused(guarded):
    with _connect(guarded) as client:
        client.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert b"400 Bad Request" in client.recv(1000)


def test_a_client_that_does_not_read_is_cut_off(guarded):
    """The store holds a file larger than what the system buffers, so that the server has to wait."""
    key = guarded.state.store.add(b"x" * 40_000_000, "image/png")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", guarded.port))
        client.sendall(f"GET /v1/images/files/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: len(guarded.server.server_state.connections) >= 1)
        wait_until(lambda: not guarded.server.server_state.connections)


def _post(guarded, **body):
    body = {"prompt": "x", "num_inference_steps": 60, **body}
    return httpx.post(f"{guarded.url}/v1/images/generations", json=body, timeout=60)


def test_a_flood_is_told_to_come_back(guarded):
    before = guarded.state.dispatcher.statistics()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: _post(guarded, seed=seed, num_inference_steps=8), range(6)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    refused = answers[statuses.index(429)]
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    now = guarded.state.dispatcher.statistics()
    assert now.done - before.done == statuses.count(200)
    assert now.refused - before.refused == statuses.count(429)


def test_pages_of_other_origins_and_other_names_of_this_machine_are_refused(guarded, emoji_pipe):
    url = f"{guarded.url}/v1/models"
    _refused(httpx.get(url, headers={"Origin": "https://evil.example"}), 403, "Origin: got 'https://evil.example'")
    _refused(httpx.get(url, headers={"Origin": "null"}), 403, "which the operator does not allow (--cors-origin)")
    _refused(httpx.get(url, headers={"Host": "evil.example"}), 403, "Host: got 'evil.example', expected localhost")
    own = httpx.get(url, headers={"Origin": guarded.url})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]
    assert own.headers["X-Content-Type-Options"] == "nosniff"
    with running_server([emoji_pipe], origins=("https://friend.example",)) as friendly:
        answer = httpx.options(
            f"{friendly.url}/v1/models",
            headers={"Origin": "https://friend.example", "Access-Control-Request-Method": "GET"},
        )
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        answer = httpx.get(f"{friendly.url}/v1/models", headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403


def test_only_clients_with_a_key_are_answered(emoji_pipe, tmp_path):
    keys = ["a-key-of-this-server", "another-key-of-it-00"]
    (tmp_path / "keys.txt").write_text(f"# operators\n{keys[0]}\n\n{keys[1]}\n")
    with running_server([emoji_pipe], keys=read_keys(tmp_path / "keys.txt")) as locked:
        client = httpx.Client(base_url=locked.url, timeout=60)
        body = {"prompt": "x", "num_inference_steps": 1}
        for path in ("/v1/models", "/metrics", "/v1/jobs/some-job-1"):
            _refused(client.get(path), 401, "Authorization: got none, expected 'Bearer' and an API key")
        for value in (
            "Bearer wrong",
            f"Basic {keys[0]}",
            "Bearer",
            f"Bearer {keys[0]}x",
            "Bearer \xff".encode("latin-1"),
        ):
            answer = client.post("/v1/images/generations", json=body, headers={"Authorization": value})
            _refused(answer, 401, "Authorization: got")
            assert answer.json()["error"]["type"] == "authentication_error"
        for path in ("/health", "/ready", "/openapi.json"):
            assert client.get(path).status_code == 200
        headers = [{"Authorization": f"Bearer {key}", "X-Request-Id": "job-of-the-first"} for key in keys]
        assert client.post("/v1/images/generations", json=body, headers=headers[0]).status_code == 200
        assert client.get("/v1/jobs/job-of-the-first", headers=headers[0]).json()["status"] == "done"
        _refused(client.get("/v1/jobs/job-of-the-first", headers=headers[1]), 404, "there is none")  # of another client
        client.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# none\n", "got no key, expected one a line"),
        ("short\n", "key 1 is too short or has other letters, expected at least 16"),
        ("a-key-of-this-server\nwith a blank in the middle\n", "key 2 is too short or has other letters"),
        ("a-key-with-a-tab\tin-it", "key 1 is too short or has other letters"),
        ("a-key-of-this-server\0", "key 1 is too short or has other letters"),
        (None, r"keys.txt: cannot be read \(No such file or directory\); pass a text file, one key a line"),
    ],
)
def test_a_file_of_keys_that_protects_nothing_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "keys.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        read_keys(tmp_path / "keys.txt")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got no key, expected one a line"),
        (b"\x7fELF\xff\xfe\x80", "cannot be read (it is no text); pass a text file, one key a line"),
        (None, "cannot be read (Is a directory); pass a text file, one key a line"),
        (b"#" * 1_000_001, "got more than 1 MB, expected a text file, one key a line"),
    ],
    ids=["empty", "binary", "folder", "large"],
)
def test_what_is_no_file_of_keys_is_refused(tmp_path, data, words):
    path = tmp_path / "keys"
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_keys(path)
    assert str(caught.value) == f"--api-key-file {path}: {words}"


_GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
_POST = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        ((_GET + b"\r\n") * 3, [200, 200, 200]),
        (_POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [400]),
        (_POST + b"Content-Length: -1\r\n\r\n", [400]),
        (_GET + b"Host: evil.example\r\n\r\n", [400]),
        (b"GET /health HTTP/1.1\r\n\r\n", [400]),
        (_GET + b"X: " + b"y" * (65_540 - len(_GET)), [400]),
        (_CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", [400]),
        (_CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", [400]),
        (_POST + b"Content-Length: 2\r\n\r\n{}" + _GET + b"\r\n", [400, 200]),
    ],
    ids=["pipeline", "two lengths", "negative", "two hosts", "no host", "huge", "no chunk", "short chunk", "next"],
)
def test_requests_that_are_written_by_hand(guarded, sent, statuses):
    """Each gets its answers in their order, and the server goes on."""
    with _connect(guarded) as client:
        client.sendall(sent)
        found = b""
        while found.count(b"HTTP/1.1 ") < len(statuses) and (data := client.recv(65536)):
            found += data
        assert [int(one[:3]) for one in found.split(b"HTTP/1.1 ")[1:]] == statuses
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    assert guarded.state.budget.held == 0


def test_a_file_of_keys_of_another_editor_is_read(tmp_path):
    """Editors of Windows write a byte order mark, and end lines with two characters."""
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbf# operators\r\na-key-of-this-server\r\n\r\n")
    (tmp_path / "plain.txt").write_bytes(b"a-key-of-this-server")
    assert read_keys(tmp_path / "keys.txt") == read_keys(tmp_path / "plain.txt")


def test_the_log_keeps_a_client_in_its_line(guarded, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "diffoundry.serving")
    logger = logging.getLogger("diffoundry.serving")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    body = {"prompt": "secret prompt", "user": 'x"\n{"level": "error"}', "num_inference_steps": 1}
    assert httpx.post(f"{guarded.url}/v1/images/generations", json=body, timeout=60).status_code == 200
    httpx.get(f"{guarded.url}/no/such/%0apath")
    wait_until(lambda: len([one for one in caplog.records if one.getMessage() == "request"]) >= 2)
    lines = [JsonFormatter().format(record) for record in caplog.records if record.getMessage() == "request"]
    parsed = [json.loads(line) for line in lines]
    assert not any("\n" in line for line in lines)
    assert "secret" not in "".join(lines)
    assert parsed[0]["user"] == body["user"]
    assert [one["path"] for one in parsed] == ["/v1/images/generations", "other"]


def test_a_connection_that_breaks_in_the_body_is_no_error_of_the_server(guarded):
    with _connect(guarded) as client:
        client.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
    time.sleep(0.05)
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    assert guarded.state.budget.held == 0
