"""Keeps what must outlive it, with what Python has: a counter in a memfd, a listening socket of its
own, and a note in $RUNTIME_DIRECTORY. All that it knows of gapless is sd_notify(3).
"""

import json
import mmap
import os
import socket

from answer import Server
from http.server import BaseHTTPRequestHandler

PASSED = dict(
    zip(
        os.environ.get("LISTEN_FDNAMES", "").split(":"),
        range(3, 3 + int(os.environ.get("LISTEN_FDS", "0"))),
    )
)


def say(text, *fds):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(notify, [text.encode()], fds)


def kept(name, make):
    """What the worker before stored under this name, else what `make` makes, stored."""
    if name in PASSED:
        return PASSED[name]
    fd = make()
    say(f"FDSTORE=1\nFDNAME={name}", fd)
    return fd


def memory():
    fd = os.memfd_create("counter")
    os.ftruncate(fd, 8)
    return fd


def listening():
    door = socket.create_server(("127.0.0.1", 0))
    return door.detach()


directory = os.environ["RUNTIME_DIRECTORY"]
if os.path.exists(os.path.join(directory, "fail")):
    say("FDSTOREREMOVE=1\nFDNAME=counter")
    say("FDSTORE=1\nFDNAME=counter", memory())
    raise SystemExit(3)

counter = mmap.mmap(kept("counter", memory), 8)
door = socket.socket(fileno=kept("door", listening))
note = os.path.join(directory, "note")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        count = int.from_bytes(counter[:8], "little") + 1
        counter[:8] = count.to_bytes(8, "little")
        with open(note, "a") as file:
            file.write(".")
        answer = {
            "count": count,
            "door": door.getsockname()[1],
            "note": os.path.getsize(note),
            "pid": os.getpid(),
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/forget":
            say("FDSTOREREMOVE=1\nFDNAME=counter")
        if self.path == "/overfill":
            for _ in range(70):
                say("FDSTORE=1\nFDNAME=more", memory())

    def log_message(self, *_):
        pass


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
say("READY=1")
server.serve_forever()
