"""The app on $PORT, as on any platform that gives one."""

import os

from answer import Handler, Server

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
