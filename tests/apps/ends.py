"""The app on $PORT, with a daemon of its own. Both say which signal tells them to end, and take a
moment for it; who is named in $STAYS only says it."""

import os
import signal
import time

from answer import Handler, Server

role = "main"
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    role = "daemon"


def say(text):
    os.write(1, f"{role} {text}\n".encode())


def end(number, _frame):
    say("got " + signal.Signals(number).name)
    if role not in os.environ.get("STAYS", ""):
        time.sleep(0.2)
        say("ended well")
        os._exit(0)


for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, end)
say("hears")
if role == "daemon":
    while True:
        signal.pause()
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
