"""A JSON request as the API reads it: what is missing, or of the wrong type, is refused in OpenAI's words."""

from typing import Any

import orjson

Json = dict[str, Any]

_NAMES = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
_HIDDEN_MODELS = ("unknown", "does-not-exist")  # any other name is taken, as users have names of their own


class Refused(Exception):
    """An error answer of the API; `status` is that of the response, `body` its JSON."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self.body = orjson.dumps({"error": error}, option=orjson.OPT_INDENT_2)


class RequestBody:
    """The members of a JSON request, each taken with the type that it must have; null is the same as absent.

    Raises:
        Refused: the body is not a JSON object, or a member is missing, of the wrong type or out of range.
    """

    def __init__(self, raw: bytes) -> None:
        try:
            members = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise Refused(400, "We could not parse the JSON body of your request: it is not valid JSON.") from error
        if not isinstance(members, dict):
            raise Refused(400, "We could not parse the JSON body of your request: expected a JSON object.")
        self.members: Json = members

    def model(self, default: str | None = None) -> str:
        model = self.text("model", default)
        if model is None:
            raise Refused(400, "you must provide a model parameter")
        if is_hidden(model):
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refused(404, message, code="model_not_found")
        return model

    def required(self, name: str, *kinds: type) -> object:
        """A member that must be there, is one of `kinds`, and is not empty."""
        value = self.members.get(name)
        if value is None:
            raise Refused(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        if type(value) not in kinds:
            raise _wrong_type(name, value, *kinds)
        if not value:
            message = f"Invalid '{name}': expected a value that is not empty."
            raise Refused(400, message, param=name, code="invalid_value")
        return value

    def inputs(self, name: str) -> list[object]:
        """A member that is one input or several of them.

        One is a string, or a list of tokens or of parts; several are a list of strings or of such lists.
        """
        given = self.required(name, str, list)
        several = isinstance(given, list) and isinstance(given[0], (str, list))
        inputs = given if several and isinstance(given, list) else [given]
        if not all(isinstance(each, (str, list)) and each for each in inputs):
            message = f"Invalid '{name}': expected strings or arrays, none of them empty."
            raise Refused(400, message, param=name, code="invalid_value")
        return inputs

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.members.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(name, value, str)
        return default if value is None else value

    def flag(self, name: str) -> bool:
        value = self.members.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(name, value, bool)
        return bool(value)

    def integer(self, name: str, highest: int) -> int | None:
        """A whole number from 1 to `highest`."""
        value = self.members.get(name)
        if value is None:
            return None
        if type(value) is not int:  # a bool is an int in Python, not in JSON
            raise _wrong_type(name, value, int)
        if not 1 <= value <= highest:
            message = f"Invalid '{name}': expected an integer from 1 to {highest}, but got {value}."
            raise Refused(400, message, param=name, code="integer_out_of_range")
        return value

    def part(self, name: str) -> Json:
        """A member that is an object; empty where it is absent."""
        value = self.members.get(name)
        if value is not None and not isinstance(value, dict):
            raise _wrong_type(name, value, dict)
        return value or {}

    def objects(self, name: str) -> list[Json]:
        """A member that is an array of objects; empty where it is absent."""
        value = self.members.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise Refused(400, f"Invalid type for '{name}': expected an array of objects.", param=name)
        return value


def is_hidden(model: str) -> bool:
    """Whether there is no model of that name."""
    return any(hidden in model for hidden in _HIDDEN_MODELS)


def _wrong_type(name: str, value: object, *kinds: type) -> Refused:
    expected = " or ".join(_NAMES[kind] for kind in kinds)
    message = f"Invalid type for '{name}': expected {expected}, but got {_NAMES[type(value)]} instead."
    return Refused(400, message, param=name, code="invalid_type")
