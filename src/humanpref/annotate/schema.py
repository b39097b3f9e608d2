"""The tables of an annotation project. Times are whole milliseconds since 1970, UTC; lists are JSON text.

What must never happen is forbidden here, not only avoided in code: two people on one place of a group, one person twice
on one group, an answer without its assignment. `answers` and `exclusions` are only ever added to.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BigKey = BigInteger().with_variant(Integer, "sqlite")  # so that SQLite numbers rows by itself

project = Table(
    "project",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("config", Text, nullable=False),
    Column("image_root", Text, nullable=False),
    Column("admin_hash", String(64), nullable=False),
    Column("secret", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one"),  # one project to a database
)

groups = Table(
    "groups",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("key", String(300), nullable=False, unique=True),
    Column("role", String(10), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("prompt_source", Text),
    Column("style", Text),
    Column("gold_ranks", Text),
    Column("place", Float, nullable=False),  # random in [0, 1): where the search for the next group finds it
    Column("taken", Integer, nullable=False),  # places held or answered
    Column("problem", Text),  # why it is not handed out any more
    Index("ix_groups_search", "role", "place"),
)

images = Table(
    "images",
    metadata,
    Column("group_id", ForeignKey("groups.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("modified_ns", BigInteger, nullable=False),
    Column("source", Text),
)

annotators = Table(
    "annotators",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("name", Text, nullable=False),
    Column("handle", String(40), nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("active", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

exclusions = Table(
    "exclusions",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("reason", Text),  # None: counted again
    Column("at", BigInteger, nullable=False),
    Index("ix_exclusions_annotator", "annotator_id"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("token", String(40), nullable=False, unique=True),
    Column("group_id", ForeignKey("groups.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("slot", Integer),  # which of the k places of the group; None where it takes none
    Column("shown", Text, nullable=False),
    Column("state", String(10), nullable=False),  # open, done, skipped, expired
    Column("leased_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    CheckConstraint("state in ('open', 'done', 'skipped', 'expired')", name="state"),
    CheckConstraint("kind <> 'task' or state not in ('open', 'done') or slot is not null", name="slot"),
    Index(
        "uq_assignments_slot",
        "group_id",
        "slot",
        unique=True,
        sqlite_where=text("kind = 'task' and state in ('open', 'done')"),
        postgresql_where=text("kind = 'task' and state in ('open', 'done')"),
    ),
    Index(
        "uq_assignments_once",
        "annotator_id",
        "group_id",
        "kind",
        unique=True,
        sqlite_where=text("state <> 'expired'"),
        postgresql_where=text("state <> 'expired'"),
    ),
    Index("ix_assignments_open", "state", "expires_at"),
    Index("ix_assignments_group", "group_id"),
)

answers = Table(
    "answers",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("assignment_id", ForeignKey("assignments.id"), nullable=False),
    Column("ranks", Text),  # by the group's own order of images; None for a skip
    Column("unsafe", Text, nullable=False),
    Column("skip", Text),
    Column("seconds", Float, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_answers_assignment", "assignment_id"),
    Index("ix_answers_at", "at"),
)
