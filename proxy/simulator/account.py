"""The header fields that come with every answer: who is charged, what is left to spend, and who carried it."""

import math
import secrets
import time

from multidict import CIMultiDict

from proxy.simulator.answer import Answer

_DAY_S, _MINUTE_S = 86400.0, 60.0


class Allowance:
    """So much in a period. What was spent comes back evenly, little by little."""

    def __init__(self, limit: int, period_s: float) -> None:
        self.limit = limit
        self._each_s = period_s / limit
        self._whole_at_s = 0.0

    def spend(self, amount: int, now_s: float) -> None:
        """Take `amount`, or what is left if that is less: the simulator turns nobody away."""
        whole_at_s = max(self._whole_at_s, now_s) + amount * self._each_s
        self._whole_at_s = min(whole_at_s, now_s + self.limit * self._each_s)

    def remaining(self, now_s: float) -> int:
        spent = self.reset_s(now_s) / self._each_s
        return self.limit - math.ceil(round(spent, 3))  # rounded, or 1.0000001 would count as 2

    def reset_s(self, now_s: float) -> float:
        """Seconds until the allowance is whole again."""
        return max(0.0, self._whole_at_s - now_s)


class Account:
    """The organization that every request is charged to."""

    def __init__(self) -> None:
        self._requests = Allowance(10_000, _DAY_S)
        self._tokens = Allowance(200_000, _MINUTE_S)

    def headers(self, answer: Answer, taken_s: float, now_s: float) -> CIMultiDict[str]:
        """Charge for an answer that took `taken_s`, and say so. `now_s` is a monotonic time."""
        self._requests.spend(1, now_s)
        self._tokens.spend(answer.tokens, now_s)
        ray, session = secrets.token_hex(8), secrets.token_urlsafe(32)
        headers = CIMultiDict(
            {
                "Content-Type": "text/event-stream; charset=utf-8" if answer.stream else "application/json",
                "openai-organization": "org-simulated",
                "openai-processing-ms": str(round(taken_s * 1000)),
                "openai-project": "proj_simulated",
                "openai-version": "2020-10-01",
                **self._rate_limits(now_s),
                "x-request-id": f"req_{secrets.token_hex(16)}",
                "cf-cache-status": "DYNAMIC",
                "Server": "cloudflare",
                "cf-ray": f"{ray}-AMS",
                "alt-svc": 'h3=":443"; ma=86400',
            }
        )
        headers.add("set-cookie", f"__cf_bm={session}; path=/; max-age=1800; domain=.api.openai.com; HttpOnly; Secure")
        headers.add("set-cookie", f"_cfuvid={ray}-{int(time.time())}; path=/; domain=.api.openai.com; HttpOnly; Secure")
        if answer.model and answer.model.isascii() and answer.model.isprintable():  # or it cannot stand in a header
            headers.add("openai-model", answer.model)
        return headers

    def _rate_limits(self, now_s: float) -> dict[str, str]:
        requests, tokens = self._requests, self._tokens
        return {
            "x-ratelimit-limit-requests": str(requests.limit),
            "x-ratelimit-limit-tokens": str(tokens.limit),
            "x-ratelimit-remaining-requests": str(requests.remaining(now_s)),
            "x-ratelimit-remaining-tokens": str(tokens.remaining(now_s)),
            "x-ratelimit-reset-requests": duration(requests.reset_s(now_s)),
            "x-ratelimit-reset-tokens": duration(tokens.reset_s(now_s)),
        }


def duration(seconds: float) -> str:
    """As OpenAI writes it, to the millisecond: `6ms`, `8.64s`, `1m26.4s`, `6m0s`, `24h0m0s`."""
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:  # noqa: PLR2004, a second
        return f"{milliseconds}ms"
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    text = f"{rest / 1000:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
