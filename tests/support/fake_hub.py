"""A small server that speaks as much of the hub's protocol as downloads use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository org/model.

    Attributes:
        asked: Files whose content was sent.
        error: The hub's error code for every question about the repository, or None.
        broken: Name of a file that the server fails to deliver, or None.
    """

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked = []
        self.error = None
        self.broken = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def log_message(self, *_):
        pass

    def answer(self, *, send):
        path = unquote(urlsplit(self.path).path)
        if self.server.error:
            self.reply(404 if self.server.error != "GatedRepo" else 403, {"X-Error-Code": self.server.error}, b"", send)
        elif path.startswith("/api/models/org/model"):
            files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
            siblings = [
                {"rfilename": str(file.relative_to(self.server.folder)), "size": file.stat().st_size} for file in files
            ]
            body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode()
            self.reply(200, {"Content-Type": "application/json"}, body, send)
        elif path.startswith((f"/org/model/resolve/{COMMIT}/", "/org/model/resolve/main/")):
            self.deliver(path.split("/", 5)[5], send)
        else:
            self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"", send)

    def deliver(self, name, send):
        if not (self.server.folder / name).is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"", send)
            return
        content = (self.server.folder / name).read_bytes()
        if send:
            self.server.asked.append(name)
        if name == self.server.broken:
            self.reply(400, {}, b"", send)
            return
        self.reply(200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content, send)

    def reply(self, status, headers, body, send):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(body)


def use_endpoint(monkeypatch, address):
    """As HF_ENDPOINT does, which is read only once."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


def serve(folder) -> Iterator[Hub]:
    """Yield a server of a folder, and stop it."""
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
