"""How much may be held in memory by all who share a bound.

The rule: who has taken gives back, whatever happens in between.
"""


class Allowance:
    """Bytes that are held, and how many may be."""

    __slots__ = ("held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Hold more; whether there was room for it. It is held in any case: whoever took too much has to let go."""
        self.held_bytes += size_bytes
        return self.held_bytes <= self.limit_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
