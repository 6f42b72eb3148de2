"""The simulated upstream of `reprise simulate` and `reprise demo`: the OpenAI API without a model, a key or a bill.

What it says is a function of the request alone; ids, times and request ids are new each time, so that a replay can be
told from a second call. It stands beside the proxy and imports nothing of it.
"""

from proxy.simulator.server import Rhythm, Simulator

__all__ = ["Rhythm", "Simulator"]
