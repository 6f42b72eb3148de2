"""What the files of a cassette are called, and what is wrong with one that can't be used.

The rule: an error names the file, and says what to do where the user can do something.
"""

import re

from proxy.store.codec import LARGEST_BYTES

DOCUMENT, BODY = "json", "body"

LARGEST_FILE_BYTES = LARGEST_BYTES
"""Of one file; it bounds what a forged one can make us read."""

_NAME = re.compile(rf"([0-9a-f]{{64}})\.({DOCUMENT}|{BODY})")


class CassetteError(Exception):
    """This cassette can't be read or written. The message names the file, and says why."""


def key_and_kind(name: str) -> tuple[str, str] | None:
    """The key in a file's name, and which of the two files it is; None for what is no part of a cassette.

    Hidden files and those with other endings may lie beside one, such as a `.gitattributes` or a `README.md`.

    Raises:
        CassetteError: it is named like a part of a cassette, and not after a key.
    """
    if match := _NAME.fullmatch(name):
        return match[1], match[2]
    if not name.startswith(".") and name.endswith((f".{DOCUMENT}", f".{BODY}")):
        raise CassetteError("it is not named after the key of a recording, so it is none of a cassette's")
    return None


def name_of(key: str, kind: str) -> str:
    return f"{key}.{kind}"
