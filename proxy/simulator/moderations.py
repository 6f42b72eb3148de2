"""`/v1/moderations`: low scores for everything, except for a text that names violence."""

import re

import orjson

from proxy.simulator.answer import Answer, fresh_id, plain
from proxy.simulator.conversation import text_of
from proxy.simulator.request import Json, RequestBody
from proxy.simulator.speech import Lots, tokens_in

_TEXT, _IMAGE = "text", "image"
_KINDS = {  # of input that each category is looked for in
    "harassment": [_TEXT],
    "harassment/threatening": [_TEXT],
    "hate": [_TEXT],
    "hate/threatening": [_TEXT],
    "illicit": [_TEXT],
    "illicit/violent": [_TEXT],
    "self-harm": [_TEXT, _IMAGE],
    "self-harm/instructions": [_TEXT, _IMAGE],
    "self-harm/intent": [_TEXT, _IMAGE],
    "sexual": [_TEXT, _IMAGE],
    "sexual/minors": [_TEXT],
    "violence": [_TEXT, _IMAGE],
    "violence/graphic": [_TEXT, _IMAGE],
}
_VIOLENT = re.compile(r"\b(kill|murder|attack|shoot|stab)", re.IGNORECASE)


def moderation(body: RequestBody, _usual_tokens: int) -> Answer:
    model, inputs = body.model("omni-moderation-latest"), body.inputs("input")
    answer = {"id": fresh_id("modr-"), "model": model, "results": [_result(each) for each in inputs]}
    return plain(answer, model, tokens_in(orjson.dumps(inputs)))


def _result(given: object) -> Json:
    lots = Lots(orjson.dumps(given))
    scores = {name: lots.number(1000) / 1e6 for name in _KINDS}
    if _VIOLENT.search(text_of(given)):
        scores["violence"] = (900 + lots.number(100)) / 1e3
    categories = {name: score > 0.5 for name, score in scores.items()}  # noqa: PLR2004, the half of a scale from 0 to 1
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": _KINDS,
    }
