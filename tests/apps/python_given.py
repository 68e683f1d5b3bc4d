"""The app on the socket that systemd gives: sd_listen_fds(3), without a library."""

import os
import socket

from answer import Handler, Server

assert os.environ.get("LISTEN_PID") == str(os.getpid()), "LISTEN_PID is not ours"
assert os.environ.get("LISTEN_FDS") == "1", "one socket is expected"

server = Server(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.socket.setblocking(True)
server.serve_forever()
