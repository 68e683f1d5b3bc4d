"""An app that was taken over: what is asked for by its path it tries with the rights of the app's user, from
inside the sandbox, and says what came of it."""

import http.server
import os
import socket
import threading

RUNTIME = "/run/gapless"
CONTROL = "/run/gapless-control/gapless.sock"


def command(path):
    """Asks a control socket as a command would."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"POST /drain HTTP/1.1\r\nHost: x\r\n\r\n")
        return client.recv(100).decode(errors="replace")


def reach():
    return command(CONTROL)


def replace():
    os.unlink(CONTROL)


def replace_directory():
    os.rename("/run/gapless-control", RUNTIME + "/gapless-control")


def occupy():
    """Puts a server of its own where gapless 0.1.0 had its socket; root is told a story with escape sequences."""
    path = RUNTIME + "/control.sock"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()

    def lie():
        while True:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                heard.append("asked")
                body = b'{"summary":"\\u001b[2J"}'
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    threading.Thread(target=lie, daemon=True).start()
    return "occupied"


heard = []


def occupied():
    return f"{len(heard)} asked"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        attack = globals().get(self.path.strip("/"))
        if callable(attack):
            try:
                said = f"done: {attack()}"
            except OSError as error:
                said = f"refused: {error.strerror}"
        else:
            said = "harmless v1"
        body = said.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
