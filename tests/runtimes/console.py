"""Sits at a terminal before `gapless console`: types each line when what should come before it has come.

console.py APP EXPECTED TYPED EXPECTED [TYPED EXPECTED]...; what is expected is a regular expression. All
that was on the screen goes to stdout. Exit code 1: what is expected last on the screen did not come."""

import os
import pty
import re
import select
import signal
import sys
import time

WITHIN = 60


class Terminal:
    def __init__(self, command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execvp(command[0], command)
        self.screen = ""
        self.seen = 0

    def wait_for(self, pattern):
        """From where the last one ended, so that nothing counts twice."""
        until = time.monotonic() + WITHIN
        while True:
            found = re.compile(pattern).search(self.screen, self.seen)
            if found:
                self.seen = found.end()
                return True
            if not self.read(until):
                return False

    def read(self, until):
        left = max(0, until - time.monotonic())
        if not select.select([self.fd], [], [], left)[0]:
            return False
        try:
            piece = os.read(self.fd, 4096)
        except OSError:
            # How a terminal says that nobody is left on it.
            return False
        self.screen += piece.decode(errors="replace")
        return bool(piece)

    def hang_up(self):
        os.close(self.fd)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return True
            time.sleep(0.05)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return False


app, first, *rest = sys.argv[1:]
terminal = Terminal(["gapless", "--app", app, "console"])
came = terminal.wait_for(first)
for typed, expected in zip(rest[::2], rest[1::2]):
    if not came:
        break
    os.write(terminal.fd, typed.encode() + b"\r")
    came = terminal.wait_for(expected)
ended = terminal.hang_up()
print(terminal.screen)
if not came:
    sys.exit("*** what was expected did not come")
if not ended:
    sys.exit("*** the console outlived its terminal")
