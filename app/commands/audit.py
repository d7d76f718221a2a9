"""everthread audit verify | export | policy | checkpoint | certificate | verify-certificate | public-key"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import httpx2
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from rich.console import Console
from rich.progress import Progress

from app.audit import exported, keys, restored, store
from app.audit.checkpoints import Checkpoints
from app.audit.notes import ED25519, BadNote, Note, VerifierKey
from app.audit.policy import MOST_OF_POLICY, Accepted, BadPolicy, Policy, written
from app.audit.proofs import FORMAT, MOST_OF_PROOF, Entry, TlogProof
from app.audit.signing import KEY_FILE, BadKey, public_key, signing_key
from app.audit.verify import Problem, Verdict, check_policy, counted, verify_project
from app.commands.terminal import DataDir, cut_off, read_settings, stop, with_database
from app.db import ids
from app.db.buckets import Buckets, database_key
from app.db.engine import Database
from app.http.errors import Conflict
from app.process.atomic_file import replacing
from app.process.output import echo, printable
from app.retention import certificate_file
from app.retention.certificates import Certificates
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys, state_of
from app.sealing.master import BadMasterKey, masters
from app.sealing.project_cipher import ProjectCipher
from app.threads.address import path_of
from app.threads.names import Names
from app.trail.users import UserKeys
from app.transfer.client import refusal

audit_cli = typer.Typer(no_args_is_help=True, help="The audit trail: prove it, sign it, take it out.")

LONGEST_ERROR = 4096
"""Bytes of the line that says why an export was cut off."""

PublicKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--key", envvar="EVERTHREAD_AUDIT_PUBLIC_KEY",
        help="The key that must have signed, in hex; several after a change of keys.",
    ),
]  # fmt: skip


PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", exists=True, dir_okay=False, help="A trust policy (C2SP tlog-policy), instead of --key."),
]


@audit_cli.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="An exported trail, a checkpoint's note or a .tlog-proof."),
    ] = None,
    key: PublicKeys = None,
    policy_file: PolicyFile = None,
    proof: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="A .tlog-proof. Its record must be in the file."),
    ] = None,
    thread: Annotated[str | None, typer.Option(help="Only this thread, by its id or its name.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project, by its name.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="A trail that was exported earlier, to be found in the database."
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Prove that nothing was changed, removed, reordered or inserted: in the database, or in an exported file.

    A file needs nothing but the public key, or a policy. The first problem of each chain is named, and the exit code
    is 1.
    """
    policy = None if policy_file is None else _policy(policy_file)
    if file is not None and (thread or project or against):
        stop("--thread, --project and --against are for the trail in the database: leave them or the file out.")
    if proof and (file is None or not _is_trail(file)):
        stop("--proof is compared with an exported trail, which it needs as the file.")
    if file is not None and not _is_trail(file):
        _verify_form(file, policy)
        return
    compared: list[tuple[str, list[Problem], list[str]]] = []
    if file is not None:
        if not key and policy is None:
            stop("A file is verified with --key, the public key: 'everthread audit public-key' shows it.")
        trusted = [*map(_public_key, key or ())] if policy is None else _log_keys(policy)
        proved = [_verified_proof(each, policy)[0].entry for each in proof or ()]
        verdicts = {file.name: _verify_file(file, trusted, proved)}
    else:
        trusted = _trusted(key, data_dir) if policy is None else _log_keys(policy)
        verdicts = with_database(
            lambda database: _verify_all(database, project, thread, trusted, data_dir), data_dir, only_reads=True
        )
        if not verdicts:
            stop(f"There is no project {project!r}.")
        for path in against or ():
            signed = _signed_before(path, trusted)
            problems, explained = with_database(lambda database: restored.compare(database, signed), data_dir)  # noqa: B023
            compared.append((path.name, problems, explained))
    for name, verdict in verdicts.items():
        if policy is not None:
            check_policy(policy, verdict)
        echo(
            f"{name}: {verdict.records} records in {verdict.chains} chains, {verdict.checkpoints} checkpoints; "
            f"{verdict.unsigned} records are newer than the last checkpoint."
        )
        if verdict.accepted is not None:
            echo(f"  The policy accepts checkpoint {verdict.accepted}; the last one is {verdict.size}.")
        if verdict.sealed_for_good:
            echo("  The key of its contents was destroyed: they were not compared.")
        for problem in verdict.problems:
            echo(f"  {printable(str(problem))}")
    for name, problems, explained in compared:
        for line in (*problems, *explained):
            echo(printable(f"{name}: {line}"))
        if not problems and not explained:
            echo(f"{name}: all that is signed in it stands in the database.")
    if any(verdict.problems for verdict in verdicts.values()) or any(problems for _, problems, _ in compared):
        echo("The audit trail does NOT verify.")
        raise typer.Exit(1)
    echo("The audit trail verifies.")


@audit_cli.command("export")
def export_trail(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Written as NDJSON.")],
    key: Annotated[str, typer.Option(envvar="EVERTHREAD_KEY", help="A key of the project.")],
    url: Annotated[str, typer.Option(envvar="EVERTHREAD_URL", help="Where the service is.")] = "http://127.0.0.1:8080",
    thread: Annotated[str | None, typer.Option(help="Only this thread, by its id or its name.")] = None,
) -> None:
    """Sign the project's trail as it is now, and write it to a file that `verify` takes, offline.

    The trail of one thread contains no records of other threads. FILE.tlog-proof proves its last record.
    """
    headers = {"Authorization": f"Bearer {key}"}
    path = "/audit/export" if thread is None else f"{path_of(thread)}/audit/export"
    try:
        with httpx2.stream("GET", f"{url}/v1{path}", headers=headers, timeout=600) as answer:
            if answer.status_code != 200:
                answer.read()
                stop(f"The service refuses: {refusal(answer)}")
            with replacing(file) as target:
                end = b""
                for chunk in answer.iter_bytes():
                    target.write(chunk)
                    end = (end + chunk)[-LONGEST_ERROR:]
                if (why := cut_off(end)) is not None:
                    stop(f"The export was cut off, and {file} is left as it was: {why}")
    except httpx2.TransportError as error:
        stop(f"Cannot reach the service: {error}. Is it up, and is --url right?")
    except OSError as error:
        stop(f"Cannot write {file}: {error.strerror}.")
    echo(f"The audit trail is in {file}.")
    if thread is not None:
        _write_proof(file)


@audit_cli.command("restored")
def tell_restored(
    trails: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="Trails that were exported before, one a project."),
    ] = None,
    key: PublicKeys = None,
    data_dir: DataDir = None,
) -> None:
    """Write into the trail that the database was restored to an earlier moment.

    With exported trails, the record says how much of what they prove is gone. Without, run it before 'everthread serve'
    signs anything again.
    """
    trusted = _trusted(key, data_dir)
    signed = [_signed_before(path, trusted) for path in trails or ()]
    by_project = {each.project_id: each for each in signed}

    async def write(database: Database) -> None:
        for row in await store.projects(database):
            detail = await restored.record_restore(database, row["project_id"], by_project.get(row["project_id"]))
            echo(f"{row['name']}: restored to {detail}.")

    with_database(write, data_dir)


@audit_cli.command()
def checkpoint(data_dir: DataDir = None) -> None:
    """Sign what has been appended since the last checkpoint, now."""

    async def write(database: Database) -> None:
        base = read_settings(data_dir=data_dir).audit_origin
        checkpoints = Checkpoints(database, _signing_key(data_dir), every_seconds=0, origin_base=base)
        for row in await store.projects(database):
            echo(f"{row['name']}: {await checkpoints.write(row['project_id'])} leaves")

    with_database(write, data_dir)


@audit_cli.command()
def certificate(
    purge: Annotated[str, typer.Argument(metavar="PURGE_ID", help="purge_…, as GET /v1/purges shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Write the erasure certificate of a purge to standard output. Create and sign it if there is none.

    A deleted thread's purge has the id of the thread, that of a destroyed key the id of its project, and the erasure
    after the release of a hold the id of the hold.
    """
    purge_id = ids.parse(purge, ("purge",))
    if purge_id is None:
        stop(f"{purge} is not the id of a purge, which is purge_ and 32 hex digits.")
    settings, signer = read_settings(data_dir=data_dir), _signing_key(data_dir)

    async def write(database: Database) -> bool:
        users = UserKeys(database, Buckets(await database_key(database)))
        checkpoints = Checkpoints(database, signer, every_seconds=0, origin_base=settings.audit_origin)
        certificates = Certificates(
            database,
            users,
            checkpoints,
            signer,
            backup_days=settings.backup_retention_days,
            provider_days=settings.response_id_ttl_seconds / 86_400,
        )
        for row in await store.projects(database):
            purged = await certificates.purged(row["project_id"], purge_id, holds=True)
            if purged is not None:
                for piece in await certificates.file(row["project_id"], purged):
                    sys.stdout.buffer.write(piece)
                return True
        return False

    try:
        found = with_database(write, data_dir)
    except Conflict as error:
        stop(error.message)
    if not found:
        stop(f"There is no complete purge {purge}.")


@audit_cli.command("verify-certificate")
def verify_certificate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An erasure certificate.")],
    key: PublicKeys = None,
    policy_file: PolicyFile = None,
) -> None:
    """Verify an erasure certificate, offline. The first problem is shown, and the exit code is 1.

    With a policy, its witnesses must have cosigned the checkpoint, too.
    """
    policy = None if policy_file is None else _policy(policy_file)
    if not key and policy is None:
        stop("Give --key with the public key, which 'everthread audit public-key' shows, or --policy.")
    trusted = [*map(_public_key, key or ())] if policy is None else _log_keys(policy)
    try:
        certified = certificate_file.verify(file, [each.public_bytes_raw() for each in trusted], policy)
    except certificate_file.BadCertificate as error:
        echo(printable(f"The certificate does NOT verify: {error}."))
        raise typer.Exit(1) from error
    said = certified.statement
    echo(f"{said['purge']} ({said['kind']}) of project {said['project']}: ended at {said['ended_at']}.")
    echo(f"  Deleted: {', '.join(f'{count} {name}' for name, count in said['counts'].items()) or 'the key'}.")
    if certified.records:
        echo(f"  {certified.records} deletion records follow; {said['record']['id']} contains their Merkle root.")
    for left in said["remains"]:
        known = " ".join(f"{name} {left[name]}" for name in ("hold", "count", "until") if left.get(name) is not None)
        echo(f"  Remains: {left['what']} {known}".rstrip() + f": {left['why']}")
    echo("The certificate verifies.")


keys_cli = typer.Typer(no_args_is_help=True, help="The keys that hosts may sign with.")
audit_cli.add_typer(keys_cli, name="keys")

OfKey = Annotated[str, typer.Argument(help="The public key, in hex.")]


@keys_cli.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Show every key that hosts may or might sign with."""
    for public, added_at, retired_at in with_database(keys.listed, data_dir):
        state = "" if retired_at is None else f", retired {retired_at:%Y-%m-%d %H:%M}"
        echo(f"{public.hex()}  added {added_at:%Y-%m-%d %H:%M}{state}")


@keys_cli.command("add")
def add_key(key: OfKey, data_dir: DataDir = None) -> None:
    """Let hosts sign with another key from now on, and write that into the trail. Pin it outside, too."""
    public = _public_key(key).public_bytes_raw()
    with_database(lambda database: keys.add(database, public), data_dir)
    echo(f"Hosts may sign with {key}.")


@keys_cli.command("retire")
def retire_key(key: OfKey, data_dir: DataDir = None) -> None:
    """No host starts with this key any more. What it has signed is verified with it as before."""
    public = _public_key(key).public_bytes_raw()
    if not with_database(lambda database: keys.retire(database, public), data_dir):
        stop(f"{key} is not among the keys that hosts may sign with: 'everthread audit keys list' shows them.")
    echo(f"No host starts with {key} any more.")


@audit_cli.command("public-key")
def show_public_key(data_dir: DataDir = None) -> None:
    """Show the key that checkpoints are verified with. Keep it where the database's owner cannot change it."""
    echo(_signing_key(data_dir).public_key().public_bytes_raw().hex())


@audit_cli.command("policy")
def show_policy(
    project: Annotated[str, typer.Option(help="The project whose log the policy names.")],
    key: PublicKeys = None,
    witnesses: Annotated[
        str | None,
        typer.Option(
            help="'witness NAME VKEY URL', separated by newlines or semicolons; "
            "without it, those of EVERTHREAD_AUDIT_WITNESSES."
        ),
    ] = None,
    quorum: Annotated[str, typer.Option(help="Witnesses that must cosign: all, any, none or a number.")] = "all",
    data_dir: DataDir = None,
) -> None:
    """Show a trust policy (C2SP tlog-policy) for a project. Keep it where the database's owner cannot change it."""
    trusted = _trusted(key, data_dir)
    if witnesses is None:
        witnesses = read_settings(data_dir=data_dir).audit_witnesses or ""

    async def find(database: Database) -> str | None:
        rows = await store.projects(database, project)
        if not rows:
            stop(f"There is no project {project!r}.")
        return await store.origin(database, rows[0]["project_id"])

    origin = with_database(find, data_dir, only_reads=True)
    if origin is None:
        stop(f"{project} has no checkpoint yet: 'everthread audit checkpoint' writes one.")
    logs = [VerifierKey(origin, ED25519, each.public_bytes_raw()) for each in trusted]
    try:
        text = written(logs, witnesses, quorum)
    except BadPolicy as error:
        stop(f"The policy is invalid: {error}.")
    echo(text.rstrip("\n"))


async def _verify_all(
    database: Database,
    project: str | None,
    thread: str | None,
    trusted: list[Ed25519PublicKey],
    data_dir: Path | None,
) -> dict[str, Verdict]:
    named = None if thread is None else ids.parse(thread, ids.THREAD_PREFIXES)
    names = Names(database, Buckets(await database_key(database)))
    verdicts: dict[str, Verdict] = {}
    for row in await store.projects(database, project):
        project_id = row["project_id"]
        thread_id = named
        if thread is not None and named is None and (thread_id := await names.find(project_id, thread)) is None:
            continue
        total = await counted(database, project_id, thread_id)
        if thread_id is not None and total == 0:
            continue
        await _have_key(database, project_id, row["name"], data_dir)
        with _progress() as progress:
            bar = progress.add_task(row["name"], total=total)
            verdicts[row["name"]] = await verify_project(
                database,
                project_id,
                thread_id=thread_id,
                trusted=trusted,
                advance=lambda count: progress.advance(bar, count),  # noqa: B023
            )
    if thread is not None and named is None and not verdicts:
        stop(f"No thread is named {thread!r}, and that is not the id of a thread: thread_ and 32 hex digits.")
    if thread is not None and not verdicts:
        stop(f"The audit trail knows no thread {thread}.")
    return verdicts


async def _have_key(database: Database, project_id: UUID, name: str, data_dir: Path | None) -> None:
    """Load the key that encrypts a project's contents. No master key is created here."""
    state = await state_of(database, project_id)
    if not state.encrypted or state.destroyed:
        return
    settings = read_settings(data_dir=data_dir)
    try:
        await ContentKeys(database, ProjectCipher(database, masters(settings, make=False))).load(project_id)
    except (BadMasterKey, CannotOpen, OSError) as error:
        stop(f"The contents of {name} are sealed, and cannot be compared with the trail here: {error}.")


def _is_trail(file: Path) -> bool:
    """Return True for an exported trail, False for a checkpoint or a proof, which are not JSON."""
    with file.open("rb") as opened:
        return opened.read(1) in (b"{", b"")


def _verify_form(file: Path, policy: Policy | None) -> None:
    """Verify a checkpoint or a proof, and show its contents."""
    try:
        if (content := _content(file, MOST_OF_PROOF)).startswith(FORMAT.encode()):
            proof, accepted = _verified_proof(file, policy)
            record = ids.record_id(proof.entry.chain_id, proof.entry.seq)
            echo(f"{file.name}: {record} with the hash {proof.entry.hash.hex()} is leaf {proof.index}.")
        else:
            accepted = _needed(policy).accept(Note.parse(content))
    except BadNote as error:
        stop(f"{file.name} does NOT verify: {printable(str(error))}.")
    signed, cosigned = accepted.checkpoint, ", ".join(accepted.witnesses) or "no witness"
    at = "" if accepted.at is None else f" at {datetime.fromtimestamp(accepted.at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    echo(f"{file.name}: checkpoint {signed.size} of {signed.origin}, signed{at}, cosigned by {cosigned}.")
    echo("It verifies.")


def _verified_proof(file: Path, policy: Policy | None) -> tuple[TlogProof, Accepted]:
    try:
        proof = TlogProof.parse(_content(file, MOST_OF_PROOF))
        return proof, proof.verify(_needed(policy))
    except BadNote as error:
        stop(f"{file.name} does NOT verify: {printable(str(error))}.")


def _needed(policy: Policy | None) -> Policy:
    if policy is None:
        stop("Give --policy to verify a checkpoint or a proof: 'everthread audit policy' shows that of a project.")
    return policy


def _policy(file: Path) -> Policy:
    try:
        return Policy.parse(_content(file, MOST_OF_POLICY))
    except BadPolicy as error:
        stop(f"{file} is not a valid policy: {printable(str(error))}.")


def _content(file: Path, most: int) -> bytes:
    """Return the content of a file, or its first `most` + 1 bytes if it is larger."""
    with file.open("rb") as opened:
        return opened.read(most + 1)


def _log_keys(policy: Policy) -> list[Ed25519PublicKey]:
    return [Ed25519PublicKey.from_public_bytes(log.public_key) for log in policy.logs]


def _write_proof(trail: Path) -> None:
    target = Path(f"{trail}.tlog-proof")
    try:
        proof = exported.proof_of(trail)
        if proof is None:
            echo("No proof was written: a host of the release before signed the trail. Export again after the upgrade.")
            return
        with replacing(target) as opened:
            opened.write(str(proof).encode())
    except exported.BadFile as error:
        stop(f"{trail} is not an audit trail of a thread: {printable(str(error))}.")
    except OSError as error:
        stop(f"Cannot write {target}: {error.strerror}.")
    echo(f"The proof of its last record is in {target}.")


def _verify_file(file: Path, trusted: list[Ed25519PublicKey], proved: list[Entry]) -> Verdict:
    with _progress() as progress:
        bar = progress.add_task(file.name, total=file.stat().st_size)
        try:
            return exported.verify_file(file, trusted, lambda count: progress.advance(bar, count), proved)
        except exported.BadFile as error:
            stop(f"{file} is not an audit trail as 'everthread audit export' writes it: {printable(str(error))}.")


def _signed_before(path: Path, trusted: list[Ed25519PublicKey]) -> restored.Before:
    try:
        return restored.before(path, trusted)
    except exported.BadFile as error:
        why = printable(str(error))
        stop(f"{path} is not the audit trail of a project, as 'everthread audit export' writes it: {why}.")


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(transient=True, console=console, disable=not console.is_terminal)


def _trusted(given: list[str] | None, data_dir: Path | None) -> list[Ed25519PublicKey]:
    """Return the given keys; without any, the key of this service."""
    return [*map(_public_key, given)] if given else [_signing_key(data_dir).public_key()]


def _public_key(key: str) -> Ed25519PublicKey:
    try:
        return public_key(key)
    except BadKey as error:
        stop(f"--key is wrong: {error}.")


def _signing_key(data_dir: Path | None) -> Ed25519PrivateKey:
    """The service's key. It is not made here: one that was made now has signed nothing."""
    settings = read_settings(data_dir=data_dir)
    if settings.audit_key is None and not (settings.data_dir / KEY_FILE).exists():
        stop(
            f"There is no key of the audit trail in {settings.data_dir}. Say --key with the public one, "
            "set EVERTHREAD_AUDIT_KEY, or --data-dir to where 'everthread serve' keeps its data."
        )
    try:
        return signing_key(settings.audit_key, settings.data_dir)
    except BadKey as error:
        stop(f"EVERTHREAD_AUDIT_KEY is wrong: {error}.")
    except OSError as error:
        stop(f"Cannot read the key of the audit trail in {settings.data_dir}: {error.strerror}.")
