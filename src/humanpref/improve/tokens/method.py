"""The method `tokens`: the model reads more than the prompt; all that is kept and scored is about the prompt itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from humanpref.errors import HumanprefError
from humanpref.generate.contract import Backend, Outcome, Request, Settings
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.generate.folder import FolderBackend
from humanpref.improve.methods import ImproveError, make_methods, only_diffusers
from humanpref.improve.tokens.templates import Template, get_template, join_negatives, join_templates
from humanpref.prompts.records import Prompt


@dataclass(frozen=True)
class TokensConfig:
    """Text of your own, joined after the named templates; blanks and commas count."""

    prefix: str = ""
    suffix: str = ""
    negative: str = ""


class Tokens:
    """`tokens:NAME[,NAME...][,prefix=TEXT][,suffix=TEXT][,negative=TEXT]`; `own` stands where no name is wanted.

    Several names, and several `tokens:` joined by +, are put in reading order (`Template.then`).
    """

    def __init__(self, what: str, config: TokensConfig) -> None:
        named = [get_template(name.strip()) for name in what.split(",")]
        self.template = join_templates([*named, Template("", config.prefix, config.suffix, config.negative)])
        if self.template.empty:
            raise ImproveError(f"tokens:{what}: adds nothing; name a template, or give prefix=, suffix= or negative=")

    def apply(self, backend: Backend) -> Backend:
        """Return a backend whose model reads the tokens too. Raises `ImproveError` where it cannot."""
        return with_tokens(backend, self.template)


@dataclass
class TokensBackend:
    """A backend that reads `template` around each prompt. Its outcomes are about the requests as they were made.

    So manifest, groups and scores have the prompt that a person asked for. `truncated` is told of what the model read,
    tokens included.
    """

    inner: Backend
    template: Template
    name: str = ""
    revision: str = ""
    settings: Settings = field(default_factory=dict)
    chunk: int = 0
    local: bool = False
    made_with: str = ""

    def __post_init__(self) -> None:
        self._copy()

    def _copy(self) -> None:
        inner = self.inner
        self.name, self.revision, self.chunk, self.local = inner.name, inner.revision, inner.chunk, inner.local
        own = {"method": "tokens", "prefix": self.template.prefix, "suffix": self.template.suffix}
        self.settings = {**inner.settings, "methods": [*inner.settings.get("methods", ()), own]}
        self.made_with = inner.made_with

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Let the backend look at the prompts as the model will read them."""
        self.inner.prepare([self._around(prompt) for prompt in prompts])
        self._copy()

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield the outcomes of the requests, made from the prompts with the tokens around them."""
        asked = {request.prompt.id: request.prompt for request in requests}
        changed = [replace(request, prompt=self._around(request.prompt)) for request in requests]
        for outcome in self.inner.generate(changed):
            self.made_with = self.inner.made_with
            request = outcome.request  # that of an image, not only of a prompt: seed and number stay
            yield replace(outcome, request=replace(request, prompt=asked[request.prompt.id]))

    def _around(self, prompt: Prompt) -> Prompt:
        return replace(prompt, text=self.template.around(prompt.text))


def with_tokens(backend: Backend, template: Template) -> Backend:
    """Return a backend that reads the template; a negative prompt is appended to the one there is.

    Raises `ImproveError` for a negative prompt on a backend that takes none, images made elsewhere, and best-of.
    """
    if isinstance(backend, FolderBackend):
        raise ImproveError(f"tokens change what a model reads; the images of folder:{backend.what} are made already")
    if any(own["method"] == "best-of" for own in backend.settings.get("methods", ())):
        raise ImproveError(
            "tokens come before best-of, which would choose by the prompt with its tokens: tokens:...+best-of:N"
        )
    if isinstance(backend, TokensBackend):  # so that names joined by , and by + mean the same
        return with_tokens(backend.inner, backend.template.then(template))
    if template.negative.strip():
        pipeline = only_diffusers(backend, "a negative prompt")
        backend = pipeline.changed(negative_prompt=join_negatives(pipeline.config.negative_prompt, template.negative))
    if not template.prefix and not template.suffix:
        return backend
    return TokensBackend(backend, replace(template, negative=""))  # that is in the pipeline's own options now


def takes_negatives(backend: Backend) -> bool:
    """Tell whether `with_tokens` can give the backend a negative prompt."""
    return isinstance(backend.inner if isinstance(backend, TokensBackend) else backend, DiffusersBackend)


def spec_of(template: Template) -> str | None:
    """Return the spec of a method that does what the template does, None for texts that a spec cannot hold."""
    parts = zip(("prefix", "suffix", "negative"), template.texts, strict=True)
    spec = ",".join(["tokens:own", *(f"{name}={text}" for name, text in parts if text)])
    try:
        (method,) = make_methods(spec)
    except (HumanprefError, ValueError):  # ValueError: it reads as several methods
        return None
    return spec if isinstance(method, Tokens) and method.template.texts == template.texts else None
