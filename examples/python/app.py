"""A WSGI app, for gunicorn."""

import time
import urllib.parse

VERSION = "v1"


def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        query = urllib.parse.parse_qs(environ["QUERY_STRING"])
        time.sleep(int(query["ms"][0]) / 1000)
    body = f"hello from gunicorn {VERSION}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
