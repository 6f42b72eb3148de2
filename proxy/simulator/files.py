"""`/v1/files`: uploads of any size, read as they come; all that is kept of a file is its description."""

import time
from collections import deque

from aiohttp import BodyPartReader
from aiohttp.web import BaseRequest

from proxy.simulator.answer import Answer, fresh_id, plain
from proxy.simulator.request import Json, Refused

_MOST_LISTED = 10_000  # as many as the API gives in one list
_PIECE_BYTES = 64 * 1024


class Files:
    def __init__(self) -> None:
        self._newest_first: deque[Json] = deque(maxlen=_MOST_LISTED)

    async def upload(self, request: BaseRequest) -> Answer:
        """Read a multipart form with a `file` and a `purpose`.

        Raises:
            Refused: it is not such a form.
        """
        if request.content_type != "multipart/form-data":
            raise Refused(400, "Invalid Content-Type: a file is uploaded as multipart/form-data.")
        try:
            found = await _read_form(request)
        except ValueError as error:
            raise Refused(400, "We could not parse the multipart form of your request.") from error
        for name in ("file", "purpose"):
            if name not in found:
                raise Refused(400, f"'{name}' is a required property")
        described = {"id": fresh_id("file-"), "object": "file", **found.pop("file"), **found}
        self._newest_first.appendleft(described | {"created_at": int(time.time()), "status": "processed"})
        return plain(self._newest_first[0])

    def listing(self) -> Answer:
        files = list(self._newest_first)
        first, last = (files[0]["id"], files[-1]["id"]) if files else (None, None)
        return plain({"object": "list", "data": files, "first_id": first, "last_id": last, "has_more": False})


async def _read_form(request: BaseRequest) -> Json:
    found: Json = {}
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            continue
        if part.name == "file":
            found["file"] = {"filename": part.filename or "upload", "bytes": await _size(part)}
        elif part.name == "purpose":
            found["purpose"] = await part.text()
    return found


async def _size(part: BodyPartReader) -> int:
    size = 0
    while piece := await part.read_chunk(_PIECE_BYTES):
        size += len(piece)
    return size
