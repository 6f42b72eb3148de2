"""Where a subject is to run.

The rule: what it writes, it writes there; all of it is gone at the end.
"""

from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    port: int
    """To listen on, at 127.0.0.1."""
    upstream_url: str
    """Ends in `/v1`."""
    directory: Path
    """Empty, and its own."""
    shared: Path
    """Common to all subjects of the run."""
