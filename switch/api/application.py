"""The documented application: every route but the hot one, health, metrics, and the OpenAPI file with its page."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from fastapi import Depends, FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from switch import metrics
from switch.api import (
    acceptance,
    accounts,
    announcements,
    application_notices,
    application_review,
    applications,
    arrangements,
    bank_accounts,
    batches,
    choosing,
    contract_shapes,
    contracts,
    crypto_keys,
    cutovers,
    devices,
    dispute_desk,
    disputes,
    estimates,
    exports,
    follow_ups,
    heartbeats,
    help_articles,
    imports,
    jobs,
    leaving,
    licences,
    lines,
    merchant,
    moves,
    notices,
    offline,
    operator,
    parameters,
    payouts,
    problems,
    qr_codes,
    receipts,
    reconciliation,
    registrations,
    resolving,
    risk,
    rollouts,
    routes,
    settlements,
    signatures,
    stand_in,
    tariffs,
    terms,
    tickets,
    traffic,
    training,
    webhooks,
)
from switch.api.documented import Description, complete, documented
from switch.api.download import Places
from switch.api.queries import documented_only
from switch.api.shapes import ApprovedOrDeclined, NotSold, ProblemDetails, refused
from switch.api.terminal import AuthorizationRequest, CancellationRequest
from switch.callers import Caller, admitted, identify, no_applicant
from switch.database import Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.links import Link
from switch.links.roster import Roster
from switch.merchants.accounts import Accounts
from switch.merchants.applications.desk import Desk as DeskOfApplications
from switch.merchants.applications.papers import Papers
from switch.merchants.applications.registration import Registrations
from switch.merchants.applications.review import Review
from switch.merchants.approvals import Approvals
from switch.merchants.bulk.imports import Imports
from switch.merchants.contracts.reads import Reads as ContractReads
from switch.merchants.contracts.signing import Contracts
from switch.merchants.crypto_keys import CryptoKeys
from switch.merchants.device_keys import DeviceKeys
from switch.merchants.host_days import HostDays
from switch.merchants.journey import Journey
from switch.merchants.onboarding import Onboarding
from switch.merchants.support.desk import SupportDesk
from switch.merchants.support.tickets import Tickets
from switch.notices.endpoints import Endpoints
from switch.notices.inbox import Inbox
from switch.payments.authorization import Authorizations
from switch.payments.cancellation import Cancellations
from switch.payments.follow_ups import FollowUps
from switch.payments.history import History
from switch.payments.offline import OfflineSales
from switch.payments.resolution import Resolution
from switch.payments.signatures import Signatures
from switch.payments.undelivered import Undelivered
from switch.rights import PUBLIC
from switch.security.vault import Vault
from switch.settings import Settings
from switch.settlement.batches.counts import Batches
from switch.settlement.batches.forwarding import Forwarding
from switch.settlement.cutover.closing import Closing
from switch.settlement.cutover.settlements import Settlements
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.docket import Docket
from switch.settlement.disputes.exhibits import Exhibits
from switch.settlement.exports.files import Connect, Exports
from switch.settlement.exports.paper import Press
from switch.settlement.funding.arrangements import Arrangements
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.payouts.answers import BankAnswers
from switch.settlement.payouts.bank_accounts import BankAccounts
from switch.settlement.payouts.files import PayoutFiles
from switch.settlement.payouts.runs import Payouts
from switch.settlement.reconciliation.exceptions import Exceptions
from switch.settlement.reconciliation.intake import Intake
from switch.terminals.acceptance import Acceptance
from switch.terminals.activation import Activation
from switch.terminals.devices import Devices
from switch.terminals.health import Health
from switch.terminals.parameter_sets import ParameterSets
from switch.terminals.releases import Releases
from switch.terminals.training import Training

DESCRIPTION = Description()
EXAMPLE = {
    "type": "purchase", "amount": 10000, "currency": "CNY", "terminal_trace": "000017", "reference": "table 4",
    "card": {"entry_mode": "chip", "pan": "6212345678900000003", "expiry": "3012", "emv": "9F2608A1B2C3D4E5F60718950500000080009A03261123"},
}


class Parts(Protocol):
    """What the application needs of the switch (app.py)."""

    directory: Directory
    history: History
    cancellations: Cancellations
    follow_ups: FollowUps
    offline: OfflineSales
    authorizations: Authorizations
    vault: Vault
    undelivered: Undelivered
    onboarding: Onboarding
    imports: Imports
    resolution: Resolution
    approvals: Approvals
    intake: Intake
    exceptions: Exceptions
    webhooks: Endpoints
    links: dict[UUID, Link]
    roster: Roster
    host_days: HostDays
    writers: Pool
    readers: Pool
    exports: Exports
    foreman: Foreman
    press: Press
    places: Places
    settlements: Settlements
    closing: Closing
    arrangements: Arrangements
    cases: Cases
    docket: Docket
    exhibits: Exhibits
    batches: Batches
    forwarding: Forwarding
    bank_accounts: BankAccounts
    bank_answers: BankAnswers
    payout_files: PayoutFiles
    payouts: Payouts
    crypto_keys: CryptoKeys
    device_keys: DeviceKeys
    settings: Settings
    devices: Devices
    activation: Activation
    health: Health
    parameter_sets: ParameterSets
    releases: Releases
    acceptance: Acceptance
    signatures: Signatures
    training: Training
    accounts: Accounts
    desk_of_applications: DeskOfApplications
    papers: Papers
    review: Review
    registrations: Registrations
    contracts: Contracts
    contract_reads: ContractReads
    tickets: Tickets
    support_desk: SupportDesk
    inbox: Inbox
    journey: Journey

    @property
    def protection(self) -> risk.Protection: ...
    def admit(self) -> None: ...
    def reader(self) -> Connect: ...
    async def readiness(self) -> tuple[bool, dict[str, Any]]: ...


def application(parts: Parts) -> FastAPI:
    def anybody(request: Request) -> Caller:
        return admitted(identify(parts.directory, request.headers.get("authorization")), request.method, request.scope["route"].path)

    def known_first(request: Request) -> None:
        """Who is nobody hears so, whatever else is wrong with the question."""
        path = getattr(request.scope.get("route"), "path", "")
        if path.startswith("/v1/") and path not in PUBLIC:
            anybody(request)

    app = FastAPI(title="Payment switch", version="1", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
                  telemetry={"logs": False, "operation_spans": False}, dependencies=[Depends(known_first), Depends(documented_only)],
                  description="Money is integer minor units with an ISO 4217 code. Errors are problem details; see /problems.")
    problems.install(app)

    def caller_of(request: Request) -> Caller:
        return no_applicant(anybody(request))

    def links() -> Mapping[UUID, Link]:
        return parts.links

    @app.post("/v1/authorizations", tags=["terminals"], summary="Authorize a payment", status_code=201,
              openapi_extra=documented(AuthorizationRequest, EXAMPLE) | {"parameters": [
                  {"name": "Idempotency-Key", "in": "header", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
                   "description": "Made and stored by the terminal before it sends; the same key gives the same answer for ever."},
                  {"name": "Request-Deadline", "in": "header", "required": False, "schema": {"type": "number"},
                   "description": "Seconds the terminal will wait."}]},
              responses={201: {"model": ApprovedOrDeclined, "description": "The outcome; a decline is an outcome. Replays byte for byte."},
                         202: {"model": NotSold, "description": "Not sold, or its payer has not decided. GET it for the end of the story."},
                         **refused(400, 401, 403, 409, 413, 415, 422, 503)})
    async def authorize(request: Request) -> Response:
        raise Problem("not_found")  # never reached: the plain callable of api/terminal.py stands in front (app.py)

    app.include_router(merchant.router(parts, caller_of))
    app.include_router(follow_ups.router(parts, caller_of, asyncio.get_running_loop().time))
    app.include_router(offline.router(parts, caller_of, asyncio.get_running_loop().time))
    app.include_router(terms.router(lambda: parts.writers, caller_of))
    app.include_router(stand_in.router(lambda: parts.writers, caller_of))
    app.include_router(tariffs.router(lambda: parts, caller_of))
    app.include_router(estimates.router(lambda: parts, caller_of))
    app.include_router(routes.router(parts, caller_of))  # before /v1/routes/{id}
    app.include_router(operator.router(caller_of, parts.onboarding, links, parts.writers, lambda: parts.roster))
    app.include_router(resolving.router(caller_of, parts.resolution, parts.approvals))
    app.include_router(reconciliation.router(parts, caller_of))
    app.include_router(jobs.router(caller_of, parts.writers, lambda: parts.foreman.kinds))
    app.include_router(imports.router(parts, caller_of))
    app.include_router(exports.router(parts, caller_of))
    app.include_router(settlements.router(parts, caller_of))
    app.include_router(cutovers.router(parts, caller_of))
    app.include_router(arrangements.router(parts, caller_of))
    app.include_router(lines.router(parts, caller_of))
    app.include_router(webhooks.router(parts, caller_of))
    app.include_router(disputes.router(parts, caller_of))
    app.include_router(dispute_desk.router(parts, caller_of))
    app.include_router(batches.router(parts, caller_of))
    app.include_router(bank_accounts.router(parts, caller_of))
    app.include_router(payouts.router(parts, caller_of))
    app.include_router(crypto_keys.router(parts, caller_of))
    for room in (devices, heartbeats, parameters, rollouts, receipts, accounts, qr_codes, risk, acceptance, training, signatures, notices,
                 moves, leaving, licences, traffic):
        app.include_router(room.router(parts, caller_of))
    app.include_router(application_review.router(parts, caller_of))
    app.include_router(registrations.router(parts))
    for room in (applications, contracts, tickets, choosing, help_articles, announcements, application_notices):
        app.include_router(room.router(parts, anybody))
    app.include_router(problems.router)

    @app.get("/healthz", tags=["operations"], summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"], summary="This worker admits payments",
             responses={503: {"description": "It does not: send it no payments; the body says why", "content": {"application/json": {}}}})
    async def readyz() -> Response:
        ready, body = await parts.readiness()
        return JSONResponse({"ready": ready, **body}, 200 if ready else 503, {} if ready else {"retry-after": "2"})

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response((await asyncio.to_thread(DESCRIPTION.of, app))[0], media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse((await asyncio.to_thread(DESCRIPTION.of, app))[1],
                            headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})

    complete(app, [AuthorizationRequest, CancellationRequest, ProblemDetails, *follow_ups.MODELS, *offline.MODELS, *terms.MODELS, *stand_in.MODELS,
                   *operator.MODELS, *routes.MODELS, *resolving.MODELS, *tariffs.MODELS, *estimates.MODELS, *cutovers.MODELS, *reconciliation.MODELS,
                   *exports.MODELS, *arrangements.MODELS, *lines.MODELS, *webhooks.MODELS,
                   *disputes.MODELS, *dispute_desk.MODELS, *batches.MODELS, *bank_accounts.MODELS, *payouts.MODELS, *crypto_keys.MODELS,
                   *devices.MODELS, *heartbeats.MODELS, *parameters.MODELS, *rollouts.MODELS, *acceptance.MODELS, *training.MODELS,
                   *accounts.MODELS, *qr_codes.MODELS, *risk.MODELS, *applications.MODELS, *application_review.MODELS,
                   *contract_shapes.MODELS, *tickets.MODELS, *notices.MODELS,
                   *moves.MODELS, *choosing.MODELS, *leaving.MODELS, *licences.MODELS, *help_articles.MODELS, *announcements.MODELS])
    return app
