"""An app that was taken over: what is asked for by its path it tries with the rights of the app's user, from
inside the sandbox, and says what came of it."""

import ctypes
import http.server
import os
import signal
import socket
import subprocess
import tempfile
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


def processes(word):
    """Pids of gapless of one kind: seen by us, or named by who asks."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if word in arguments[1:2] and b"gapless" in arguments[0]:
            found.append(int(pid))
    return found


def on_each(pids, attack):
    """What came of it, for each: the worst first."""
    said = []
    for pid in pids:
        try:
            said.append(f"{pid} done {attack(pid)}")
        except OSError as error:
            said.append(f"{pid} refused {error.strerror}")
    return "; ".join(said) or "nobody is seen"


def read(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return len(file.read(16))


def look(pids):
    return "; ".join(
        on_each(pids, lambda pid, name=name: read(pid, name)) for name in ("mem", "maps", "environ", "io")
    )


def links(pids):
    return on_each(pids, lambda pid: os.readlink(f"/proc/{pid}/exe") + str(len(os.listdir(f"/proc/{pid}/fd"))))


def end(pids):
    return on_each(pids, lambda pid: os.kill(pid, signal.SIGKILL))


def signal_none(pids):
    """Only asks whether it may."""
    return on_each(pids, lambda pid: os.kill(pid, 0))


def stop(pids):
    return on_each(pids, lambda pid: os.kill(pid, signal.SIGSTOP))


def trace(pids):
    libc = ctypes.CDLL(None, use_errno=True)

    def attach(pid):
        if libc.ptrace(16, pid, 0, 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return on_each(pids, attach)


def seen(_pids):
    return len(processes(b"serve") + processes(b"front"))


def rename(_pids):
    """What a cage must not break: across directories, by rename and by link."""
    with tempfile.TemporaryDirectory() as top:
        os.mkdir(top + "/a")
        os.mkdir(top + "/b")
        open(top + "/a/file", "w").close()
        os.rename(top + "/a/file", top + "/b/file")
        os.link(top + "/b/file", top + "/a/link")
    return "renamed"


def child(_pids):
    """Nor its own children: to signal, and to look at."""
    with subprocess.Popen(["sleep", "60"]) as process:
        read(process.pid, "environ")
        process.terminate()
        return process.wait()


def hide():
    """Processes in control groups that gapless did not make, and in the one of the unit itself."""
    with open("/proc/self/cgroup") as file:
        own = next(line.split("::")[1].strip() for line in file if line.startswith("0::"))
    unit = "/sys/fs/cgroup" + os.path.dirname(own)
    deep = unit + "/odd name" + "/d" * 8
    os.makedirs(deep)
    for place in (unit, unit + "/odd name", deep):
        hidden = subprocess.Popen(["sleep", "100000"], start_new_session=True)
        with open(place + "/cgroup.procs", "w") as file:
            file.write(str(hidden.pid))
    return "hidden"


heard = []


def occupied():
    return f"{len(heard)} asked"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, _, pids = self.path.strip("/").partition("?")
        attack = globals().get(name)
        if callable(attack):
            try:
                named = [[int(pid) for pid in pids.split(",")]] if pids else []
                said = f"done: {attack(*named)}"
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
