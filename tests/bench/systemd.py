"""Plays systemd for one gapless service, as tests/world/service.rs does for tests: sockets, what it says
by NOTIFY_SOCKET, the fds it keeps there, start and restart. No sandbox and no jobs: what these cost is
systemd's."""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time

# Boots and handovers on a loaded machine.
SOON = 60
STORED_MAX = 512


class Service:
    def __init__(self, gapless, directory, config, mark):
        self.gapless, self.directory = gapless, directory
        for name in ("state", "cache", "etc", "run/gapless@gapless"):
            os.makedirs(f"{directory}/{name}")
        with open(f"{directory}/etc/gapless.toml", "w") as file:
            file.write(config)
        key, _, value = mark.partition("=")
        # What the processes of the service are known by; a command is not one of them.
        self.mark = {key: value}
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": f"{directory}/notify",
            "INVOCATION_ID": "0123456789abcdef0123456789abcdef",
            "RUNTIME_DIRECTORY": f"{directory}/run/gapless@gapless",
            "XDG_RUNTIME_DIR": f"{directory}/run",
            "STATE_DIRECTORY": f"{directory}/state",
            "CACHE_DIRECTORY": f"{directory}/cache",
            "CONFIGURATION_DIRECTORY": f"{directory}/etc",
            "GAPLESS_STORE": f"{directory}/store",
        }
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096, reuse_port=True)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.pid = None
        self.stored = []  # (name, fd), oldest first
        self.is_ready = threading.Event()
        self.lock = threading.Lock()
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.ear.bind(f"{directory}/notify")
        self.poll = select.poll()
        self.poll.register(self.ear, select.POLLIN)
        threading.Thread(target=self.hear_all, daemon=True).start()

    def hear_all(self):
        while True:
            # A timeout only because what is stored meanwhile is to be polled, too.
            for fd, told in self.poll.poll(200):
                if fd == self.ear.fileno():
                    self.hear()
                elif told & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self.forget(lambda name, other: other == fd)

    def hear(self):
        text, ancillary, _, _ = self.ear.recvmsg(65536, socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(12))
        fds, sender = [], None
        for level, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
            elif kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack("iii", data)[0]
        said = dict(line.partition("=")[::2] for line in text.decode(errors="replace").splitlines())
        with self.lock:
            is_main = sender == self.pid
        name = said.get("FDNAME", "stored")
        if is_main and said.get("FDSTORE") == "1":
            for fd in fds:
                self.keep(name, fd, said.get("FDPOLL") != "0")
            fds = []
        elif is_main and said.get("FDSTOREREMOVE") == "1":
            self.forget(lambda other, fd: other == name)
        for fd in fds:
            # A barrier ends with that.
            os.close(fd)
        if is_main and said.get("READY") == "1":
            self.is_ready.set()

    def keep(self, name, fd, is_polled):
        with self.lock:
            if len(self.stored) >= STORED_MAX or any(is_same_file(fd, other) for _, other in self.stored):
                os.close(fd)
                return
            self.stored.append((name, fd))
        if is_polled:
            # No event asked for: hang-up and error are always told.
            self.poll.register(fd, 0)

    def forget(self, which):
        with self.lock:
            gone = [fd for name, fd in self.stored if which(name, fd)]
            self.stored = [(name, fd) for name, fd in self.stored if fd not in gone]
        for fd in gone:
            try:
                self.poll.unregister(fd)
            except KeyError:
                pass
            os.close(fd)

    def start(self):
        """Until READY=1; how many seconds that took."""
        self.is_ready.clear()
        with self.lock:
            # Newest first, after the socket.
            names = ["http"] + [name for name, _ in reversed(self.stored)]
            fds = [self.listener.fileno()] + [fd for _, fd in reversed(self.stored)]
            began = time.monotonic()
            self.pid = os.fork()
            if self.pid == 0:
                self.become(names, fds)
        if not self.is_ready.wait(SOON):
            raise TimeoutError(f"gapless is not READY within {SOON} s:\n{self.log()}")
        return time.monotonic() - began

    def become(self, names, fds):
        """In the child: never returns."""
        try:
            os.setsid()
            out = os.open(f"{self.directory}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open("/dev/null", os.O_RDONLY)
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1000) for fd in fds]
            os.dup2(nothing, 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            for number, fd in enumerate(high, 3):
                os.dup2(fd, number)
            os.closerange(3 + len(high), 1000)
            told = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names), "LISTEN_PID": str(os.getpid())}
            os.chdir("/")
            os.execve(self.gapless, ["gapless", "serve", "gapless"], self.environment | self.mark | told)
        finally:
            os._exit(127)

    def cli(self, *arguments):
        command = [self.gapless, *arguments, "gapless"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}{self.log()}")
        return done.stdout

    def begin_cli(self, *arguments):
        command = [self.gapless, *arguments, "gapless"]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)

    def end(self, number):
        os.kill(self.pid, number)
        deadline = time.monotonic() + SOON
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the keeper did not end within {SOON} s:\n{self.log()}")
            time.sleep(0.002)

    def ask(self, what):
        """Through the control socket."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(SOON)
            control.connect(f"{self.directory}/run/gapless@gapless/control.sock")
            control.sendall(f"{what} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: control.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head:
            raise RuntimeError(f"{what}: {answer!r}")
        return json.loads(body)

    def wait_status(self, what, holds):
        deadline = time.monotonic() + SOON
        while not holds(status := self.ask("GET /status")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {SOON} s: {what}: {status}")
            time.sleep(0.01)

    def wait_calm(self):
        """One front, one generation, nothing on its way."""
        self.wait_status("calm", lambda status: len(status["fronts"]) == 1 and len(status["generations"]) == 1)

    def restart(self):
        """systemctl restart: what ExecStop= does for it, SIGTERM, and the next keeper."""
        self.ask("POST /release")
        self.end(signal.SIGTERM)
        return self.start()

    def crash(self):
        """SIGKILL of the keeper, and Restart=always."""
        self.end(signal.SIGKILL)
        return self.start()

    def stop(self):
        self.end(signal.SIGTERM)
        self.forget(lambda name, fd: True)

    def log(self):
        with open(f"{self.directory}/log") as file:
            return file.read()[-4000:]


def is_same_file(one, other):
    """Only for files that have an inode of their own; two fds of the anonymous one are never the same."""
    if os.readlink(f"/proc/self/fd/{one}").startswith("anon_inode:"):
        return False
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino, first.st_mode) == (second.st_dev, second.st_ino, second.st_mode)
