"""The store of an annotation project, on SQLite and on a real PostgreSQL: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from humanpref.annotate.database import Database, UnreachableError, database_url
from humanpref.annotate.project import find_groups, prepare_groups
from humanpref.annotate.records import AnnotateError, Answer, Assignment, ProjectConfig
from humanpref.annotate.schema import answers, assignments, groups, metadata
from humanpref.annotate.store import Store
from humanpref.errors import DataError, UnknownNameError
from humanpref.shapes.grammar import captions
from humanpref.shapes.sources import generate
from tests.postgres import Server, postgres

SOURCES = ("clean", "soft", "deaf", "coarse")
_names = count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "project.db")
    found: str = request.getfixturevalue("server").create(f"project_{next(_names)}")
    return found


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve groups of four."""
    root = tmp_path_factory.mktemp("pictures")
    for i, caption in enumerate(captions(12, seed=3)):
        folder = root / f"group-{i:02d}"
        folder.mkdir()
        (folder / "prompt.txt").write_text(caption)
        for source in SOURCES:
            generate(source, [caption], [i], 32)[0].save(folder / f"{source}.png")
    return root


Make = Callable[..., Store]


@pytest.fixture
def make(url: str, pictures: Path) -> Iterator[Make]:
    made: list[Store] = []

    def create(groups: int = 12, *, images: Path = pictures, gold: Path | None = None, **config: object) -> Store:
        found, root = find_groups(images)
        settings = {"practice": False, "gold_share": 0.0, "repeat_share": 0.0, **config}
        prepared = prepare_groups(found[:groups], root, gold=gold, practice=bool(settings["practice"]))
        store, _ = Store.create(url, ProjectConfig.from_dict(settings), root, prepared)
        made.append(store)
        return store

    yield create
    for store in made:
        store.close()


def an_order(assignment: Assignment, rng: random.Random) -> Answer:
    places = list(range(1, len(assignment.images) + 1))
    rng.shuffle(places)
    return Answer(tuple(places))


def work_off(store: Store, annotator: int, seed: int = 0) -> list[tuple[str, Answer]]:
    """Rank until nothing is left."""
    rng, said = random.Random(seed), []
    while held := store.open_assignments(annotator):
        answer = an_order(held[0], rng)
        store.submit(annotator, held[0].token, answer)
        said.append((held[0].token, answer))
    return said


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(AnnotateError) as caught:
        call()
    assert caught.value.code == code


# ---- handing out


def test_k_people_rank_each_group_and_the_others_get_nothing(make: Make) -> None:
    store = make(rankings_per_group=2)
    people = [store.invite(f"person {i}")[0].number for i in range(3)]
    said = [work_off(store, number, number) for number in people]
    assert [len(one) for one in said] == [12, 12, 0]
    assert Counter(j.group for j in store.judgements()) == {f"group-{i:02d}": 2 for i in range(12)}
    assert store.counts().done == store.counts().wanted == 24
    assert store.counts().complete_groups == 12
    assert store.progress(people[0]).left == 0


def test_answers_come_back_in_the_order_of_the_group(make: Make) -> None:
    store = make(groups=1, rankings_per_group=1)
    who, _ = store.invite("Ann")
    (held,) = store.open_assignments(who.number)
    ranks = (2, 4, 1, 3)
    store.submit(who.number, held.token, Answer(ranks, unsafe=(3,)))
    (judgement,) = store.judgements()
    (group,) = store.groups().values()
    assert {group.images[image].path: rank for image, rank in zip(held.images, ranks, strict=True)} == {
        group.images[i].path: rank for i, rank in enumerate(judgement.ranks or ())
    }
    assert judgement.unsafe == (held.images[3],)
    assert judgement.shown == held.images
    assert store.recent(who.number)[0].answered == Answer(ranks, (3,), None, judgement.seconds)


def test_the_order_differs_between_people_and_sources_are_hidden(make: Make) -> None:
    store = make(groups=1, rankings_per_group=30)
    orders, texts = set(), ""
    for i in range(12):
        who, _ = store.invite(f"person {i}")
        (held,) = store.open_assignments(who.number)
        orders.add(held.images)
        texts += repr(held)
    assert len(orders) > 5
    assert not any(source in texts for source in SOURCES)


def test_many_at_once_on_two_servers_never_more_than_k(make: Make, url: str) -> None:
    store = make(rankings_per_group=3)
    other = Store(url)
    people = [store.invite(f"person {i}")[0].number for i in range(10)]
    start = threading.Barrier(10)

    def one(number: int) -> int:
        start.wait()
        return len(work_off(store if number % 2 else other, number, number))

    with ThreadPoolExecutor(10) as pool:
        done = sum(pool.map(one, people))
    other.close()
    judgements = store.judgements()
    assert done == len(judgements) == 36
    assert set(Counter(j.group for j in judgements).values()) == {3}
    assert max(Counter((j.group, j.annotator) for j in judgements).values()) == 1
    with store.database.read() as connection:
        rows = connection.execute(sa.select(assignments.c.group_id, assignments.c.slot)).all()
        counted = connection.execute(sa.select(groups.c.id, groups.c.taken).where(groups.c.role == "task")).all()
    assert len(set(rows)) == len(rows)
    assert dict(counted) == Counter(group for group, _ in rows)  # nobody counted what another was about to add


def test_two_tabs_hold_the_same_groups(make: Make) -> None:
    store = make()
    who, _ = store.invite("Ann")
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda _: [a.token for a in store.open_assignments(who.number)], range(6)))
    assert len({tuple(tokens) for tokens in seen}) == 1
    assert len(seen[0]) == 2
    for _ in range(2):  # both tabs send their answer to it
        store.submit(who.number, seen[0][0], Answer((1, 2, 3, 4)))
    assert len(store.judgements()) == 1


def test_the_database_itself_refuses_two_on_one_place(make: Make) -> None:
    store = make(groups=1, rankings_per_group=1)
    who, other = store.invite("Ann")[0].number, store.invite("Bob")[0].number
    store.open_assignments(who)
    with pytest.raises(sa.exc.IntegrityError), store.database.write() as connection:
        row = dict(connection.execute(sa.select(assignments)).mappings().one())
        connection.execute(assignments.insert().values({**row, "id": 99, "token": "x", "annotator_id": other}))


# ---- leases


def test_an_abandoned_lease_returns_and_a_late_answer_counts_while_there_is_room(url: str, make: Make) -> None:
    make(groups=1, rankings_per_group=1, lease_minutes=10).close()
    clock = Clock()
    store = Store(url, clock=clock)
    ann, bob = store.invite("Ann")[0].number, store.invite("Bob")[0].number
    (held,) = store.open_assignments(ann)
    assert store.open_assignments(bob) == []
    clock.now += 9 * 60
    store.open_assignments(ann)  # renews it
    clock.now += 9 * 60
    assert store.open_assignments(bob) == []
    clock.now += 2 * 60
    (taken,) = store.open_assignments(bob)
    refused("expired", lambda: store.submit(ann, held.token, Answer((1, 2, 3, 4))))
    store.submit(bob, taken.token, Answer(skip="unclear prompt"))
    store.submit(ann, held.token, Answer((1, 2, 3, 4)))  # nobody needs the place: not thrown away
    refused("expired", lambda: store.submit(bob, taken.token, Answer((4, 3, 2, 1))))
    assert [j.ranks is None for j in store.judgements()] == [True, False]
    store.close()


def test_an_expired_group_handed_out_anew_is_answered_once(url: str, make: Make) -> None:
    make(groups=1, rankings_per_group=2, lease_minutes=1).close()
    clock = Clock()
    store = Store(url, clock=clock)
    ann = store.invite("Ann")[0].number
    (old,) = store.open_assignments(ann)
    clock.now += 3600
    (new,) = store.open_assignments(ann)
    assert new.token != old.token
    refused("expired", lambda: store.submit(ann, old.token, Answer((1, 2, 3, 4))))
    store.submit(ann, new.token, Answer((1, 2, 3, 4)))
    assert len(store.judgements()) == 1
    store.close()


def test_seconds_are_the_servers(url: str, make: Make) -> None:
    make(rankings_per_group=1).close()
    clock = Clock()
    store = Store(url, clock=clock)
    ann = store.invite("Ann")[0].number
    first, second = store.open_assignments(ann)
    clock.now += 12
    store.submit(ann, first.token, Answer((1, 2, 3, 4), seconds=9999))
    clock.now += 7.5  # the second was handed out ahead: its time begins with the first answer
    store.submit(ann, second.token, Answer((1, 2, 3, 4)))
    assert [j.seconds for j in store.judgements()] == [12.0, 7.5]
    store.close()


# ---- answers


def test_corrections_are_added_and_the_same_again_is_not(make: Make) -> None:
    store = make(groups=1)
    ann = store.invite("Ann")[0].number
    (held,) = store.open_assignments(ann)
    for answer in (Answer((1, 2, 3, 4)), Answer((1, 2, 3, 4)), Answer((4, 3, 2, 1)), Answer(skip="no idea")):
        store.submit(ann, held.token, answer)
    (judgement,) = store.judgements()
    assert (judgement.skip, judgement.ranks, judgement.corrected) == ("no idea", None, 2)
    with store.database.read() as connection:
        kept = connection.execute(sa.select(answers.c.ranks).order_by(answers.c.id)).scalars().all()
    assert len(kept) == 3
    assert json.loads(kept[0]) == [1 + held.images.index(i) for i in range(4)]


@pytest.mark.parametrize(
    "answer",
    [
        Answer((1, 2, 3)),
        Answer((1, 2, 3, 4, 5)),
        Answer((1, 1, 2, 3)),
        Answer((0, 1, 2, 3)),
        Answer((1, 2, 3, 9)),
        Answer((1, 2, 3, True)),
        Answer((1, 2, 3, 2.5)),  # type: ignore[arg-type]
        Answer(("1", "2", "3", "4")),  # type: ignore[arg-type]
        Answer((1, 2, 3, 4), unsafe=(4,)),
        Answer((1, 2, 3, 4), unsafe=(-1,)),
        Answer((1, 2, 3, 4), skip="both"),
        Answer(skip="  "),
        Answer(),
    ],
)
def test_an_answer_that_is_none_is_refused(make: Make, answer: Answer) -> None:
    store = make(groups=1)
    ann = store.invite("Ann")[0].number
    (held,) = store.open_assignments(ann)
    refused("bad_answer", lambda: store.submit(ann, held.token, answer))
    assert store.judgements() == []


def test_ties_where_they_are_allowed(make: Make) -> None:
    store = make(groups=1, ties=True)
    ann = store.invite("Ann")[0].number
    (held,) = store.open_assignments(ann)
    store.submit(ann, held.token, Answer((2, 2, 1, 3)))
    assert store.recent(ann)[0].answered.ranks == (2, 2, 1, 4)  # type: ignore[union-attr]


def test_nobody_reaches_the_work_of_another(make: Make) -> None:
    store = make()
    ann, bob = store.invite("Ann")[0].number, store.invite("Bob")[0].number
    held = store.open_assignments(ann)[0]
    refused("unknown", lambda: store.submit(bob, held.token, Answer((1, 2, 3, 4))))
    refused("unknown", lambda: store.image(bob, held.token, 0))
    refused("unknown", lambda: store.image(ann, held.token, 4))
    refused("unknown", lambda: store.image(ann, held.token, -1))
    refused("unknown", lambda: store.submit(ann, "no such token", Answer((1, 2, 3, 4))))
    assert store.recent(bob) == []


def test_links_are_stored_hashed_renewed_and_revoked(make: Make, url: str) -> None:
    store = make(rankings_per_group=1)
    ann, token = store.invite("  Ann \n Lee ")
    assert (ann.name, store.annotator_of_token(token)) == ("Ann Lee", ann)
    with store.database.read() as connection:
        dump = str([connection.execute(sa.select(table)).all() for table in metadata.sorted_tables])
    assert token not in dump
    again = store.renew(ann.number)
    assert store.annotator_of_token(token) is None
    assert store.annotator_of_token(again) is not None
    held = store.open_assignments(ann.number)[0]
    store.revoke(ann.number)
    assert store.annotator_of_token(again) is None
    refused("revoked", lambda: store.open_assignments(ann.number))
    refused("revoked", lambda: store.submit(ann.number, held.token, Answer((1, 2, 3, 4))))
    bob = store.invite("Bob")[0].number
    assert len(work_off(store, bob)) == 12  # what Ann held is free
    refused("unknown", lambda: store.revoke(99))


def test_exclusion_can_be_taken_back_and_both_are_on_record(make: Make) -> None:
    store = make()
    ann = store.invite("Ann")[0].number
    store.exclude(ann, "agrees with nobody")
    assert store.annotators()[0].excluded == "agrees with nobody"
    store.exclude(ann, None)
    assert store.annotators()[0].excluded is None
    with store.database.read() as connection:
        assert len(connection.exec_driver_sql("SELECT * FROM exclusions").all()) == 2


# ---- checks in between


def test_practice_gold_and_repeats(make: Make, pictures: Path, tmp_path: Path) -> None:
    gold = pictures / "gold.jsonl"
    rows = []
    for i in range(3):
        folder = f"group-{i:02d}"
        prompt = (pictures / folder / "prompt.txt").read_text()
        rows.append({"prompt": prompt, "images": [f"{folder}/{s}.png" for s in SOURCES], "ranks": [1, 2, 4, 3]})
    gold.write_text("\n".join(json.dumps(row) for row in rows))
    store = make(gold=gold, practice=True, gold_share=0.4, repeat_share=0.4, rankings_per_group=4)
    gold.unlink()
    assert Counter(g.role for g in store.groups().values()) == {"task": 9, "gold": 3, "practice": 3}
    for i in range(4):
        ann = store.invite(f"person {i}")[0].number
        assert store.progress(ann).practice_left == 3
        kinds = []
        while held := store.open_assignments(ann):
            kinds.append(held[0].kind)
            store.submit(ann, held[0].token, an_order(held[0], random.Random(i)))
        assert kinds[:3] == ["practice"] * 3
        assert Counter(kinds)["task"] == 9
    found = Counter(j.kind for j in store.judgements())
    assert found["task"] == 36
    assert found["practice"] == 12
    assert 4 <= found["gold"] <= 12
    assert found["repeat"] > 0
    for judgement in store.judgements():
        if judgement.kind == "gold":
            assert store.groups()[judgement.group].gold_ranks is not None
    by_person = [(j.annotator, j.group) for j in store.judgements() if j.kind == "repeat"]
    assert set(by_person) <= {(j.annotator, j.group) for j in store.judgements() if j.kind == "task"}


# ---- images


def test_images_that_changed_are_not_shown(make: Make, pictures: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("group-00", "group-01", "group-02"):
        (images / name).mkdir(parents=True)
        for file in (pictures / name).iterdir():
            (images / name / file.name).write_bytes(file.read_bytes())
    store = make(images=images)
    ann = store.invite("Ann")[0].number
    paths = {}
    for held in store.open_assignments(ann, 3):
        paths[held.token] = store.image(ann, held.token, 0)
        assert paths[held.token].is_relative_to(images)
    first, second, third = paths.values()
    first.touch()  # the same picture: fine
    second.write_bytes(third.read_bytes())
    third.unlink()
    codes = []
    for token in paths:
        try:
            codes.append(store.image(ann, token, 0).name)
        except AnnotateError as error:
            codes.append(error.code)
    assert codes == [first.name, "image_changed", "image_gone"]
    assert [token for token in paths if token in {a.token for a in store.open_assignments(ann)}] == list(paths)[:1]
    assert len(store.counts().problems) == 2
    assert work_off(store, ann)
    assert len(store.judgements()) == 1


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "images" / "g").mkdir(parents=True)
    for source in SOURCES[:2]:
        (tmp_path / "images" / "g" / f"{source}.png").symlink_to(pictures / "group-00" / f"{source}.png")
    found, root = find_groups(tmp_path / "images")
    with pytest.raises(DataError, match="leads out of"):
        prepare_groups(found, root)


# ---- making a project


def test_groups_of_a_run_of_generate_of_a_data_file_and_of_a_folder(tmp_path: Path) -> None:
    from humanpref.generate import generate as run_generate
    from humanpref.generate import make_backend
    from humanpref.prompts.records import Prompt

    prompts = [Prompt(text, f"p{i}", "shapes") for i, text in enumerate(captions(2, 0))]
    backends = [make_backend(f"shapes:{name}", {"size": "32"}) for name in SOURCES]
    run_generate(prompts, backends, tmp_path / "run")
    found, root = find_groups(tmp_path / "run")
    prepared = prepare_groups(found, root, practice=False)
    assert [(g.key, len(g.images), g.images[0].source) for g in prepared] == [("p0", 4, "clean"), ("p1", 4, "clean")]
    small = prepare_groups(found, root, practice=False, group_size=2)
    assert [g.key for g in small] == ["p0-1", "p0-2", "p1-1", "p1-2"]
    assert {i.path for g in small for i in g.images} == {i.path for g in prepared for i in g.images}
    rows = [{"prompt": g.prompt, "images": [i.path for i in g.images], "ranks": [1, 2, 3, 4]} for g in prepared]
    (root / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    again, _ = find_groups(root / "data.jsonl")
    assert [(g.prompt, len(g.images)) for g in again] == [(g.prompt, 4) for g in prepared]


def test_groups_that_cannot_be_ranked_are_named(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.png").write_bytes((pictures / "group-00" / "clean.png").read_bytes())
    found, root = find_groups(tmp_path)
    with pytest.raises(DataError, match=r"group alone .*has 1 images, a group has 2 to 10"):
        prepare_groups(found, root)
    for i in range(11):
        (tmp_path / "alone" / f"{i}.png").write_bytes((pictures / "group-00" / "clean.png").read_bytes())
    found, root = find_groups(tmp_path)
    with pytest.raises(DataError, match=r"--group-size"):
        prepare_groups(found, root)
    assert [len(g.images) for g in prepare_groups(found, root, group_size=10, practice=False)] == [6, 6]
    with pytest.raises(DataError, match="no such file"):
        find_groups(tmp_path / "nowhere")


def test_settings_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="rankings_per_group"):
        ProjectConfig.from_dict({"rankings": 3})
    with pytest.raises(DataError):
        ProjectConfig(lease_minutes=0)
    with pytest.raises(DataError):
        ProjectConfig(gold_share=0.9)


# ---- the database


def test_migrations_make_what_the_tables_say(make: Make, url: str) -> None:
    store = make()
    with store.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database = Database(url)
    database.upgrade()  # again: nothing to do, nothing lost
    database.dispose()
    assert len(store.groups()) == 12
    with pytest.raises(DataError, match="holds a project already"):
        make()


def test_an_older_or_empty_database_is_named(make: Make, url: str, tmp_path: Path) -> None:
    store = make()
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(DataError, match="humanpref annotate upgrade"):
        Store(url)
    with pytest.raises(DataError, match="humanpref annotate init"):
        Store(str(tmp_path / "empty.db"))
    (tmp_path / "text.db").write_text("this is no database, and long enough to be taken for one" * 40)
    with pytest.raises(DataError, match="is not a database"):
        Store(str(tmp_path / "text.db"))
    for bad in ("mysql://a@b/c", "sqlite://", "://"):
        with pytest.raises(DataError):
            database_url(bad)
    assert "secret" not in str(Database("postgresql://me:secret@localhost/x"))


SUBMIT = """
import os, signal, sys
from humanpref.annotate.records import Answer
from humanpref.annotate.store import Store
store = Store(sys.argv[1])
number = int(sys.argv[2])
while held := store.open_assignments(number):
    store.submit(number, held[0].token, Answer((1, 2, 3, 4)))
    print(held[0].token, flush=True)
    if len(held) == 1 or len(store.judgements()) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_submitted_survives_kill_9(make: Make, url: str) -> None:
    store = make(rankings_per_group=1)
    ann = store.invite("Ann")[0].number
    said: list[str] = []
    for stop in (3, 5, 12):
        done = subprocess.run(
            [sys.executable, "-c", SUBMIT, url, str(ann), str(stop)], capture_output=True, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        said += done.stdout.split()
        assert len(store.judgements()) == len(said) == stop
    assert len(set(said)) == 12


def test_a_locked_sqlite_database_is_waited_for(make: Make, url: str) -> None:
    # PostgreSQL locks rows: the group another one holds is passed over
    locker = None if "://" in url else sqlite3.connect(url, isolation_level=None, check_same_thread=False)
    store = make()
    ann = store.invite("Ann")[0].number
    held = store.open_assignments(ann)[0]
    if locker is not None:
        locker.execute("BEGIN IMMEDIATE")
        threading.Timer(1.0, lambda: locker.execute("COMMIT")).start()
    store.submit(ann, held.token, Answer((1, 2, 3, 4)))
    assert len(store.judgements()) == 1


def test_a_server_that_goes_away_and_comes_back(server: Server, pictures: Path) -> None:
    store, _ = Store.create(
        server.create(f"away_{os.getpid()}"),
        ProjectConfig(practice=False),
        pictures,
        prepare_groups(find_groups(pictures)[0], pictures, practice=False),
    )
    ann = store.invite("Ann")[0].number
    held = store.open_assignments(ann)[0]
    server.stop()
    try:
        with pytest.raises(UnreachableError, match="cannot be used now"):
            store.submit(ann, held.token, Answer((1, 2, 3, 4)))
    finally:
        server.start()
    store.submit(ann, held.token, Answer((1, 2, 3, 4)))
    assert len(store.judgements()) == 1
    store.close()
