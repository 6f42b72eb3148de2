"""A soak: the proxy as a process, an upstream with every fault that we know of, and clients that do what clients do.

`python -m tests.chaos --seconds 3600 --seed 7` runs for an hour, `tests/test_chaos.py` for some seconds.

The rule: an answer is never right because it looks right; each byte is one that the upstream sent, for this question.
"""
