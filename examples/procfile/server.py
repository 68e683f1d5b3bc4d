"""All that an app must do: listen on $PORT, and end at SIGTERM."""

import http.server
import os


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello from {os.environ.get('GAPLESS_RELEASE', 'no release')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """gapless has an access log."""


at = ("127.0.0.1", int(os.environ["PORT"]))
http.server.ThreadingHTTPServer(at, Hello).serve_forever()
