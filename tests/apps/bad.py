"""Every way in which an app can be wrong; which one, the first argument says."""

import os
import signal
import socket
import sys

PORT = int(os.environ["PORT"])


def listen(address, port):
    server = socket.create_server((address, port))
    print("listening on", server.getsockname()[1], flush=True)
    return server


def answer(server, status):
    while True:
        peer, _ = server.accept()
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        peer.close()


def hoard():
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
    bytearray(1 << 30)


def fail(status):
    print("no database", flush=True)
    sys.exit(status)


def die():
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def sleep():
    print("still thinking", flush=True)
    signal.pause()


WAYS = {
    "other-port": lambda: answer(listen("0.0.0.0", 3000), b"200 OK"),
    "other-address": lambda: answer(listen("10.7.7.7", PORT), b"200 OK"),
    "not-found": lambda: answer(listen("127.0.0.1", PORT), b"404 Not Found"),
    "unwell": lambda: answer(listen("127.0.0.1", PORT), b"500 Oh"),
    "never": sleep,
    "no-module": lambda: __import__("flask"),
    "unreadable": lambda: open("/root/key").read(),
    "read-only": lambda: open("/opt/log", "w"),
    "memory": hoard,
    "exit-3": lambda: fail(3),
    "exit-0": lambda: fail(0),
    "signal": die,
    "taken": lambda: listen("0.0.0.0", 8888),
    "low-port": lambda: listen("0.0.0.0", 80),
}
WAYS[sys.argv[1]]()
