"""The cleaner of the paper: a language model behind any OpenAI-compatible endpoint rewrites each prompt.

Every answer is stored before it is used, keyed by model, instruction and prompt, so that a run that was stopped pays
for no prompt twice. What comes back is checked (`answers.py`); a doubtful answer leaves the prompt for review.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.errors import HumanprefError, MissingExtraError
from humanpref.prompts.answers import INSTRUCTION, judge
from humanpref.prompts.llm_cache import Answer, AnswerCache
from humanpref.prompts.records import Cleaned
from humanpref.retry_after import retry_after

_GIVE_UP = 5  # prompts in a row that the endpoint does not answer


class EndpointError(HumanprefError):
    """An endpoint that cannot be used: it refuses the key or the model, or does not answer any more."""


@dataclass(frozen=True)
class LLMOptions:
    """The model and how to ask it. `base_url` None is OpenAI's own; prices are per million tokens."""

    model: str
    base_url: str | None = None
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    price_in: float | None = None
    price_out: float | None = None
    longest_wait: float = 300.0  # of what an endpoint may ask for in Retry-After


@dataclass
class Usage:
    """What a run has used. `cached` prompts were paid for in an earlier run; `cost` is this run's."""

    requests: int = 0
    failed_requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price_in: float | None = None
    price_out: float | None = None

    @property
    def cost(self) -> float | None:
        """The price of this run's answers, where the prices are known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.tokens_in * self.price_in + self.tokens_out * self.price_out) / 1e6

    def as_dict(self) -> dict[str, int | float | None]:
        """The figures, for reports."""
        return {"answers_paid": self.requests, "failed_requests": self.failed_requests, "from_cache": self.cached,
                "tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "cost": self.cost}  # fmt: skip


class LLMCleaner:
    """Cleans by a language model; results come in the order of the prompts, `concurrency` requests at a time."""

    name = "llm"

    def __init__(self, options: LLMOptions, api_key: str, cache: str | Path) -> None:
        try:
            import openai
        except ImportError:
            raise MissingExtraError('the llm cleaner needs openai: pip install "humanpref[prompts]"') from None
        self._errors = openai
        self._client = openai.OpenAI(api_key=api_key, base_url=options.base_url, timeout=options.timeout, max_retries=0)
        self.options = options
        self.usage = Usage(price_in=options.price_in, price_out=options.price_out)
        self._cache = AnswerCache(cache, options.model, INSTRUCTION)
        self._lock = threading.Lock()
        self._resume_at = 0.0  # when the endpoint may be asked again, for all threads
        self._stop = threading.Event()
        self._unanswered = 0
        self._why = ""  # why all threads have to stop

    def clean(self, prompts: Iterable[str]) -> Iterator[Cleaned]:
        """Clean prompts. Raises `EndpointError` when the endpoint refuses, or answers several in a row not at all."""
        waiting: deque[tuple[str, Future[Answer | str] | None]] = deque()
        asked: dict[str, Future[Answer | str]] = {}  # a prompt that comes twice is paid for once
        pool = ThreadPoolExecutor(self.options.concurrency)
        try:
            for prompt in prompts:
                if prompt.strip() and prompt not in asked:
                    asked[prompt] = pool.submit(self._answer, prompt)
                waiting.append((prompt, asked.get(prompt)))
                if len(waiting) >= 4 * self.options.concurrency:
                    yield self._result(*waiting.popleft())
                    if len(asked) > 64 * self.options.concurrency:
                        asked = {text: future for text, future in waiting if future is not None}
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()

    def _result(self, prompt: str, future: Future[Answer | str] | None) -> Cleaned:
        if future is None:
            return Cleaned(prompt, "", (), "empty", "no text")
        answer = future.result()
        if isinstance(answer, str):
            return Cleaned(prompt, prompt, (), "review", answer)
        return judge(prompt, answer.text, answer.finish)

    def _answer(self, prompt: str) -> Answer | str:
        """Return the model's answer, or why there is none."""
        if (known := self._cache.get(prompt)) is not None:
            with self._lock:
                self.usage.cached += 1
            return known
        why = ""
        for attempt in range(self.options.retries + 1):
            self._wait()
            try:
                answer = self._ask(prompt)
            except self._errors.APIStatusError as error:
                why = f"the endpoint failed ({error.status_code})"
                if error.status_code == 400 and "content" in str(error).lower():
                    return f"the endpoint refused the prompt ({error.status_code})"
                if error.status_code not in {408, 409, 425, 429} and error.status_code < 500:
                    raise self._give_up(
                        f"the endpoint refuses requests for {self.options.model!r}: "
                        f"{error.status_code} {str(error)[:200]}"
                    ) from None
                self._failed(attempt, error.response.headers, everyone=error.status_code in {429, 503})
            except (self._errors.APIConnectionError, self._errors.APIResponseValidationError, ValueError) as error:
                slow = isinstance(error, self._errors.APITimeoutError)
                why = "the endpoint did not answer in time" if slow else f"the endpoint failed ({type(error).__name__})"
                self._failed(attempt, {}, everyone=False)
            else:
                with self._lock:
                    self._unanswered = 0
                return answer
        with self._lock:
            self._unanswered += 1
            if self._unanswered >= _GIVE_UP:
                raise self._give_up(f"{why}, {_GIVE_UP} prompts in a row; what was answered is kept: run it again")
        return why

    def _ask(self, prompt: str) -> Answer:
        reply: Any = self._client.chat.completions.create(
            model=self.options.model,
            temperature=0,
            messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": prompt}],
        )
        if not getattr(reply, "choices", None):  # the client lets any JSON pass
            raise ValueError("no choices in the answer")
        choice, usage = reply.choices[0], getattr(reply, "usage", None)
        refusal = getattr(choice.message, "refusal", None)
        tokens_in, tokens_out = (int(getattr(usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens"))
        answer = Answer(refusal or choice.message.content or "", "refusal" if refusal else choice.finish_reason or "",
                        tokens_in, tokens_out)  # fmt: skip
        self._cache.put(prompt, answer)  # before anything else can go wrong: it is paid for
        with self._lock:
            self.usage.requests += 1
            self.usage.tokens_in += tokens_in
            self.usage.tokens_out += tokens_out
        return answer

    def _failed(self, attempt: int, headers: Any, *, everyone: bool) -> None:
        """Count a failure and wait: as long as the endpoint asks for, else twice as long each time, with chance."""
        with self._lock:
            self.usage.failed_requests += 1
        wait = retry_after(headers)
        if wait is None:
            wait = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311
        elif wait > self.options.longest_wait:
            raise self._give_up(f"the endpoint asks to wait for {wait:.0f} s; what was answered is kept: run it later")
        if everyone:
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
        elif self._stop.wait(wait):  # woken: another thread has given up
            raise EndpointError(self._why or "stopped")

    def _give_up(self, why: str) -> EndpointError:
        """Stop all threads, and say why (the error that comes out is that of the first prompt in order)."""
        self._why = self._why or why
        self._stop.set()
        return EndpointError(self._why)

    def _wait(self) -> None:
        while not self._stop.is_set() and (left := self._resume_at - time.monotonic()) > 0:
            self._stop.wait(left)
        if self._stop.is_set():
            raise EndpointError(self._why or "stopped")
