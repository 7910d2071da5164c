"""A real S3 API on loopback (moto), and a proxy before it that injects faults."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "videos"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

#: Takes (method, path of the object, Range header) and returns the fault of this request, or "".
Fault = Callable[[str, str, str], str]


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """The URL of an empty S3 server, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([str(program), "-H", "127.0.0.1", "-p", str(port)], **quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


class FaultProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; `fault` decides what goes wrong. `requests` lists what came: (method, path, range)."""

    daemon_threads = True

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.removeprefix("http://")
        self.fault: Fault = lambda *_: ""
        self.requests: list[tuple[str, str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reads_of(self, name: str) -> int:
        """How many requests have read bytes of an object."""
        return sum(method == "GET" and path.endswith(name) for method, path, _ in self.requests)

    def handle_error(self, request, client_address) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        request = (self.command, path, self.headers.get("Range", ""))
        self.server.requests.append(request)
        fault = self.server.fault(*request)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            self.close_connection = True
            return
        if fault.startswith("wait "):
            time.sleep(float(fault[5:]))
        if fault[:3].isdigit():
            status, _, code = fault.partition(" ")
            content = (
                f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            )
            self._answer(int(status), {"Content-Type": "application/xml"}, content, len(content))
            return
        upstream = http.client.HTTPConnection(self.server.upstream)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        kept = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        length = int(answer.getheader("Content-Length") or len(content))
        if fault == "truncate":
            content = content[: len(content) // 2]
            self.close_connection = True
        if fault == "garble":
            content = bytes(byte ^ 1 for byte in content)
        self._answer(answer.status, kept, content, length)
        upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def log_message(self, *_: object) -> None:
        pass


def environment(url: str) -> dict[str, str]:
    """What makes s3:// mean the server at a URL."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": url, "AWS_CONFIG_FILE": os.devnull}
