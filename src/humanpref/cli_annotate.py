"""The commands `humanpref annotate ...`: a project of people who rank images, from its images to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.cli_options import only_for
from humanpref.errors import UnknownNameError
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.annotate.store import Store

annotate_app = typer.Typer(
    help="Let people rank groups of images in the browser, and make a data set of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DbOption = Annotated[
    str, typer.Option("--db", help="An SQLite file, sqlite:///FILE or postgresql://USER@HOST/NAME.", metavar="URL")
]
SERVER = "http://127.0.0.1:8000"


@annotate_app.command("init")
def init_command(
    images: Annotated[Path, typer.Option(help="A folder of `humanpref generate`, a data file, or group folders.")],
    db: DbOption,
    rankings_per_group: Annotated[int, typer.Option(help="People to rank each group: 10 for tests, 1 to train.")] = 10,
    group_size: Annotated[int | None, typer.Option(help="Deal larger groups into random ones of so many.")] = None,
    gold: Annotated[Path | None, typer.Option(help="A data file with known rankings of some of the groups.")] = None,
    gold_share: Annotated[float, typer.Option(help="Share of what people see that checks them.")] = 0.05,
    repeat_share: Annotated[float, typer.Option(help="Share that they have ranked before.")] = 0.05,
    ties: Annotated[bool, typer.Option("--ties", help="Allow equal places.")] = False,
    practice: Annotated[bool, typer.Option(help="Three groups to practise on first.")] = True,
    lease_minutes: Annotated[float, typer.Option(help="When an unanswered group is free again.")] = 30.0,
    minimum_seconds: Annotated[float, typer.Option(help="What a careful ranking takes at least.")] = 3.0,
    self_registration: Annotated[bool, typer.Option("--self-registration", help="Anyone may join.")] = False,
    order: Annotated[
        Literal["random", "active"], typer.Option(help="Any group next, or the one that tells most.")
    ] = "random",
    title: Annotated[str, typer.Option(help="The heading of the pages.")] = "Which pictures do you prefer?",
    seed: Annotated[int, typer.Option(help="What decides the groups' order and the practice groups.")] = 0,
) -> None:
    """Make a project of images and print the administrator's token, which is shown this once."""
    from humanpref.annotate.project import find_groups, prepare_groups
    from humanpref.annotate.records import ProjectConfig
    from humanpref.annotate.store import Store

    config = ProjectConfig(
        title=title,
        rankings_per_group=rankings_per_group,
        ties=ties,
        lease_minutes=lease_minutes,
        gold_share=gold_share,
        repeat_share=repeat_share,
        minimum_seconds=minimum_seconds,
        practice=practice,
        self_registration=self_registration,
        order=order,
        seed=seed,
    )
    found, root = find_groups(images)
    with progress("Checking images", sum(len(group.images) for group in found)) as advance:
        groups = prepare_groups(
            found, root, gold=gold, group_size=group_size, practice=practice, seed=seed, on_image=advance
        )
    store, token = Store.create(db, config, root, groups)
    counts = store.counts()
    say(
        f"{counts.groups} groups to be ranked by {rankings_per_group} people each: {counts.wanted} rankings",
        f"the administrator's token, for /admin (shown only now): {token}",
        f"next: humanpref annotate invite Ada --db {db}; humanpref annotate serve --db {db}",
    )
    print(token)


@annotate_app.command("invite")
def invite_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Who; only the administrator sees names.")],
    db: DbOption,
    url: Annotated[str, typer.Option(help="The address under which people reach the server.")] = SERVER,
) -> None:
    """Print a personal link for each person. It is shown this once; a new one ends the old (see /admin)."""
    store = _open(db)
    for name in names:
        person, token = store.invite(name)
        print(f"{person.name}\t{url.rstrip('/')}/join/{token}")


@annotate_app.command("serve")
def serve_command(
    db: DbOption,
    host: Annotated[str, typer.Option(help="0.0.0.0: from other machines, behind a TLS proxy.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    trusted_proxies: Annotated[str, typer.Option(help="Proxies whose forwarded headers are believed.")] = "127.0.0.1",
) -> None:
    """Serve the pages until it is stopped. Several servers may share a PostgreSQL database."""
    from humanpref.annotate.app import serve

    store = _open(db)
    say(f"http://{host}:{port} for those who have a link; /admin for you; stop with Ctrl-C")
    serve(store, host, port, trusted_proxies=trusted_proxies)


@annotate_app.command("status")
def status_command(
    db: DbOption, format: Annotated[Literal["table", "json"], typer.Option(help="table or json.")] = "table"
) -> None:
    """Print how far the project is, and whom to look at."""
    from humanpref.annotate.exclusion import suspects
    from humanpref.tables import add_row, make_table, render, to_json

    store = _open(db)
    counts, people = store.counts(), store.annotators()
    judgements, groups = store.judgements(), store.groups()
    excluded = {person.number for person in people if person.excluded is not None}
    suspect = suspects(judgements, groups, store.config, excluded=excluded)
    given = {person.number: 0 for person in people}
    for judgement in judgements:
        given[judgement.annotator] += 1
    rows = [
        {
            "number": person.number,
            "name": person.name,
            "answers": given[person.number],
            "active": person.active,
            "excluded": person.excluded,
            "suspect": list(suspect.get(person.number, ())),
        }
        for person in people
    ]
    if format == "json":
        plain = {name: value for name, value in asdict(counts).items() if name != "hours"}
        print(to_json({**plain, "annotators": rows}))
        return
    print(
        f"{counts.done} of {counts.wanted} rankings, {counts.complete_groups} of {counts.groups} groups complete, "
        f"{counts.open} under way, {counts.skipped} skipped"
    )
    table = make_table(None, "#", ">name", "answers", ">note")
    for row in rows:
        add_row(table, str(row["number"]), str(row["name"]), str(row["answers"]), _note(row))
    print(render(table))
    for key, problem in counts.problems:
        say(f"{key}: {problem}; not handed out any more")


def _note(row: Mapping[str, object]) -> str:
    if row["excluded"]:
        return f"left out: {row['excluded']}"
    notes = [] if row["active"] else ["link revoked"]
    suspect = row["suspect"]
    assert isinstance(suspect, list)
    return "; ".join([*notes, *(f"look at: {reason}" for reason in suspect)])


@annotate_app.command("admin-token")
def admin_token_command(db: DbOption) -> None:
    """Make a new administrator's token: the old one, and whoever is signed in by it, is out."""
    store = _open(db)
    print(store.renew_admin())
    store.close()


@annotate_app.command("exclude")
def exclude_command(
    db: DbOption,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="NUMBER", help="Whom (see: annotate status).")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept and shown (by the administrator).")] = None,
    suspects: Annotated[bool, typer.Option("--suspects", help="All that the rule names, for its reasons.")] = False,
    readmit: Annotated[bool, typer.Option("--readmit", help="Count them again.")] = False,
) -> None:
    """Leave out what someone said, or count it again: nothing is deleted."""
    from humanpref.annotate import exclusion

    if bool(numbers) == suspects or (suspects and readmit):
        raise UnknownNameError("name the people by number, or give --suspects (without --readmit)")
    if readmit or suspects:
        only_for("people named by number who are left out: --suspects has the rule's reasons", reason=reason)
    store = _open(db)
    reasons = dict.fromkeys(numbers or (), None if readmit else reason or "by the administrator")
    if suspects:
        gone = {person.number for person in store.annotators() if person.excluded is not None}
        named = exclusion.suspects(store.judgements(), store.groups(), store.config, excluded=gone)
        reasons = {number: "rule: " + "; ".join(why) for number, why in named.items()}
    for number, why in reasons.items():
        store.exclude(number, why)
        say(f"annotator {number} " + ("counts again" if why is None else f"is left out ({why})"))
    if not reasons:
        say("the rule names nobody")


@annotate_app.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    db: DbOption,
    format: Annotated[str, typer.Option(help="rankings, hpdv2-train, hpdv2-test, pickapic or pairs.")] = "rankings",
    consensus: Annotated[
        Literal["mean_rank", "borda", "plackett_luce", "weighted"] | None,
        typer.Option(help="Also the common order of each group; hpdv2-test: mean_rank."),
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help="The folder that images are named in.")] = None,
    keep_excluded: Annotated[bool, typer.Option("--keep-excluded", help="Also people who were left out.")] = False,
    keep_unsafe: Annotated[
        bool, typer.Option("--keep-unsafe", help="Also groups with an image marked unsafe.")
    ] = False,
) -> None:
    """Write what people said as a data set; names never leave. The counts of what was left out go to stderr."""
    from humanpref.annotate.export import export

    store = _open(db)
    report = export(
        store.judgements(),
        store.groups(),
        store.annotators(),
        out,
        image_folder=image_root or store.image_root,
        format=format,
        consensus=consensus,
        keep_excluded=keep_excluded,
        keep_unsafe=keep_unsafe,
    )
    say(
        f"{report.rankings} rankings of {report.groups} groups by {report.annotators} people: {report.rows} rows",
        f"left out: {report.skips} skipped, {report.of_excluded} by {report.excluded} excluded people, "
        f"{report.of_unsafe} of groups marked unsafe, {report.without_consensus} without a consensus, "
        f"{report.gold} gold, {report.repeats} repeats, {report.practice} practice",
    )
    print(report.path)


@annotate_app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(help="The HTML file to write.")],
    db: DbOption,
    names: Annotated[bool, typer.Option("--names", help="Names beside handles: for the administrator alone.")] = False,
) -> None:
    """Write a page on progress, agreement, whom to look at, and which sources people prefer."""
    from humanpref.annotate.report import check_path, make_report, write_report

    check_path(out)
    store = _open(db)
    report = make_report(store.judgements(), store.groups(), store.annotators(), store.config)
    write_report(report, out, names=names)
    print(out)


@annotate_app.command("upgrade")
def upgrade_command(db: DbOption) -> None:
    """Bring a database made by an older version up to date; what is in it stays."""
    from humanpref.annotate.database import Database

    database = Database(db)
    database.upgrade()
    say(f"{database}: is up to date")


def _open(db: str) -> Store:
    from humanpref.annotate.store import Store

    return Store(db)
