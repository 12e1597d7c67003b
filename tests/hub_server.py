"""The few requests of two hubs that fetching a model makes, answered on 127.0.0.1 from a folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """Hugging Face's `/api/models` and `resolve`, ModelScope's `repo/files` and `repo`; HTTP/1.1."""

    protocol_version = "HTTP/1.1"
    models: dict[str, Path]
    requested: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for name, folder in self.models.items():
            files = sorted(path.name for path in folder.iterdir())
            if url.path in (f"/api/models/{name}/revision/{rev}" for rev in ("main", "v1", COMMIT)):
                siblings = [{"rfilename": file} for file in files]
                return self._json({"id": name, "sha": COMMIT, "siblings": siblings}, body)
            if url.path.startswith(f"/{name}/resolve/") and (file := url.path.split("/", 5)[-1]) in files:
                return self._file(folder / file, body)
            if url.path == f"/api/v1/models/{name}/repo/files":
                entries = [
                    {"Path": file, "Name": file, "Type": "blob", "Size": (folder / file).stat().st_size}
                    for file in files
                ]
                return self._json({"Code": 200, "Success": True, "Data": {"Files": entries}}, body)
            if url.path == f"/api/v1/models/{name}/repo" and query.get("FilePath") in files:
                return self._file(folder / query["FilePath"], body)
        self._send(404, {"Content-Type": "application/json"}, b'{"Code": 404, "Message": "no model"}', body)

    def _json(self, value: object, body: bool) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode(), body)

    def _file(self, path: Path, body: bool) -> None:
        if body:
            self.requested.append(path.name)
        data = path.read_bytes()
        start = 0
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            start = int(wanted[6:].split("-")[0])
        etag = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, headers, data[start:], body)

    def _send(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def serve_hub(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve {name on the hub: folder}; gives the address, and the names of files as they are fetched."""
    requested: list[str] = []
    handler = type("Handler", (_Handler,), {"models": models, "requested": requested})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requested
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
