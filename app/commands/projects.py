"""`everthread projects` and `everthread keys`: for who has a shell on the service's host."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.commands.master_key import masters_at_hand
from app.commands.terminal import DataDir, read_settings, stop, table, with_database
from app.db import ids
from app.db.engine import Database
from app.holds import store as holds
from app.holds.schemas import hold_id
from app.process.output import echo
from app.projects import keys
from app.projects.encryption import KEY_DESTROYED, SOON, destroy_key, encrypt_from_now, restore_encrypted_at
from app.projects.schemas import LONGEST_OVERLAP, USUAL_OVERLAP
from app.projects.tables import ApiKey, Project
from app.sealing import encrypting
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys
from app.sealing.master import Masters, file_of, keep
from app.sealing.project_cipher import ProjectCipher
from app.trail.records import SERVICE

keys_cli = typer.Typer(no_args_is_help=True, help="API keys: made, rotated, revoked.")
projects_cli = typer.Typer(no_args_is_help=True, help="Projects: made, archived, restored.")

KEY_COLUMNS = ("ID", "PROJECT", "NAME", "KEY", "SCOPES", "CREATED", "USED", "ENDS", "REVOKED")

Key = Annotated[str, typer.Argument(help="key_… as `keys list` shows it, or the key's name if only one has it.")]
Overlap = Annotated[
    int, typer.Option(min=0, max=LONGEST_OVERLAP, help="Seconds for which the key before is still taken.")
]
Name = Annotated[str, typer.Argument(help="The project's name.")]


@keys_cli.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    project: Annotated[str, typer.Option(help="Made if it is not there.")] = keys.DEFAULT_PROJECT,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write, audit or admin; again for each. The first three if left out.")
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(min=0.001, max=36_500, help="Without it, no end.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once."""
    scopes = scope or list(keys.USUAL)
    for each in scopes:
        if each not in keys.SCOPES:
            stop(f"There is no scope {each!r}: {', '.join(keys.SCOPES)}.")
    key = keys.new_key()
    ends = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)

    async def create(database: Database) -> None:
        project_id = await keys.ensure_project(database, project, _cipher(database, data_dir))
        async with database.session() as session:
            await keys.add_key(session, SERVICE, project_id, key, name=name, scopes=scopes, expires_at=ends)

    with_database(create, data_dir)
    echo(f"API key: {key}")


@keys_cli.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Show every key, without its secret."""

    async def listed(database: Database) -> list[tuple[str, ApiKey]]:
        async with database.session() as session:
            return await keys.list_keys(session)

    rows: list[tuple[str, ...]] = [KEY_COLUMNS]
    for project, key in with_database(listed, data_dir):
        rows.append(
            (
                keys.key_id(key.id),
                project,
                key.name,
                key.hint,
                ",".join(key.scopes),
                *map(_moment, (key.created_at, key.last_used_at, key.expires_at, key.revoked_at)),
            )
        )
    table(rows)


@keys_cli.command("rotate")
def rotate_key(key: Key, overlap_seconds: Overlap = USUAL_OVERLAP, data_dir: DataDir = None) -> None:
    """Make a key in the place of one, with all that it may do, and print it, this once."""
    made = keys.new_key()

    async def rotate(database: Database) -> str | None:
        async with database.session() as session:
            found = await _found(session, key)
            if isinstance(found, str):
                return found
            project_id, id_ = found
            overlap = timedelta(seconds=overlap_seconds)
            row = await keys.rotate_key(session, SERVICE, project_id, id_, made, overlap=overlap)
            return None if row is not None else f"There is no key {key} that is taken now."

    if (refused := with_database(rotate, data_dir)) is not None:
        stop(refused)
    echo(f"API key: {made}")
    echo(f"{key} is taken for {overlap_seconds} seconds more.")


@keys_cli.command("revoke")
def revoke_key(key: Key, data_dir: DataDir = None) -> None:
    """Revoke a key. Workers stop taking it within five seconds."""

    async def revoke(database: Database) -> str | None:
        async with database.session() as session:
            found = await _found(session, key)
            if isinstance(found, str):
                return found
            if not await keys.revoke_key(session, SERVICE, found[1]):
                return f"There is no key {key} that is not revoked already."
            return None

    if (refused := with_database(revoke, data_dir)) is not None:
        stop(refused)
    echo(f"{key} is revoked.")


@projects_cli.command("create")
def create_project(
    name: Name,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Its contents lie sealed, by a key of its own.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a project."""

    async def create(database: Database) -> Project | None:
        async with database.session() as session:
            return await keys.add_project(session, SERVICE, name, _cipher(database, data_dir, encrypted=encrypted))

    project = with_database(create, data_dir)
    if project is None:
        stop(f"There is a project {name!r} already.")
    echo(f"{ids.project_id(project.project_id)} {name}: 'everthread keys create --project {name}' makes it a key.")


@projects_cli.command("list")
def list_projects(data_dir: DataDir = None) -> None:
    """Show every project."""

    async def listed(database: Database) -> list[Any]:
        live = func.count(ApiKey.id).filter(ApiKey.revoked_at.is_(None))
        wanted = select(Project, live).outerjoin(ApiKey, ApiKey.project_id == Project.project_id)
        async with database.session() as session:
            return list(await session.execute(wanted.group_by(Project.project_id).order_by(Project.created_at)))

    rows = [("ID", "NAME", "KEYS", "CREATED", "ENCRYPTED", "ARCHIVED")]
    for project, live in with_database(listed, data_dir):
        moments = map(_moment, (project.created_at, project.encrypted_at, project.archived_at))
        rows.append((ids.project_id(project.project_id), project.name, str(live), *moments))
    table(rows)


@projects_cli.command("rotate")
def rotate_project(name: Name, overlap_seconds: Overlap = USUAL_OVERLAP, data_dir: DataDir = None) -> None:
    """Make a key in the place of each of a project's, and print them, this once."""

    async def rotate(database: Database) -> list[str]:
        printed = []
        async with database.session() as session:
            project = await _project(session, name)
            for _, key in await keys.list_keys(session, project.project_id):
                made = keys.new_key()
                overlap = timedelta(seconds=overlap_seconds)
                if await keys.rotate_key(session, SERVICE, project.project_id, key.id, made, overlap=overlap):
                    printed.append(f"{key.name}: {made}")
        return printed

    for line in with_database(rotate, data_dir):
        echo(line)


@projects_cli.command("revoke")
def revoke_project(name: Name, data_dir: DataDir = None) -> None:
    """Archive a project: none of its keys is taken any more. What it holds stays."""
    _archive(name, data_dir, archived=True)
    echo(f"{name} is archived. 'everthread projects restore {name}' takes its keys again.")


@projects_cli.command("restore")
def restore_project(name: Name, data_dir: DataDir = None) -> None:
    """Take the keys of an archived project again."""
    _archive(name, data_dir, archived=False)
    echo(f"{name} is restored.")


@projects_cli.command("encrypt")
def encrypt_project(name: Name, data_dir: DataDir = None) -> None:
    """Encrypt a project's contents at rest: what is written from now on, and what is there already.

    It cannot be taken back. Can be broken off, and said again.
    """
    at_hand, _ = masters_at_hand(data_dir)

    async def encrypt(database: Database) -> tuple[int, int]:
        cipher = ProjectCipher(database, at_hand)
        async with database.session() as session:
            project = await _project(session, name, locked=True)
            if project.key_destroyed_at is not None:
                stop(KEY_DESTROYED)
            if not await restore_encrypted_at(session, SERVICE, project) and project.encrypted_at is None:
                await encrypt_from_now(session, cipher, SERVICE, project, wait=SOON)
        content_keys, id_ = ContentKeys(database, cipher), project.project_id
        sealer = await content_keys.sealer(id_)
        if sealer.key is None:
            await asyncio.sleep(SOON.total_seconds() + 1)
            sealer = await content_keys.sealer(id_)
        return await encrypting.encrypt(database, id_, sealer), await encrypting.running(database, id_)

    try:
        sealed, running = with_database(encrypt, data_dir)
    except CannotOpen as error:
        stop(f"Cannot encrypt {name}: {error}.")
    echo(f"{name} is encrypted. {sealed} rows that lay open are sealed.")
    if running:
        stop(f"{running} turns run that were opened before: say this again when they have ended.")


@projects_cli.command("destroy-key")
def destroy_project_key(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Destroy the key of an archived, encrypted project: its contents become unreadable, in backups too.

    The master key is changed for that. Every other place that has it must take the new one, and the old one must go.
    """
    at_hand, settings = masters_at_hand(data_dir)
    if not yes:
        typer.confirm(f"Nobody will be able to read what {name} holds, ever. Go on?", abort=True)

    async def look(database: Database) -> tuple[UUID, Masters]:
        async with database.session() as session:
            project = await _project(session, name)
            if project.encrypted_at is None or project.archived_at is None:
                stop(f"{name} must be encrypted and archived first: 'everthread projects revoke {name}' archives it.")
            if project.key_destroyed_at is not None:
                stop(f"The key of {name} is destroyed already.")
            if held := await holds.active(session, project.project_id):
                shown = ", ".join(hold_id(hold.id) for hold in held[:10])
                stop(
                    f"{name} is under {len(held)} legal holds ({shown}). 'everthread holds release' releases one. "
                    "Nothing was destroyed."
                )
            if until := await holds.minimum_ends(session, project.project_id):
                stop(f"{name} keeps contents until {_moment(until)} (minimum_retention_days). Nothing was destroyed.")
        cipher = ProjectCipher(database, at_hand)
        try:
            tried = await cipher.tried(but_for=project.project_id)
        except CannotOpen as error:
            stop(f"Cannot use the master key: {error}. Nothing was destroyed.")
        if tried.unopened:
            stop(f"{tried.unopened} keys are sealed by a master key that is not here. Nothing was destroyed.")
        return project.project_id, await cipher.unlocked()

    project_id, whole = with_database(look, data_dir)
    path = file_of(settings)
    left = whole.without(project_id)
    # A value in the environment must be short; a file holds any number of nodes.
    left = Masters(left.current if path is not None else left.current.short(), [each.short() for each in left.former])
    nodes = [each for each in left.all if each.secret is not None]
    nodes_path = settings.data_dir / f"master-nodes.{nodes[0].secret_id.hex()}.txt" if nodes else None
    try:
        if nodes_path is not None:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            keep(nodes_path, "".join(f"{each.sealed_nodes.hex()}\n" for each in nodes))
        if path is not None:
            keep(path, left.current.written)
    except OSError as error:
        stop(f"The changed master key cannot be written: {error.strerror}. Nothing was destroyed.")

    async def destroy(database: Database) -> None:
        await ProjectCipher(database, at_hand).keep_nodes(left)
        async with database.session() as session:
            project = await _project(session, name, locked=True)
            await destroy_key(session, ProjectCipher(database, left), SERVICE, project)

    with_database(destroy, data_dir)
    echo(f"The key of {name} is destroyed.")
    if path is not None:
        echo(f"The master key in {path} does not open it any more. Delete every copy of what it was before.")
    if nodes_path is not None:
        echo(f"Keep {nodes_path} with the backups. It is no secret: a restored database needs it, see 'load-nodes'.")
    if path is None:
        echo(
            "Put this in the place of the master key, delete every copy of what it was before, and restart the service:"
        )
        echo(left.current.written)
    if left.former:
        echo("And this in the place of EVERTHREAD_FORMER_MASTER_KEYS:")
        echo(",".join(each.written for each in left.former))


def _cipher(database: Database, data_dir: Any, *, encrypted: bool = False) -> ProjectCipher | None:
    """Return the cipher that encrypts a new project; None for one that is not encrypted."""
    if not encrypted and not read_settings(data_dir=data_dir).encrypt_projects:
        return None
    return ProjectCipher(database, masters_at_hand(data_dir)[0])


def _archive(name: str, data_dir: Any, *, archived: bool) -> None:
    async def change(database: Database) -> str | None:
        async with database.session() as session:
            project = await _project(session, name)
            if archived and project.operates:
                return f"{name} manages the service, and cannot be archived."
            if not archived and project.key_destroyed_at is not None:
                return KEY_DESTROYED
            if not await keys.set_archived(session, SERVICE, project, archived=archived):
                return f"{name} is {'archived' if archived else 'not archived'} already."
            return None

    if (refused := with_database(change, data_dir)) is not None:
        stop(refused)


async def _project(session: AsyncSession, name: str, *, locked: bool = False) -> Project:
    wanted = select(Project).where(Project.name == name)
    project = (await session.scalars(wanted.with_for_update() if locked else wanted)).one_or_none()
    if project is None:
        stop(f"There is no project {name!r}. 'everthread projects list' shows those that there are.")
    return project


async def _found(session: AsyncSession, key: str) -> tuple[UUID, UUID] | str:
    """The project and id of a key; or why none is meant."""
    rows = [row for _, row in await keys.list_keys(session)]
    named = [row for row in rows if row.name == key and row.revoked_at is None]
    if len(named) > 1:
        return f"{len(named)} keys are named {key}: say which, by its id, as 'everthread keys list' shows it."
    id_ = ids.parse(key, ("key",)) or (named[0].id if named else None)
    if id_ is None:
        return f"{key} is not the id of a key: key_ and 32 hex digits, as 'everthread keys list' shows it."
    found = next((row for row in rows if row.id == id_), None)
    return f"There is no key {key} that is not revoked already." if found is None else (found.project_id, id_)


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
