"""The annotation pages over real HTTP: who gets in, what is kept, what is refused, what is never told."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from humanpref.annotate import security
from humanpref.annotate.languages import LANGUAGES, texts
from humanpref.annotate.records import Answer
from humanpref.annotate.security import COOKIE, MAX_BODY, Rates
from tests.annotating import Served, make_store, serving

RANKS = [2, 1, 4, 3]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(*make_store(tmp_path, groups=8)) as site:
        yield site


# ---- coming in


def test_a_link_signs_in_again_and_again(served: Served) -> None:
    link = served.invite()
    for _ in range(2):  # the second time without cookies, as after they were cleared
        person = served.visitor()
        response = person.get(link)
        assert response.status_code == 200
        assert "How it works" in response.text
        cookie = response.history[0].headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Secure" not in cookie
    assert len(person.tasks()) == 2


def test_the_cookie_is_secure_behind_https(served: Served) -> None:
    person = served.visitor(headers={"X-Forwarded-Proto": "https"})
    response = person.client.get(served.invite(), follow_redirects=False)
    assert "Secure" in response.headers["set-cookie"]


def test_instructions_come_first_and_once(served: Served) -> None:
    person, link = served.visitor(), served.invite()
    person.get(link)
    assert person.post("/start").url.path == "/"
    assert 'id="pictures"' in person.get("/").text
    person.send(f"/api/answers/{person.tasks()[0]['token']}", ranks=RANKS)
    again = served.visitor()  # who has answered already need not read them on another device
    assert 'id="pictures"' in again.get(link).text
    assert "How it works" in again.get("/instructions").text


def test_nobody_gets_in_without_a_link(served: Served) -> None:
    stranger = served.visitor()
    assert stranger.get("/").status_code == 401
    assert "personal link" in stranger.get("/").text
    assert stranger.get("/join/guess").status_code == 403
    for path in ("/api/tasks", "/api/recent", "/image/x/0"):
        response = stranger.get(path)
        assert (response.status_code, response.json()["error"]) == (401, "no_session")
    stranger.get("/")
    assert stranger.send("/api/answers/x", ranks=RANKS).status_code == 401
    assert stranger.get("/nowhere").status_code == 404
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert stranger.get(path).status_code == 404


def test_a_forged_session_is_nobody(served: Served) -> None:
    person = served.annotator()
    cookie = person.client.cookies[COOKIE]
    payload, _, rest = cookie.partition(".")
    for forged in (cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB"), payload[:-2] + "xx." + rest, "nonsense"):
        response = httpx.get(f"{served.url}/api/tasks", cookies={COOKIE: forged})
        assert response.status_code == 401


def test_revoking_and_renewing_end_a_session_at_once(served: Served) -> None:
    person = served.annotator()
    number = served.store.annotators()[0].number
    token = person.tasks()[0]["token"]
    served.store.revoke(number)
    response = person.send(f"/api/answers/{token}", ranks=RANKS)
    assert (response.status_code, response.json()["error"]) == (403, "revoked")
    assert person.get("/").status_code == 403
    assert not served.store.judgements()
    link = f"{served.url}/join/{served.store.renew(number)}"
    assert person.get("/").status_code == 403  # the old session stays dead
    assert person.get(link).status_code == 200


def test_sessions_last_while_they_are_used_and_the_administrators_not_for_long(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, boss = served.annotator(), _admin(served)
    assert "set-cookie" not in person.get("/").headers
    monkeypatch.setattr(security, "RESIGN_SECONDS", -1)
    assert "set-cookie" in person.get("/").headers
    assert boss.get("/admin/live").status_code == 200
    monkeypatch.setattr(security, "ADMIN_SECONDS", 0)
    assert boss.get("/admin/live").status_code == 401
    monkeypatch.setattr(security, "SESSION_SECONDS", -1)
    assert person.get("/").status_code == 401


def test_leaving_forgets_who_it_was(served: Served) -> None:
    person = served.annotator()
    person.get("/")
    assert person.post("/leave").status_code == 401
    assert person.get("/").status_code == 401


def test_registering(tmp_path: Path) -> None:
    with serving(*make_store(tmp_path, self_registration=True)) as site:
        person = site.visitor()
        assert person.get("/").url.path == "/register"
        assert person.post("/register", name="  ").status_code == 422
        response = person.post("/register", name="<b>Eve</b>")
        link = re.search(r'value="(http://[^"]+/join/[^"]+)"', response.text)
        assert link
        assert site.store.annotators()[0].name == "<b>Eve</b>"
        assert len(person.tasks()) == 2
        assert site.visitor().get(link[1]).status_code == 200


def test_registering_is_closed_unless_it_is_wanted(served: Served) -> None:
    person = served.visitor()
    person.get("/")
    assert person.get("/register").status_code == 404
    assert person.post("/register", name="Eve").status_code == 404
    assert not served.store.annotators()


# ---- answering


def test_an_answer_is_kept_and_the_next_group_comes(served: Served) -> None:
    person = served.annotator()
    first, second = person.tasks()
    response = person.send(f"/api/answers/{first['token']}", ranks=RANKS, unsafe=[3], seconds=4.5)
    assert response.status_code == 200
    work = response.json()
    assert [task["token"] for task in work["tasks"]][0] == second["token"]
    assert work["progress"] == {"done": 1, "left": 7, "practice": 0}
    [judgement] = served.store.judgements()
    assert judgement.ranks is not None
    assert [judgement.ranks[image] for image in judgement.shown] == RANKS
    assert judgement.unsafe == (judgement.shown[3],)


def test_the_same_answer_twice_is_one_and_another_one_corrects_it(served: Served) -> None:
    person = served.annotator()
    token = person.tasks()[0]["token"]
    threads = [
        threading.Thread(target=person.send, args=(f"/api/answers/{token}",), kwargs={"ranks": RANKS}) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [j.corrected for j in served.store.judgements()] == [0]
    assert person.send(f"/api/answers/{token}", ranks=[1, 2, 3, 4]).status_code == 200
    [judgement] = served.store.judgements()
    assert judgement.corrected == 1
    recent = person.get("/api/recent").json()["recent"]
    assert [(task["token"], task["answer"]["ranks"]) for task in recent] == [(token, [1, 2, 3, 4])]


def test_skipping_keeps_the_reason(served: Served) -> None:
    person = served.annotator()
    token = person.tasks()[0]["token"]
    assert person.send(f"/api/answers/{token}", skip="other: <script>alert(1)</script>").status_code == 200
    assert served.store.judgements()[0].skip == "other: <script>alert(1)</script>"
    assert all(task["token"] != token for task in person.tasks())


def test_what_is_no_answer_is_refused(served: Served) -> None:
    person = served.annotator()
    token = person.tasks()[0]["token"]
    bodies: list[dict[str, Any]] = [
        {},
        {"ranks": [1, 2, 3]},
        {"ranks": [1, 1, 2, 3]},
        {"ranks": [0, 1, 2, 3]},
        {"ranks": [1, 2, 3, 99]},
        {"ranks": ["1", "2", "3", "4"]},
        {"ranks": [1.5, 2, 3, 4]},
        {"ranks": [True, 2, 3, 4]},
        {"ranks": [[], 2, 3, 4]},
        {"ranks": RANKS, "unsafe": [4]},
        {"ranks": RANKS, "skip": "both"},
        {"ranks": RANKS, "seconds": -1},
        {"ranks": RANKS, "seconds": "NaN"},
        {"ranks": RANKS, "annotator": 2},
        {"skip": ""},
        {"skip": "x" * 501},
    ]
    for body in bodies:
        response = person.send(f"/api/answers/{token}", **body)
        assert response.status_code == 422, body
        assert set(response.json()) == {"error", "message"}
    assert not served.store.judgements()


def test_ties_where_the_project_allows_them(tmp_path: Path) -> None:
    with serving(*make_store(tmp_path, ties=True)) as site:
        person = site.annotator()
        assert person.send(f"/api/answers/{person.tasks()[0]['token']}", ranks=[1, 1, 3, 4]).status_code == 200
        assert sorted(site.store.judgements()[0].ranks or ()) == [1, 1, 3, 4]


def test_practice_says_what_most_people_prefer_and_does_not_count(tmp_path: Path) -> None:
    with serving(*make_store(tmp_path, groups=2, practice=2)) as site:
        person = site.annotator()
        task = person.tasks()[0]
        assert task["practice"]
        reply = person.send(f"/api/practice/{task['token']}", ranks=[1, 2, 3, 4]).json()
        assert sorted(reply["expected"]) == [1, 2, 3, 4]
        [judgement] = site.store.judgements()
        assert reply["expected"] == [image + 1 for image in judgement.shown]  # drawn best first
        assert reply["progress"] == {"done": 0, "left": 2, "practice": 1}
        other = person.tasks()[-1]
        assert not other["practice"]
        reply = person.send(f"/api/practice/{other['token']}", ranks=[1, 2, 3, 4]).json()
        assert reply["expected"] is None  # the order of no other group is ever told


# ---- what stays apart


def test_nobody_reads_or_answers_for_another(served: Served) -> None:
    ada, ben = served.annotator("Ada"), served.annotator("Ben")
    hers = ada.tasks()[0]
    assert ada.get(hers["images"][0]).status_code == 200
    stolen = ben.get(hers["images"][0])
    absent = ben.get("/image/nothing/0")
    assert (stolen.status_code, stolen.json()) == (absent.status_code, absent.json()) == (404, stolen.json())
    for body in ({"ranks": RANKS}, {"skip": "mine now"}):
        refused = ben.send(f"/api/answers/{hers['token']}", **body)
        unknown = ben.send("/api/answers/nothing", **body)
        assert (refused.status_code, refused.json()) == (unknown.status_code, unknown.json())
        assert refused.status_code == 404
    assert ben.send(f"/api/practice/{hers['token']}", ranks=RANKS).status_code == 404
    assert not served.store.judgements()
    ada.send(f"/api/answers/{hers['token']}", ranks=RANKS)
    assert ben.get("/api/recent").json() == {"recent": []}


def test_nothing_tells_where_a_picture_comes_from(served: Served) -> None:
    person = served.annotator()
    page = person.get("/")
    task = person.tasks()[0]
    seen = page.text + str(page.headers) + person.get("/api/tasks").text
    for source in {image.source for group in served.store.groups().values() for image in group.images}:
        assert f"{source}/" not in seen
    assert not re.search(r"gold|repeat|group-\d|Ada", seen)
    response = person.get(task["images"][0])
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"] == "private, max-age=3600, immutable"
    assert not {"last-modified", "etag", "content-disposition"} & set(response.headers)


def test_only_pictures_are_served_as_pictures(tmp_path: Path) -> None:
    import hashlib

    from humanpref.annotate.records import ProjectConfig, ProjectGroup, ProjectImage
    from humanpref.annotate.store import Store

    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("<script>alert(1)</script>")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    group = ProjectGroup("g", "a cat", (ProjectImage("a.png", digest), ProjectImage("b.png", digest)))
    with serving(*Store.create(str(tmp_path / "p.db"), ProjectConfig(practice=False), tmp_path, [group])) as site:
        person = site.annotator()
        response = person.get(person.tasks()[0]["images"][0])
        assert response.status_code == 410
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "alert" not in response.text


def test_a_picture_that_is_gone_takes_its_group_away(served: Served, tmp_path: Path) -> None:
    person = served.annotator()
    task = person.tasks()[0]
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    assert person.get(task["images"][0]).status_code == 410
    assert all(other["token"] != task["token"] for other in person.tasks())
    assert len(served.store.counts().problems) == 1


# ---- safety


def test_every_response_has_the_headers(served: Served) -> None:
    person = served.annotator()
    static = re.search(r'href="(/static/[^"]+\.css)"', person.get("/").text)
    assert static
    for path in ("/", "/healthz", "/nowhere", "/api/tasks", "/admin", person.tasks()[0]["images"][0], static[1]):
        headers = person.get(path).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert "cache-control" in headers
    assert person.get("/").headers["cache-control"] == "no-store"
    assert "immutable" in person.get(static[1]).headers["cache-control"]
    for text in (person.get(path).text for path in ("/", "/instructions", "/admin/login")):
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)


def test_forms_need_the_sessions_token(served: Served) -> None:
    person, other = served.annotator(), served.annotator("Ben")
    for path in ("/start", "/leave", "/language", "/register", "/admin/login", "/admin/invite", "/admin/logout"):
        for csrf in ({}, {"csrf": ""}, {"csrf": other.csrf}):
            assert person.client.post(path, data={"name": "x", **csrf}).status_code == 403, path


def test_answers_need_the_sessions_token_and_the_own_site(served: Served) -> None:
    person = served.annotator()
    path, body = f"/api/answers/{person.tasks()[0]['token']}", {"ranks": RANKS}
    assert person.client.post(path, json=body).json()["error"] == "csrf"
    assert person.client.post(path, json=body, headers={"X-CSRF-Token": "wrong"}).status_code == 403
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": served.url + ".evil.example"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        response = person.client.post(path, json=body, headers={"X-CSRF-Token": person.csrf, **headers})
        assert response.status_code == 403, headers
    for method in ("PUT", "DELETE", "PATCH"):
        assert person.client.request(method, path, json=body).status_code == 403
    assert not served.store.judgements()
    headers = {"X-CSRF-Token": person.csrf, "Origin": served.url, "Sec-Fetch-Site": "same-origin"}
    assert person.client.post(path, json=body, headers=headers).status_code == 200


def test_large_bodies_are_refused_whatever_they_say(served: Served) -> None:
    person = served.annotator()
    path, headers = f"/api/answers/{person.tasks()[0]['token']}", {"X-CSRF-Token": person.csrf}

    def chunks() -> Iterator[bytes]:  # sent without a length
        for _ in range(MAX_BODY // 1024 + 1):
            yield b"x" * 1024

    for content in (b"x" * (MAX_BODY + 1), chunks()):
        response = person.client.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["error"]) == (413, "too_large")


def test_nonsense_is_refused_kindly(served: Served) -> None:
    person = served.annotator()
    path = f"/api/answers/{person.tasks()[0]['token']}"
    headers = {"X-CSRF-Token": person.csrf, "Content-Type": "application/json"}
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"ranks": 1e999}', b"csrf=" + b"%" * 99):
        response = person.client.post(path, content=content, headers=headers)
        assert (response.status_code, response.json()["error"]) == (422, "bad_request"), content


def test_the_language_form_leads_nowhere_else(served: Served) -> None:
    person = served.annotator()
    for back in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        response = person.client.post(
            "/language", data={"csrf": person.csrf, "language": "zh", "back": back}, follow_redirects=False
        )
        assert response.headers["location"] == "/"


def test_names_and_prompts_are_text(tmp_path: Path) -> None:
    store, admin = make_store(tmp_path, title="<img src=x onerror=alert(1)>")
    with serving(store, admin) as site:
        page = site.annotator("<script>alert(1)</script>").get("/").text
        assert "<img src=x" not in page
        boss = _admin(site)
        assert "<script>alert" not in boss.get("/admin").text
        assert "&lt;script&gt;alert" in boss.get("/admin").text


# ---- rates


def _limited(tmp_path: Path, **rates: str) -> Any:
    return serving(*make_store(tmp_path, groups=8), rates=Rates(**rates))


def test_guessing_links_is_slowed_down(tmp_path: Path) -> None:
    with _limited(tmp_path, join="3/minute") as site:
        stranger, link = site.visitor(), site.invite()
        assert [stranger.get(f"/join/{i}").status_code for i in range(5)] == [403, 403, 403, 429, 429]
        response = stranger.get(link)
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 61
        assert "http-equiv" in response.text  # the page tries again by itself


def test_links_that_are_right_are_not_slowed_down(tmp_path: Path) -> None:
    with _limited(tmp_path, join="3/minute") as site:
        link = site.invite()
        assert [site.visitor().get(link).status_code for _ in range(6)] == [200] * 6


def test_guessing_the_administrators_token_is_slowed_down(tmp_path: Path) -> None:
    with _limited(tmp_path, admin="2/minute") as site:
        boss = site.visitor()
        boss.get("/admin/login")
        assert [boss.post("/admin/login", token="guess").status_code for _ in range(3)] == [403, 403, 429]
        assert boss.post("/admin/login", token=site.admin).status_code == 429


def test_answers_and_requests_have_a_rate_of_their_own(tmp_path: Path) -> None:
    with _limited(tmp_path, answers="2/minute") as site:
        ada, ben = site.annotator("Ada"), site.annotator("Ben")
        codes = [ada.send(f"/api/answers/{ada.tasks()[0]['token']}", ranks=RANKS).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert len(site.store.judgements()) == 2
        assert ben.send(f"/api/answers/{ben.tasks()[0]['token']}", ranks=RANKS).status_code == 200
    with _limited(tmp_path / "other", requests="5/minute") as site:
        person = site.annotator()
        response = [person.get("/api/tasks") for _ in range(6)][-1]
        assert response.status_code == 429
        assert "retry-after" in response.headers


# ---- the administrator


def _admin(site: Served) -> Any:
    boss = site.visitor()
    boss.get("/admin/login")
    assert boss.post("/admin/login", token=site.admin).url.path == "/admin"
    boss.get("/admin")
    return boss


def test_the_dashboard_is_for_the_administrator_alone(served: Served) -> None:
    person = served.annotator()
    assert person.get("/admin").url.path == "/admin/login"
    assert person.get("/admin/live").status_code == 401
    for path in ("invite", "annotators/1/revoke", "annotators/1/renew", "annotators/1/exclude", "annotators/1/readmit"):
        assert person.post(f"/admin/{path}", name="x", reason="x").status_code == 401
    assert len(served.store.annotators()) == 1
    assert served.store.annotators()[0].active
    boss = _admin(served)
    assert boss.get("/admin/live").status_code == 200
    boss.post("/admin/logout")
    assert boss.get("/admin/live").status_code == 401


def test_a_new_administrators_token_ends_the_old_one(served: Served) -> None:
    boss, old = _admin(served), served.admin
    served.admin = served.store.renew_admin()
    assert boss.get("/admin/live").status_code == 401
    assert _admin(served).get("/admin/live").status_code == 200
    assert not served.store.check_admin(old)


def test_inviting_renewing_and_revoking(served: Served) -> None:
    boss = _admin(served)
    page = boss.post("/admin/invite", name="Grace").text
    link = re.search(r'value="(http://[^"]+/join/[^"]+)"', page)
    assert link
    person = served.visitor()
    assert person.get(link[1]).status_code == 200
    assert link[1] not in boss.get("/admin").text  # shown once
    page = boss.post("/admin/annotators/1/renew").text
    assert link[1] not in page
    assert person.get("/").status_code == 403
    new = re.search(r'value="(http://[^"]+/join/[^"]+)"', page)
    assert new
    assert person.get(new[1]).status_code == 200
    assert boss.post("/admin/annotators/1/revoke").status_code == 200
    assert person.get("/").status_code == 403
    assert "no access" in boss.get("/admin").text
    assert boss.post("/admin/annotators/99/renew").status_code == 404
    assert boss.post("/admin/invite", name=" ").status_code == 422


def test_leaving_someone_out_and_back_in(served: Served) -> None:
    served.annotator("Ada")
    boss = _admin(served)
    assert boss.post("/admin/annotators/1/exclude", reason=" ").status_code == 422
    page = boss.post("/admin/annotators/1/exclude", reason="clicks through & <fast>").text
    assert "clicks through &amp; &lt;fast&gt;" in page
    assert served.store.annotators()[0].excluded == "clicks through & <fast>"
    assert "clicks through" not in boss.post("/admin/annotators/1/readmit").text
    assert served.store.annotators()[0].excluded is None


def test_the_dashboard_says_who_to_look_at(tmp_path: Path) -> None:
    with serving(*make_store(tmp_path, groups=12, images=5, minimum_seconds=0.0)) as site:
        for name in ("Ada", "Ben", "Cleo", "Dora", "Mallory"):
            person, _ = site.store.invite(name)
            while open_now := site.store.open_assignments(person.number, 1):
                true = [image + 1 for image in open_now[0].images]
                ranks = tuple(6 - rank for rank in true) if name == "Mallory" else tuple(true)
                site.store.submit(person.number, open_now[0].token, Answer(ranks))
        page = _admin(site).get("/admin").text
        rows = re.findall(r'<tr class="(\w*)">\s*<th scope="row">(\w+)', page)
        assert rows[0] == ("suspect", "Mallory")  # first, where it is seen
        assert rows[1:] == [("", name) for name in ("Ada", "Ben", "Cleo", "Dora")]
        assert "<dd>60</dd>" in page


# ---- languages and trouble


def test_languages(served: Served) -> None:
    person = served.visitor(headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    page = person.get(served.invite()).text
    assert '<html lang="zh-CN">' in page
    assert texts("zh")["how.title"] in page
    assert "How it works" in person.post("/language", language="en", back="/").text
    assert "How it works" in person.get("/instructions").text
    assert served.visitor(headers={"Accept-Language": "zh"}).get("/").text.count(texts("zh")["error.no_session"]) == 1


def test_every_text_is_in_every_language() -> None:
    gaps = {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in texts("en").items()}
    for language in LANGUAGES:
        assert {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in texts(language).items()} == gaps


def test_every_text_is_used() -> None:
    root = Path(__file__).parents[1] / "src" / "humanpref" / "annotate"
    files = [*root.glob("*.py"), *root.glob("templates/*"), *root.glob("static/*.js")]
    code = "\n".join(path.read_text() for path in files if "Sortable" not in path.name)
    built = ("error.", "how.", "skip.")  # made of parts
    unused = [
        key
        for key in texts("en")
        if not key.startswith(built) and not re.search(rf"\b{re.escape(key.removeprefix('js.'))}\b", code)
    ]
    assert unused == []


def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humanpref.annotate.database import UnreachableError

    person = served.annotator()
    assert person.get("/healthz").json() == {"status": "ok"}

    def away(*_: Any) -> None:
        raise UnreachableError("the database is away")

    monkeypatch.setattr(served.store, "annotator_of_token", away)
    monkeypatch.setattr(served.store, "annotator", away)
    for path in ("/", "/api/tasks", "/healthz"):
        response = person.get(path)
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert 'http-equiv="refresh" content="5"' in person.get("/").text


def test_an_accident_is_a_500_without_a_word_about_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    person = served.annotator()

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served.store, "work", broken)
    for path in ("/", "/api/tasks"):
        response = person.get(path)
        assert response.status_code == 500
        assert "secret detail" not in response.text
        assert "content-security-policy" in response.headers


def test_serving_says_nothing_and_stops_when_it_is_told(tmp_path: Path) -> None:
    make_store(tmp_path, groups=2)[0].close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from humanpref.annotate.app import serve; from humanpref.annotate.store import Store\n"
    code += "serve(Store(sys.argv[1]), port=int(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path / "project.db"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for _ in range(600):
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {"status": "ok"}
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/join/a-secret-token").status_code == 403
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert b"a-secret-token" not in said
    assert said == b"" or b"Traceback" not in said
