"""The yardstick, a program of its own: the least that passes answers on and keeps a copy, in aiohttp on uvloop.

The rule: nothing is tuned, and nothing is done that a tee need not do: no cache, no key, no log, no time-outs.
"""

import argparse

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

_OF_THIS_HOP = frozenset(("connection", "host", "keep-alive", "transfer-encoding"))
_LARGEST_BODY = 2**30


class _Tee:
    def __init__(self, upstream_url: str) -> None:
        self._upstream_url = upstream_url
        self._session: aiohttp.ClientSession

    async def start(self, _: web.Application) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def stop(self, _: web.Application) -> None:
        await self._session.close()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        url = self._upstream_url + request.path_qs.removeprefix("/v1")
        fields, asked = _end_to_end(request.headers), await request.read()
        copy = []
        async with self._session.request(request.method, url, headers=fields, data=asked) as answer:
            response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                copy.append(piece)
                await response.write(piece)
        await response.write_eof()
        return response


def _end_to_end(fields: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in fields.items() if name.lower() not in _OF_THIS_HOP)


def _main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    arguments.add_argument("upstream_url")
    given = arguments.parse_args()
    tee, app = _Tee(given.upstream_url), web.Application(client_max_size=_LARGEST_BODY)
    app.on_startup.append(tee.start)
    app.on_cleanup.append(tee.stop)
    app.router.add_route("*", "/{path:.*}", tee.serve)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=given.port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    _main()
