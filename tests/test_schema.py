"""Migrations that cannot move: locked files, and an upgraded database that equals a fresh one."""

import asyncio
import hashlib
import os
import re
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

import app
from app import schema
from tests.catalogue import catalogue, differences
from tests.databases import migrate_now, new_database, query
from tests.forkserver import copy_release
from tests.service import Process, free_port

ROOT = Path(app.__file__).parents[1]
VERSIONS = ROOT / "migrations" / "versions"
LOCK = ROOT / "migrations" / "hashes.lock"

SUPERSEDED = re.compile(r"DROP FUNCTION IF EXISTS (\w+)")

NEXT = '''
"""a column, an index, a trigger, a policy, a right, and a new version of a function"""

from alembic import op

from app.db import ddl

revision = "v020_0999"
down_revision = "{before}"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True
DROPS_LATER = ["DROP FUNCTION IF EXISTS added_v1(bigint[], bigint[])"]

CHANGES = """{changes}"""
INDEX = "CREATE INDEX {{}} turns_mood_idx ON turns (project_id, mood) WHERE mood IS NOT NULL"


def upgrade() -> None:
    ddl.lock("projects", "turns")
    for statement in CHANGES.split(";\\n\\n"):
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(INDEX.format("CONCURRENTLY"))


def downgrade() -> None:
    op.execute("DROP TABLE moods")
    op.execute("DROP FUNCTION added_v2")
    op.execute("ALTER TABLE turns DROP COLUMN mood")
'''

CHANGES = """
ALTER TABLE turns ADD COLUMN mood text;

CREATE FUNCTION added_v2(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE
    SET search_path = public RETURN one || other;

CREATE TABLE moods (
    project_id uuid NOT NULL CONSTRAINT moods_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    mood text NOT NULL DEFAULT 'good',
    CONSTRAINT moods_pkey PRIMARY KEY (project_id, mood)
) WITH (fillfactor = 50);

CREATE TRIGGER moods_refuse BEFORE DELETE ON moods FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

ALTER TABLE moods ENABLE ROW LEVEL SECURITY;

CREATE POLICY of_project ON moods USING (project_id IS NOT NULL);

GRANT SELECT ON moods TO pg_monitor
"""
INDEX = "CREATE INDEX turns_mood_idx ON turns (project_id, mood) WHERE mood IS NOT NULL;\n"

FIRST_OF_THE_NEXT_RELEASE = '''
"""the first migration of the next release"""

revision = "v021_0001"
down_revision = "v020_0999"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...
'''


def release(directory: Path) -> Path:
    """Copy this release, with one more migration and a schema.sql that has its changes."""
    copy_release(directory)
    migrations = directory / "migrations"
    made = NEXT.format(before=schema.newest_revision(), changes=CHANGES)
    (migrations / "versions" / "v020_0999_mood.py").write_text(made)
    with (migrations / "schema.sql").open("a") as file:
        file.write(f"{CHANGES};\n{INDEX}")
    return directory


def migrated(url: str, place: Path, *arguments: str) -> list[str]:
    process = Process("migrate", *arguments, env={"DATABASE_URL": url}, cwd=place)
    assert process.ended() == 0, process.lines
    return process.lines


def test_an_upgraded_database_equals_a_fresh_one_and_loses_old_functions_a_release_later(
    server_urls: tuple[str, str], tmp_path: Path
) -> None:
    fresh, upgraded = new_database(server_urls[0]), new_database(server_urls[0])
    migrate_now(upgraded)
    earlier = catalogue(upgraded)
    next_one = release(tmp_path)
    assert migrated(upgraded, next_one) == ["The database is at migration v020_0999."]
    assert migrated(fresh, next_one) == ["The database is at migration v020_0999."]
    assert differences(catalogue(fresh), catalogue(upgraded)) == {}
    changed = " ".join(differences(earlier, catalogue(fresh)))
    for kind in ("column turns.mood", "index turns_mood_idx", "trigger moods.", "policy moods.", "rights moods"):
        assert kind in changed

    # Down by a name or by a number, and through the baseline's own copy.
    assert migrated(upgraded, next_one, "--revision=-1") == [
        f"The database is at migration {schema.newest_revision()}."
    ]
    assert differences(earlier, catalogue(upgraded)) == {}
    assert migrated(upgraded, next_one, "--revision", "v020_0001") == ["The database is at migration v020_0001."]
    assert migrated(upgraded, next_one, "--revision=-1") == ["The database is at no migration: its tables are gone."]
    assert migrated(upgraded, next_one, "--revision", "v020_0001") == ["The database is at migration v020_0001."]
    assert migrated(upgraded, next_one) == ["The database is at migration v020_0999."]
    assert differences(catalogue(fresh), catalogue(upgraded)) == {}

    # Functions that migrations of a release have superseded are dropped by the first of the next release.
    versions = (next_one / "migrations" / "versions").iterdir()
    superseded = {each for file in versions if file.suffix == ".py" for each in SUPERSEDED.findall(file.read_text())}
    assert "added_v1" in superseded
    (next_one / "migrations" / "versions" / "v021_0001_empty.py").write_text(FIRST_OF_THE_NEXT_RELEASE)
    before = catalogue(upgraded)
    assert migrated(upgraded, next_one) == ["The database is at migration v021_0001."]
    dropped = " ".join(differences(before, catalogue(upgraded)))
    assert set(re.findall(r"function (\w+)\(", dropped)) == superseded


def test_a_migration_that_is_in_the_lock_file_does_not_change_and_none_is_missing_there() -> None:
    """`make migrations-lock` adds the hash of a new migration."""
    locked = dict(line.split("  ")[::-1] for line in LOCK.read_text().splitlines())
    files = {path.name: path for path in VERSIONS.iterdir() if path.suffix in (".py", ".sql")}
    assert locked == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert all(re.fullmatch(r"v\d{3}_\d{4}_\w+\.(py|sql)", name) for name in files)
    # The baseline has a schema of its own as soon as there is another migration.
    assert len(files) == 1 or "v020_0001_baseline.sql" in files


@pytest.mark.parametrize("revision", ["0001", "0024"])
def test_a_database_of_another_lineage_gets_one_sentence_before_any_change(
    empty_database_url: str, service_env: dict[str, str], revision: str
) -> None:
    migrate_now(empty_database_url)
    query(empty_database_url, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = catalogue(empty_database_url)
    for command in (("migrate",), ("migrate", "--revision", "base"), ("serve", "--port", str(free_port()))):
        process = Process(*command, env={**service_env, "DATABASE_URL": empty_database_url})
        assert process.ended() == 1
        (line,) = process.lines
        assert f"it is at migration {revision}, of a release before 0.2.0, and cannot be upgraded." in line
        assert "everthread import FILE --new-ids --mapping IDS" in line
    assert catalogue(empty_database_url) == before


@pytest.mark.skipif("TEST_CITUS_NODES" in os.environ, reason="its owner would need an account on each node")
def test_the_owner_of_a_database_migrates_it_without_being_a_superuser(server_urls: tuple[str, str]) -> None:
    url = make_url(new_database(server_urls[0]))
    owner = f"owner_of_{url.database}"
    query(
        server_urls[0],
        f"CREATE ROLE {owner} LOGIN PASSWORD 'x'",
        f"ALTER DATABASE {url.database} OWNER TO {owner}",
    )
    env = {"DATABASE_URL": url.set(username=owner, password="x").render_as_string(hide_password=False)}
    for _ in range(2):
        process = Process("migrate", env=env)
        assert process.ended() == 0
        assert process.lines == [f"The database is at migration {schema.newest_revision()}."]


def test_a_migration_waits_for_a_reader_in_turns_that_let_others_pass(empty_database_url: str, tmp_path: Path) -> None:
    migrate_now(empty_database_url)
    place = release(tmp_path)

    async def run() -> None:
        reader = await asyncpg.connect(empty_database_url)
        other = await asyncpg.connect(empty_database_url)
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT FROM turns LIMIT 1")
        process = Process("migrate", env={"DATABASE_URL": empty_database_url}, cwd=place)
        await asyncio.to_thread(
            process.wait_for, "Waiting for a lock, and trying again. The oldest transaction is that"
        )
        for _ in range(3):
            # Longer than a try: with no bound of its own, the statement would wait for the reader.
            await asyncio.wait_for(other.fetch("SELECT FROM turns LIMIT 1"), 10)
        await reading.rollback()
        assert await asyncio.to_thread(process.ended) == 0, process.lines
        assert process.lines[-1] == "The database is at migration v020_0999."
        await reader.close()
        await other.close()

    asyncio.run(run())
