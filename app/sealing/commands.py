"""`everthread master-key`: the key that is in no database, made, tried and changed."""

import typer

from app.db.engine import Database
from app.sealing.master import BadMasterKey, Masters, masters, new_master_key
from app.sealing.vault import Tried, Vault
from app.settings import Settings
from app.terminal import DataDir, echo, read_settings, stop, with_database

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
        return await Vault(database, at_hand).tried()

    found = with_database(tried, data_dir)
    echo(f"Master key {at_hand.current.id.hex()}: opens {found.opened} of {found.opened + found.unopened} keys.")
    if found.by_former:
        echo(f"{found.by_former} of them are sealed by a former one: 'everthread master-key rotate' seals them anew.")
    if found.unopened:
        stop(f"{found.unopened} keys are sealed by a master key that is not here.")


@master_key_cli.command("rotate")
def rotate(data_dir: DataDir = None) -> None:
    """Seal every project's key by the current master key, those of EVERTHREAD_FORMER_MASTER_KEYS too."""
    at_hand, _ = masters_at_hand(data_dir)

    async def rewrap(database: Database) -> Tried:
        return await Vault(database, at_hand).rewrap()

    done = with_database(rewrap, data_dir)
    echo(f"{done.by_former} keys were sealed anew by master key {at_hand.current.id.hex()}.")
    if done.unopened:
        stop(f"{done.unopened} keys are sealed by a master key that is not here, and stay as they are.")


def masters_at_hand(data_dir: DataDir = None) -> tuple[Masters, Settings]:
    """The master keys that a command of the host has, and the settings that name them. It ends without them."""
    settings = read_settings(data_dir=data_dir)
    try:
        return masters(settings), settings
    except (BadMasterKey, OSError) as error:
        stop(f"Cannot use the master key: {error}.")
