"""The pages people rank on: routes over a `Store`, each one call of it. Nothing here decides who gets which group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from humanpref.annotate import admin, security
from humanpref.annotate.bare import bare
from humanpref.annotate.languages import LANGUAGES
from humanpref.annotate.pages import STATIC, Site, embed, site_of
from humanpref.annotate.records import MOST, AnnotateError, Annotator, Answer, Assignment, Work
from humanpref.annotate.security import Guard, Limiter, Rates, RequestError, Sessions, address
from humanpref.annotate.store import Store
from humanpref.web import LastingFiles, static_version

router = APIRouter()
Form = Annotated[dict[str, str], Depends(security.form)]

BACK = frozenset({"/", "/instructions", "/register", "/admin", "/admin/login"})
"""Where a form may send the reader back to."""


class AnswerBody(BaseModel):
    """An answer as the page's script sends it; see `Answer`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ranks: list[int] | None = Field(None, max_length=MOST)
    unsafe: list[int] = Field(default_factory=list, max_length=MOST)
    skip: str | None = Field(None, max_length=500)
    seconds: float = Field(0.0, ge=0, le=1e7, allow_inf_nan=False)

    def answer(self) -> Answer:
        """Return the record; the store checks whether it fits the group."""
        ranks = None if self.ranks is None else tuple(self.ranks)
        return Answer(ranks, tuple(self.unsafe), self.skip, self.seconds)


def annotator_of(request: Request) -> Annotator:
    """Return who is signed in, if they are not too fast: a dependency of every annotator's route."""
    person = security.who(request, site_of(request).store)
    site_of(request).limiter.hit("requests", f"annotator {person.number}")
    return person


def visitor(request: Request) -> None:
    """Count a request of nobody in particular by its address."""
    site_of(request).limiter.hit("requests", address(request))


Person = Annotated[Annotator, Depends(annotator_of)]


# ---- coming and going


@router.get("/healthz")
def healthz(request: Request) -> dict[str, str]:
    """Say whether the database can be reached (503 where not)."""
    site_of(request).store.annotator(0)
    return {"status": "ok"}


@router.get("/join/{token}")
def join(request: Request, token: str) -> Response:
    """Sign in by a personal link, as often as it is opened."""
    site = site_of(request)
    site.limiter.check("join", address(request))
    if site.store.annotator_of_token(token) is None:
        site.limiter.hit("join", address(request))
        raise RequestError(403, "bad_link")
    security.sign_in(request, token)
    return RedirectResponse("/", 303)


@router.get("/register", dependencies=[Depends(visitor)])
def register_form(request: Request) -> Response:
    """Show the form to take part without an invitation, where the project allows that."""
    site = site_of(request)
    if not site.store.config.self_registration:
        raise AnnotateError("not_found", "people are invited to this project")
    return site.page(request, "register.html", problem=None)


@router.post("/register", dependencies=[Depends(visitor)])
def register(request: Request, form: Form) -> Response:
    """Add a person by the name they give, sign them in and show their link."""
    site = site_of(request)
    if not site.store.config.self_registration:
        raise AnnotateError("not_found", "people are invited to this project")
    if not form.get("name", "").strip():
        return site.page(request, "register.html", 422, problem="error.bad_name")
    site.limiter.hit("register", address(request))
    _, token = site.store.invite(form["name"])
    security.sign_in(request, token)
    return site.page(request, "welcome.html", link=str(request.url_for("join", token=token)))


@router.post("/leave")
def leave(request: Request) -> Response:
    """Sign out on this device."""
    security.sign_out(request)
    return RedirectResponse("/", 303)


@router.post("/language")
def language(request: Request, form: Form) -> Response:
    """Choose the language of all pages."""
    if form.get("language") in LANGUAGES:
        request.session["language"] = form["language"]
    back = form.get("back", "/")
    return RedirectResponse(back if back in BACK else "/", 303)


# ---- ranking


@router.get("/", response_class=HTMLResponse)
def home(request: Request) -> Response:
    """Show the instructions first, then what is to be ranked, or that there is nothing left."""
    site = site_of(request)
    if not request.session.get("link") and site.store.config.self_registration:
        return RedirectResponse("/register", 303)
    person = annotator_of(request)
    work = _plain_work(site.store.work(person.number))
    if not request.session.get("read") and not work["progress"]["done"]:
        return site.page(request, "instructions.html", first=True)
    return site.page(request, "rank.html", work=work, data=embed(work))


@router.get("/instructions")
def instructions(request: Request, person: Person) -> Response:  # noqa: ARG001 - only for those who take part
    """Show the instructions again."""
    return site_of(request).page(request, "instructions.html", first=False)


@router.post("/start")
def start(request: Request, person: Person) -> Response:  # noqa: ARG001
    """Note that the instructions were read."""
    request.session["read"] = True
    return RedirectResponse("/", 303)


@router.get("/api/tasks")
def tasks(request: Request, person: Person) -> dict[str, Any]:
    """Return the current group, the next and the progress; the leases are renewed."""
    return _plain_work(site_of(request).store.work(person.number))


@router.post("/api/answers/{token}")
def answer(request: Request, person: Person, token: str, body: AnswerBody) -> dict[str, Any]:
    """Keep an answer (on the disk before this returns) and return what comes next."""
    site = site_of(request)
    site.limiter.hit("answers", str(person.number))
    return _plain_work(site.store.submit_and_go_on(person.number, token, body.answer()))


@router.post("/api/practice/{token}")
def practise(request: Request, person: Person, token: str, body: AnswerBody) -> dict[str, Any]:
    """Keep an answer to a practice group and return, with what comes next, what most people prefer."""
    site = site_of(request)
    site.limiter.hit("answers", str(person.number))
    shown = [task for task in site.store.open_assignments(person.number) if task.token == token]
    work = _plain_work(site.store.submit_and_go_on(person.number, token, body.answer()))
    return work | {"expected": _expected(site, shown[0]) if shown else None}


@router.get("/api/recent")
def recent(request: Request, person: Person) -> dict[str, Any]:
    """Return the last five answers, to change them."""
    found = site_of(request).store.recent(person.number)
    return {"recent": [_plain(task) | {"answer": _plain_answer(task.answered)} for task in found]}


@router.get("/image/{token}/{position}")
def image(request: Request, person: Person, token: str, position: int) -> Response:
    """Return an image of one of the reader's own groups, with nothing that tells where it comes from."""
    content, media_type = bare(_read(site_of(request).store.image(person.number, token, position)))
    # no Last-Modified, no ETag: the time of a file would tell apart pictures of different models
    return Response(content, media_type=media_type, headers={"Cache-Control": "private, max-age=3600, immutable"})


def _plain_work(work: Work) -> dict[str, Any]:
    """Return what is before someone, in plain values: no kind but practice, no names, no sources."""
    progress = work.progress
    return {
        "tasks": [_plain(task) for task in work.tasks],
        "progress": {"done": progress.done, "left": progress.left, "practice": progress.practice_left},
    }


def _plain(task: Assignment) -> dict[str, Any]:
    return {
        "token": task.token,
        "prompt": task.prompt,
        "images": [f"/image/{task.token}/{position}" for position in range(len(task.images))],
        "practice": task.kind == "practice",
    }


def _plain_answer(said: Answer | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {"ranks": said.ranks, "unsafe": said.unsafe, "skip": said.skip}


def _expected(site: Site, task: Assignment) -> list[int] | None:
    """Return the known order of a practice group by the positions it was shown in."""
    group = site.practice.get(task.prompt)
    if task.kind != "practice" or group is None or group.gold_ranks is None:
        return None
    return [group.gold_ranks[image] for image in task.images]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise AnnotateError("image_gone", "the image cannot be read") from None


# ---- the application


def create_app(store: Store, *, secret: str, rates: Rates | None = None) -> FastAPI:
    """Make the application of one project. `secret` signs the sessions: another one ends them all."""
    practice: dict[str, Any] = {}
    for group in store.groups().values():
        if group.role == "practice":  # two of one prompt cannot be told apart: no feedback
            practice[group.prompt] = None if group.prompt in practice else group
    site = Site(store, Limiter(rates or Rates()), static_version(STATIC), {k: g for k, g in practice.items() if g})
    app = FastAPI(title="humanpref annotate", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.site = site
    app.state.overviews = admin.Overviews(store)
    app.include_router(router)
    app.include_router(admin.router)
    app.mount(f"/static/{site.version}", LastingFiles(directory=STATIC))
    app.add_exception_handler(AnnotateError, _failed)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Guard, sessions=Sessions(secret), refuse=site.failed)
    return app


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnnotateError)
    return site_of(request).failed(request, error)


def _not_understood(request: Request, error: Exception) -> Response:  # noqa: ARG001 - what was wrong stays here
    return site_of(request).error(request, "bad_request", 422)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "bad_request"
    return site_of(request).error(request, code, error.status_code)


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    trusted_proxies: str = "127.0.0.1",
    log_level: str = "warning",
) -> None:
    """Serve a project until it is stopped.

    `trusted_proxies` are the addresses (comma-separated, or *) whose X-Forwarded-For and X-Forwarded-Proto are
    believed; a proxy must pass the Host header on. Requests are not logged: the links' tokens are in them.
    """
    import uvicorn

    uvicorn.run(
        create_app(store, secret=store.secret),
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        log_level=log_level,
        forwarded_allow_ips=trusted_proxies,
        timeout_graceful_shutdown=10,
    )
