"""Answers with its pid. /leak takes memory without end; /fork tries to start 40 processes and says
how many it could."""

import http.server
import os
import subprocess
import threading


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/leak":
            # After the answer: a request that lost its worker would be tried again on the next one.
            threading.Thread(target=leak).start()
        text = f"{os.getpid()} {forked() if self.path == '/fork' else ''}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def leak():
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1024)) * 1024)


def forked():
    children = []
    try:
        for _ in range(40):
            children.append(subprocess.Popen(["/bin/sleep", "100"]))
    except OSError:
        pass
    for child in children:
        child.kill()
        child.wait()
    return len(children)


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
