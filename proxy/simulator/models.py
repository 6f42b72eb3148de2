"""`/v1/models`: a few names to choose from. Any other name is a model too, except one that says it is not."""

from proxy.simulator.answer import Answer, plain
from proxy.simulator.request import Json, Refused, is_hidden

_CREATED = {  # Unix times in seconds
    "gpt-4o": 1715367049,
    "gpt-4o-mini": 1721172741,
    "gpt-4.1": 1744316542,
    "gpt-4.1-mini": 1744318173,
    "gpt-5": 1754425777,
    "gpt-5-mini": 1754425928,
    "gpt-3.5-turbo-instruct": 1692901427,
    "text-embedding-3-small": 1705948997,
    "text-embedding-3-large": 1705953180,
    "omni-moderation-latest": 1731689265,
}


def models() -> Answer:
    return plain({"object": "list", "data": [_model(name) for name in _CREATED]})


def model(name: str) -> Answer:
    if is_hidden(name):
        raise Refused(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
    return plain(_model(name))


def _model(name: str) -> Json:
    created = _CREATED.get(name, 1735689600)
    return {"id": name, "object": "model", "created": created, "owned_by": "system"}
