"""The same as an ASGI app, for uvicorn."""

import asyncio
import urllib.parse

VERSION = "v1"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        query = urllib.parse.parse_qs(scope["query_string"].decode())
        await asyncio.sleep(int(query["ms"][0]) / 1000)
    body = f"hello from uvicorn {VERSION}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
