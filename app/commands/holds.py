"""`everthread holds`: legal holds of all projects, archived ones too, whose keys are not accepted."""

from typing import Annotated, Any

import typer
from sqlalchemy import select

from app.commands.master_key import masters_at_hand
from app.commands.terminal import DataDir, stop, table, with_database
from app.db import ids
from app.db.buckets import Buckets, database_key
from app.db.engine import Database
from app.holds.schemas import hold_id
from app.holds.service import Holds
from app.holds.tables import Hold
from app.http.errors import APIError
from app.process.output import echo
from app.projects.tables import Project
from app.sealing import at_rest
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys
from app.sealing.project_cipher import ProjectCipher
from app.trail.records import SERVICE
from app.trail.users import UserKeys

holds_cli = typer.Typer(no_args_is_help=True, help="List and release legal holds.")

COLUMNS = ("ID", "PROJECT", "ON", "PLACED", "RELEASED", "ERASED")


@holds_cli.command("list")
def list_holds(data_dir: DataDir = None) -> None:
    """Show the holds of every project."""

    async def listed(database: Database) -> list[Any]:
        columns = (Hold.id, Project.name, Hold.scope, Hold.thread_id, Hold.user_id)
        times = (Hold.created_at, Hold.released_at, Hold.erased_at)
        wanted = select(*columns, *times).join(Project, Project.project_id == Hold.project_id)
        async with database.session() as session:
            return list(await session.execute(wanted.order_by(Project.name, Hold.id)))

    rows: list[tuple[str, ...]] = [COLUMNS]
    for row in with_database(listed, data_dir):
        thread = None if row.thread_id is None else ids.thread_id(row.thread_id)
        times = ("" if each is None else f"{each:%Y-%m-%d %H:%M}" for each in row[-3:])
        rows.append((hold_id(row.id), row.name, thread or row.user_id or row.scope, *times))
    table(rows)


@holds_cli.command("release")
def release_hold(
    hold: Annotated[str, typer.Argument(help="hold_… as `holds list` shows it.")],
    reason: Annotated[str, typer.Option(help="Reason of the release.")],
    data_dir: DataDir = None,
) -> None:
    """Release a hold. The service then erases kept contents that no other hold covers."""
    id_ = ids.parse(hold, ("hold",))
    if id_ is None or not 1 <= len(reason) <= 2000:
        stop("Give the id of a hold, as 'everthread holds list' shows it, and a reason of at most 2,000 characters.")
    at_hand, _ = masters_at_hand(data_dir)

    async def release(database: Database) -> str | None:
        async with database.session() as session:
            project_id = await session.scalar(select(Hold.project_id).where(Hold.id == id_))
        if project_id is None:
            return f"There is no hold {hold}."
        sealer = await ContentKeys(database, ProjectCipher(database, at_hand)).sealer(project_id)
        holds = Holds(database, UserKeys(database, Buckets(await database_key(database))))
        with at_rest.written_with(sealer):
            try:
                await holds.release_as(SERVICE, project_id, id_, reason)
            except APIError as error:
                return error.message
        return None

    try:
        refused = with_database(release, data_dir)
    except CannotOpen as error:
        stop(f"Cannot release {hold}: {error}.")
    if refused is not None:
        stop(refused)
    echo(f"{hold} is released.")
