#!/usr/bin/python3
"""Runs as a unit in the virtual machine: /root/clients says how many idle connections move at a restart
and at an upgrade. What it finds out goes to the serial console, one line each."""

import json
import os
import socket
import subprocess
import threading
import time

IDLE = int(open("/root/clients").read())
# Emulated, and all of it on two busy cores.
MOVED_WITHIN = 300
CLIENT = ["/srv/probe/strict-client", "127.0.0.1:8888", "--seconds", "3600", "--until-stdin-closes", "--timeout", "300"]


def tell(*what):
    print("TRIAL", *what, flush=True)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def load(*arguments):
    client = subprocess.Popen([*CLIENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ready\n"
    return client


def finish(client):
    client.stdin.close()
    return client.stdout.readline().strip()


def status():
    """None between two keepers."""
    with socket.socket(socket.AF_UNIX) as control:
        try:
            control.connect("/run/gapless-control/gapless.sock")
            control.sendall(b"GET /status HTTP/1.0\r\nHost: x\r\n\r\n")
            answer = b"".join(iter(lambda: control.recv(65536), b""))
        except OSError:
            return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return json.loads(body) if b" 200 " in head else None


def wait_moved(old):
    """Until all are with another front than this, and it is gone."""
    deadline = time.monotonic() + MOVED_WITHIN
    while time.monotonic() < deadline:
        fronts = (status() or {}).get("fronts", [])
        if len(fronts) == 1 and fronts[0]["pid"] != old and fronts[0]["connections"] >= expected:
            return fronts[0]["pid"]
        time.sleep(0.1)
    said = run("journalctl", "--unit=gapless", "--output=cat", "--no-pager", "--lines=60")
    raise TimeoutError(f"{status()}\n{established()} established\n{said}")


def longest(ask, until):
    """The longest that this took, again and again, in milliseconds."""
    most = 0
    while not until.is_set():
        began = time.monotonic()
        if ask() is not None:
            most = max(most, time.monotonic() - began)
        time.sleep(0.01)
    return int(most * 1000)


def asked_meanwhile(happen):
    """How long systemd and the keeper took to answer at most, and `happen`."""
    over, took = threading.Event(), {}

    def ask(name, question):
        took[name] = longest(question, over)

    questions = {"systemd": lambda: subprocess.run(["systemctl", "is-active", "--quiet", "gapless.service"]).returncode, "keeper": status}
    threads = [threading.Thread(target=ask, args=question) for question in questions.items()]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    try:
        happen()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return {"ms": int((time.monotonic() - began) * 1000)} | {f"{name}_ms": took[name] for name in took}


def mebibytes(pid):
    """0 of one that has ended."""
    with open(f"/proc/{pid}/status") as lines:
        return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), 0)


def established():
    return len(run("ss", "-Htn", "state", "established", "dport", "=", "8888").splitlines())


def stored():
    return run("systemctl", "show", "--value", "--property=NFileDescriptorStore", "gapless")


def move(command):
    old = status()["fronts"][0]["pid"]
    before = mebibytes(old)

    def happen():
        run(*command)
        wait_moved(old)

    measured = asked_meanwhile(happen)
    new = status()
    memory = {"old_mib": before, "new_mib": mebibytes(new["fronts"][0]["pid"]), "keeper_mib": mebibytes(new["pid"])}
    return json.dumps(measured | memory | {"stored": int(stored())})


RESTART, UPGRADE = ("systemctl", "restart", "gapless.service"), ("gapless", "upgrade", "gapless")
run("ip", "link", "set", "lo", "up")
run("systemctl", "start", "gapless.socket", "gapless.service")
expected = 0
for name, command in (("restart", RESTART), ("upgrade", UPGRADE)):
    tell(f"{name} without any:", move(command))
began = time.monotonic()
idle = load("--clients", "0", "--idle", str(IDLE), "--asking", "50")
busy = load("--clients", "8", "--idle", "0", "--kinds", "get,post16k,pipelined,new")
tell("connected within", int(time.monotonic() - began), "s")
expected = IDLE
tell("established:", established())
for name, command in (("restart", RESTART), ("upgrade", UPGRADE)):
    tell(f"{name}:", move(command))
tell("busy:", finish(busy))
tell("idle:", finish(idle))
run("systemctl", "stop", "gapless.socket", "gapless.service")
tell("stored in the end:", stored())
tell("log:", run("journalctl", "--unit=gapless", "--priority=warning", "--output=cat", "--no-pager").replace("\n", " | "))
tell("end")
