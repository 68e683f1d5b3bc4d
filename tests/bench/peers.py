"""The servers that are compared, each with an app of its own behind it: started, reloaded, stopped.

All of them pass requests over TCP on the loopback interface to the same app, keep their connections to
it, add X-Forwarded headers, write no access log, and use all cores. Each server and each app has a session
of its own, as systemd gives each service one: the kernel shares the cores among sessions (sched(7),
autogroup), so an app that is of the session of its server interrupts it less."""

import os
import shutil
import signal
import socket
import subprocess
import time

from processes import Marked, Meter, descendants, memory_kb
from systemd import Service

SOON = 60


class Programs:
    """What was built, of the release profile or for a test."""

    def __init__(self, directory):
        self.directory = os.path.realpath(directory)
        self.gapless = f"{self.directory}/gapless"
        self.app = f"{self.directory}/examples/bench-app"
        self.load = f"{self.directory}/examples/bench-load"
        self.bare = f"{self.directory}/examples/bench-bare"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_port(port, process=None):
    """Until something listens; how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < SOON:
        if process and process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return time.monotonic() - began
        except OSError:
            time.sleep(0.001)
    raise TimeoutError(f"nothing listens on port {port} within {SOON} s")


class Server:
    """Of `workers` processes of the app behind it."""

    # Kinds of load that it cannot serve.
    lacks = ()

    def __init__(self, programs, directory, workers=1):
        self.programs, self.directory, self.workers = programs, directory, workers
        os.makedirs(directory)
        self.apps = []
        self.port = free_port()

    def meter(self):
        return Meter(self.pids)

    def memory_kb(self):
        """(resident, proportional) of all its own processes."""
        each = [memory_kb(pid) for pid in self.pids()]
        return sum(rss for rss, _ in each), sum(pss for _, pss in each)


class Peer(Server):
    """Somebody else's server, whose apps run beside it."""

    def start(self):
        for _ in range(self.workers):
            port = free_port()
            app = subprocess.Popen([self.programs.app], env={"PORT": str(port)}, start_new_session=True)
            self.apps.append((app, port))
            wait_port(port, app)
        self.write(f"{self.directory}/config", self.config())
        began = time.monotonic()
        with open(f"{self.directory}/log", "w") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.directory, start_new_session=True, env=os.environ | {"HOME": self.directory})
        wait_port(self.port, self.process)
        return time.monotonic() - began

    def write(self, path, text):
        with open(path, "w") as file:
            file.write(text)

    def pids(self):
        return descendants(self.process.pid)

    def stop(self):
        everybody = [self.process] + [app for app, _ in self.apps]
        for process in everybody:
            process.terminate()
        for process in everybody:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Nginx(Peer):
    name, package = "nginx", "nginx-light"

    def command(self):
        return ["nginx", "-e", f"{self.directory}/error.log", "-c", f"{self.directory}/config"]

    def config(self):
        servers = " ".join(f"server 127.0.0.1:{port};" for _, port in self.apps)
        return f"""daemon off;
worker_processes auto;
pid {self.directory}/pid;
error_log {self.directory}/error.log warn;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path {self.directory}/body; proxy_temp_path {self.directory}/proxy;
    fastcgi_temp_path {self.directory}/fastcgi; uwsgi_temp_path {self.directory}/uwsgi; scgi_temp_path {self.directory}/scgi;
    keepalive_requests 100000000; keepalive_timeout 1h; client_max_body_size 0;
    upstream app {{ {servers} keepalive 512; keepalive_requests 100000000; }}
    map $http_upgrade $wanted {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_set_header Connection $wanted;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host;
        }}
    }}
}}
"""

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    @staticmethod
    def version(programs):
        return subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.split("/")[-1].strip()


class Haproxy(Peer):
    name, package = "haproxy", "haproxy"

    def command(self):
        return ["haproxy", "-W", "-db", "-f", f"{self.directory}/config"]

    def config(self):
        servers = "\n".join(f"    server app{number} 127.0.0.1:{port}" for number, (_, port) in enumerate(self.apps))
        return f"""global
    nbthread {os.cpu_count()}
defaults
    mode http
    http-reuse always
    option forwardfor
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend clients
    bind 127.0.0.1:{self.port} backlog 4096
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    default_backend app
backend app
{servers}
"""

    def reload(self):
        self.process.send_signal(signal.SIGUSR2)

    @staticmethod
    def version(programs):
        return subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout.split()[2]


class Caddy(Peer):
    name, package = "caddy", "caddy"

    def command(self):
        return ["caddy", "run", "--adapter", "caddyfile", "--config", f"{self.directory}/config"]

    def config(self):
        self.admin = free_port()
        servers = " ".join(f"127.0.0.1:{port}" for _, port in self.apps)
        return f"""{{
    admin 127.0.0.1:{self.admin}
    auto_https off
}}
http://127.0.0.1:{self.port} {{
    reverse_proxy {servers}
}}
http://bench.test:{self.port} {{
    reverse_proxy {servers}
}}
"""

    def reload(self):
        command = ["caddy", "reload", "--force", "--address", f"127.0.0.1:{self.admin}", "--adapter", "caddyfile", "--config", f"{self.directory}/config"]
        subprocess.run(command, check=True, capture_output=True, timeout=SOON, env=os.environ | {"HOME": self.directory})

    @staticmethod
    def version(programs):
        return subprocess.run(["caddy", "version"], capture_output=True, text=True).stdout.split()[0].lstrip("v")


class Bare(Peer):
    """hyper on both sides, and nothing else: bare.rs."""

    name, package = "bare", None
    lacks = ("echo",)

    def command(self):
        return [self.programs.bare, str(self.port), *(str(port) for _, port in self.apps)]

    def config(self):
        return ""

    @staticmethod
    def version(programs):
        return "of this repository"


class Gapless(Server):
    """All as the defaults are, but `keys` of [app] and `more` tables."""

    name, package = "gapless", None

    def __init__(self, programs, directory, workers=1, keys="", more=""):
        super().__init__(programs, directory, workers)
        mark = f"BENCH_MARK={directory}"
        config = f'[app]\ncommand = ["{programs.app}"]\nlisten = "port"\nworkers = {workers}\n{keys}\n{more}\n'
        self.service = Service(programs.gapless, f"{directory}/unit", config, mark)
        self.port = self.service.port
        self.marked = Marked(mark)

    def start(self):
        return self.service.start()

    def everybody(self):
        """Also the app."""
        return [(pid, program(pid)) for pid in self.marked.find()]

    def pids(self):
        # One that has ended, and that nobody has reaped, has none.
        return [pid for pid, program in self.everybody() if program not in ("", self.programs.app)]

    def app_pids(self):
        return [pid for pid, program in self.everybody() if program == self.programs.app]

    def reload(self):
        self.service.cli("reload")

    def stop(self):
        try:
            self.service.stop()
        finally:
            for pid, _ in self.everybody():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    @staticmethod
    def version(programs):
        return subprocess.run([programs.gapless, "--version"], capture_output=True, text=True).stdout.split()[1]


def program(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


KINDS = {kind.name: kind for kind in (Nginx, Haproxy, Caddy, Bare, Gapless)}


def need(names):
    """Installs what is missing; how to get it, where that cannot be."""
    absent = [name for name in names if KINDS[name].package and not shutil.which(name)]
    if not absent:
        return
    missing = [KINDS[name].package for name in absent]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LookupError(f"missing; as root on Debian or Ubuntu: apt-get install {' '.join(missing)}")
    print(f"bench: installing {' '.join(missing)} with apt-get", flush=True)
    os.makedirs("/etc/systemd/system", exist_ok=True)
    masks = [mask for name in absent if not os.path.lexists(mask := f"/etc/systemd/system/{name}.service")]
    for mask in masks:
        # Only the program is wanted: the service would take port 80.
        os.symlink("/dev/null", mask)
    try:
        quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL, "check": True}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], **quiet)
    except subprocess.CalledProcessError as error:
        raise LookupError(f"cannot be installed: {error}") from error
    finally:
        for mask in masks:
            os.remove(mask)
            if shutil.which("systemctl"):
                # Installed, it would start at the next boot.
                subprocess.run(["systemctl", "disable", "--quiet", "--no-reload", os.path.basename(mask)], stderr=subprocess.DEVNULL, check=False)
