"""The yardstick of a hit, a program of its own: the least that reads a question and has its answer ready.

The rule: it does not look at what it is asked, but for whether a stream is wanted: there is one answer of each kind.
"""

import argparse

import uvloop
from aiohttp import web

from benchmarks import questions

_LARGEST_BODY = 2**30


class _Handler:
    def __init__(self, number: int, frames: int) -> None:
        self._plain = questions.plain_body(number)
        self._stream = questions.stream_body(number, frames)

    async def serve(self, request: web.Request) -> web.Response:
        asked = await request.read()
        if b'"stream":true' in asked:
            return web.Response(body=self._stream, content_type="text/event-stream")
        return web.Response(body=self._plain, content_type="application/json")


def _main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    arguments.add_argument("number", type=int, help="of the question whose answers it gives to all")
    arguments.add_argument("frames", type=int, help="of its streamed answer")
    given = arguments.parse_args()
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/{path:.*}", _Handler(given.number, given.frames).serve)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=given.port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    _main()
