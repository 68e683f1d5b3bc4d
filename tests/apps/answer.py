"""An ordinary web app on Python's own http.server; it has never heard of gapless.

Answers as the strict client wants it: its version, the client's request id, digests (FNV-1a, 64
bits) of what came and of what goes.
"""

import http.server
import os
import time

VERSION = os.environ.get("APP_VERSION") or f"python-{time.time_ns()}"


def digest(data):
    total = 0xCBF29CE484222325
    for byte in data:
        total = (total ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{total:016x}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one segment each; Nagle would hold the second one back.
    disable_nagle_algorithm = True

    def answer(self):
        received = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        client = self.headers.get("X-Client-Id", "")
        body = f"{VERSION} {client}\n{self.path}\n".encode()
        self.send_response(200)
        self.send_header("X-App-Version", VERSION)
        self.send_header("X-App-Pid", str(os.getpid()))
        self.send_header("X-Client-Id", client)
        self.send_header("X-Received-Digest", digest(received))
        self.send_header("X-Received-Bytes", str(len(received)))
        self.send_header("X-Body-Digest", digest(body))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
