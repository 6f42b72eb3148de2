"""`/v1/embeddings`: a vector of length 1 for each input, the same for the same input and model."""

import base64
import struct

import orjson

from proxy.simulator.answer import Answer, plain
from proxy.simulator.request import Refused, RequestBody
from proxy.simulator.speech import seed_of, tokens_in, vector

_LARGEST = 3072
_DIMENSIONS = {"text-embedding-3-large": _LARGEST}
_DIMENSIONS_OF_OTHERS = 1536


def embedding(body: RequestBody, _usual_tokens: int) -> Answer:
    model, inputs, form = body.model(), body.inputs("input"), _form(body)
    dimensions = body.integer("dimensions", _LARGEST) or _DIMENSIONS.get(model, _DIMENSIONS_OF_OTHERS)
    said = [orjson.dumps(each) for each in inputs]
    vectors = [vector(seed_of(model.encode(), each), dimensions) for each in said]
    found = [
        {"object": "embedding", "index": index, "embedding": _encoded(each, form)} for index, each in enumerate(vectors)
    ]
    tokens = sum(tokens_in(each) for each in said)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return plain({"object": "list", "data": found, "model": model, "usage": usage}, model, tokens)


def _form(body: RequestBody) -> str | None:
    form = body.text("encoding_format", "float")
    if form not in ("float", "base64"):
        message = f"Invalid value: '{form}'. Supported values are: 'float' and 'base64'."
        raise Refused(400, message, param="encoding_format", code="invalid_value")
    return form


def _encoded(floats: bytes, form: str | None) -> object:
    if form == "base64":
        return base64.b64encode(floats).decode()
    return struct.unpack(f"<{len(floats) // 4}f", floats)
