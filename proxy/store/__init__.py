"""Recordings kept: in memory, on disk, and how they get from one to the other; `tiered` puts it together."""
