"""A server that answers with given bytes in given pieces, for what a real one seldom does."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedResponse:
    """What to answer; and what was asked: (path, headers, body)."""

    def __init__(self) -> None:
        self.status = 200
        self.headers = {"Content-Type": "text/event-stream"}
        self.chunks: Sequence[bytes] = ()
        self.pause = 0.0
        self.requests: list[tuple[str, dict[str, str], bytes]] = []


@contextmanager
def scripted_server() -> Iterator[tuple[str, ScriptedResponse]]:
    """Yields the address, ending in /v1, and the script to change."""
    script = ScriptedResponse()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            script.requests.append((self.path, dict(self.headers), body))
            self.send_response(script.status)
            for name, value in script.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in script.chunks:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(script.pause)

        do_GET = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
