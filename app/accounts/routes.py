"""/v1/admin/projects/…/accounts: the provider accounts that a project's turns are answered with."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response

from app.accounts.schemas import AccountCheck, AccountCreate, AccountObject, AccountPatch
from app.accounts.service import ProjectAccounts
from app.http.bodies import Sent, json_response
from app.http.describing import CONFLICT, FORBIDDEN, Deleted, error
from app.http.pages import ListObject
from app.http.services import serving
from app.projects.auth import Administering

router = APIRouter(tags=["admin"], prefix="/admin/projects/{project_id}/accounts")

Service = Annotated[ProjectAccounts, serving(ProjectAccounts)]

REFUSED = {**CONFLICT, **FORBIDDEN}


@router.post("", response_model=AccountObject, status_code=201, responses=REFUSED)
async def create_account(
    caller: Administering, accounts: Service, project_id: str, sent: Sent[AccountCreate]
) -> Response:
    """Add an account."""
    return json_response(await accounts.create(caller, project_id, sent), status=201)


@router.get("", response_model=ListObject[AccountObject])
async def list_accounts(caller: Administering, accounts: Service, project_id: str) -> Response:
    """List a project's accounts in the order in which they are tried."""
    return json_response(await accounts.listed(caller, project_id))


@router.get("/{account_id}", response_model=AccountObject)
async def get_account(caller: Administering, accounts: Service, project_id: str, account_id: str) -> Response:
    """Return an account."""
    return json_response(await accounts.get(caller, project_id, account_id))


@router.patch("/{account_id}", response_model=AccountObject, responses=REFUSED)
async def patch_account(
    caller: Administering, accounts: Service, project_id: str, account_id: str, sent: Sent[AccountPatch]
) -> Response:
    """Change or disable an account."""
    return json_response(await accounts.change(caller, project_id, account_id, sent))


@router.delete("/{account_id}", response_model=Deleted)
async def delete_account(caller: Administering, accounts: Service, project_id: str, account_id: str) -> Response:
    """Delete an account."""
    return json_response(await accounts.delete(caller, project_id, account_id))


@router.post(
    "/{account_id}/check",
    response_model=AccountCheck,
    responses={409: error("The account is not used: what it says tells why.")},
)
async def check_account(caller: Administering, accounts: Service, project_id: str, account_id: str) -> Response:
    """Check the account's key with the provider."""
    return json_response(await accounts.check(caller, project_id, account_id))
