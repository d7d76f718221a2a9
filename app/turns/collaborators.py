"""The parts of the service that a turn uses on its way."""

from dataclasses import dataclass

from app.accounts.pool import Accounts
from app.chain.live_ids import LiveIds
from app.limits.service import RateLimits
from app.memory.compaction import Compactions
from app.memory.reader import Reader
from app.process.killable import Killable
from app.provider.models import Models
from app.settings import Settings
from app.turns.cancel_signals import CancelSignals
from app.turns.event_log import EventLog
from app.turns.spool import Spool
from app.turns.store import TurnStore
from app.turns.titles import Titles
from app.usage.hours import TurnHours


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    store: TurnStore
    accounts: Accounts
    models: Models
    live_ids: LiveIds
    event_log: EventLog
    spool: Spool
    signals: CancelSignals
    reader: Reader
    compactions: Compactions
    titles: Titles
    limits: RateLimits
    hours: TurnHours
    killable: Killable
    settings: Settings
