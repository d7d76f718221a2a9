"""`everthread master-key`: make, check and rotate the key that is in no database."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from app.commands.terminal import DataDir, read_settings, stop, with_database
from app.db.engine import Database
from app.process.output import echo
from app.sealing.ciphertext import CannotOpen
from app.sealing.master import BadMasterKey, Master, Masters, masters, new_master_key
from app.sealing.project_cipher import ProjectCipher, Tried
from app.settings import Settings

master_key_cli = typer.Typer(no_args_is_help=True, help="The key that seals every project's own.")


@master_key_cli.command("new")
def new() -> None:
    """Print a new master key. Nothing is changed."""
    echo(new_master_key())


@master_key_cli.command("check")
def check(data_dir: DataDir = None) -> None:
    """Try whether this master key opens every project's key: after a restore, or before a key is put away."""
    at_hand, _ = masters_at_hand(data_dir)

    async def tried(database: Database) -> Tried:
        return await ProjectCipher(database, at_hand).tried()

    found = _with_nodes(tried, data_dir)
    echo(f"Master key {at_hand.current.id.hex()}: opens {found.opened} of {found.opened + found.unopened} keys.")
    if found.by_former:
        echo(f"{found.by_former} of them are sealed by a former one: 'everthread master-key rotate' seals them again.")
    if found.unopened:
        stop(f"{found.unopened} keys are sealed by a master key that is not here.")


@master_key_cli.command("rotate")
def rotate(data_dir: DataDir = None) -> None:
    """Seal every project's key by the current master key, those of EVERTHREAD_FORMER_MASTER_KEYS too."""
    at_hand, _ = masters_at_hand(data_dir)

    async def rewrap(database: Database) -> Tried:
        return await ProjectCipher(database, at_hand).rewrap()

    done = _with_nodes(rewrap, data_dir)
    echo(f"{done.by_former} keys were sealed again by master key {at_hand.current.id.hex()}.")
    if done.unopened:
        stop(f"{done.unopened} keys are sealed by a master key that is not here, and stay as they are.")


@master_key_cli.command("load-nodes")
def load_nodes(
    file: Annotated[Path, typer.Argument(help="As 'everthread projects destroy-key' has written it.")],
    data_dir: DataDir = None,
) -> None:
    """Put the nodes of a short master key into a database that was restored from an older backup."""
    at_hand, _ = masters_at_hand(data_dir)
    try:
        sealed = [bytes.fromhex(line) for line in file.read_text().split()]
    except (OSError, ValueError) as error:
        stop(f"{file} cannot be read: {type(error).__name__}.")

    def with_nodes(master: Master) -> Master:
        for each in sealed if master.secret is not None else ():
            with suppress(BadMasterKey):
                return master.with_nodes(each)
        return master

    found = at_hand.each(with_nodes)
    missing = [each.id.hex() for each in found.all if not each.nodes]
    if missing:
        stop(f"The nodes of master key {', '.join(missing)} are not in {file}: it belongs to another secret.")

    async def load(database: Database) -> None:
        await ProjectCipher(database, found).keep_nodes(found)

    with_database(load, data_dir)
    echo("The nodes are in the database.")


def _with_nodes(job: Callable[[Database], Awaitable[Tried]], data_dir: Path | None) -> Tried:
    try:
        return with_database(job, data_dir)
    except CannotOpen as error:
        stop(f"Cannot use the master key: {error}.")


def masters_at_hand(data_dir: DataDir = None) -> tuple[Masters, Settings]:
    """The master keys that a command of the host has, and the settings that name them. It ends without them."""
    settings = read_settings(data_dir=data_dir)
    try:
        return masters(settings), settings
    except (BadMasterKey, OSError) as error:
        stop(f"Cannot use the master key: {error}.")
