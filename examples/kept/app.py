"""Counts its visits, and goes on counting after a reload, a crash and a restart of gapless: the
number is in a memory file that gapless keeps. Nothing but Python's own library, and sd_notify(3).
"""

import fcntl
import http.server
import mmap
import os
import signal
import socket
import threading


def given():
    """File descriptors by their names, sd_listen_fds_with_names(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ["LISTEN_FDNAMES"].split(":")
    return dict(zip(names, range(3, 3 + int(os.environ["LISTEN_FDS"]))))


def say(text, *fds):
    """sd_notify(3), to gapless or to systemd; by hand there is nobody to hear it."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(path)
            socket.send_fds(notify, [text.encode()], fds)


def keep(name, make):
    """What the process before kept under this name; else what `make` makes, kept from now on."""
    fd = GIVEN.get(name)
    if fd is None:
        fd = make()
        say(f"FDSTORE=1\nFDNAME={name}", fd)
    return fd


def memory():
    fd = os.memfd_create("visits")
    os.ftruncate(fd, 8)
    return fd


GIVEN = given()
VISITS = keep("visits", memory)
NUMBER = mmap.mmap(VISITS, 8)
LOCK = threading.Lock()


def visit():
    # For a moment the next generation counts, too: the record lock keeps processes apart, the other
    # one threads.
    with LOCK:
        fcntl.lockf(VISITS, fcntl.LOCK_EX)
        try:
            number = int.from_bytes(NUMBER[:], "little") + 1
            NUMBER[:] = number.to_bytes(8, "little")
            return number
        finally:
            fcntl.lockf(VISITS, fcntl.LOCK_UN)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{visit()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # server_close waits for the requests under way.
    daemon_threads = False

    def service_actions(self):
        # Twice a second, by the loop that accepts: when that hangs, nobody says it any more.
        if "WATCHDOG_USEC" in os.environ:
            say("WATCHDOG=1")


def listen():
    if "http" not in GIVEN:
        return Server(("127.0.0.1", int(os.environ.get("PORT", 8888))), Handler)
    server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=GIVEN["http"])
    return server


def end(*_):
    # Elsewhere: shutdown waits for the loop that this signal interrupted.
    threading.Thread(target=SERVER.shutdown).start()


SERVER = listen()
signal.signal(signal.SIGTERM, end)
say("READY=1")
SERVER.serve_forever()
SERVER.server_close()
# Every request is finished: what has to be done once at the end of this generation is done here.
