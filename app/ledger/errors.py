"""What the ledger refuses."""

from app.errors import Conflict, NotFound, Refused


class InsufficientFunds(Refused):
    """The account's balance does not cover the amount."""

    code = "insufficient_funds"


class AccountFull(Conflict):
    """The sums of an account hold at most 9223372036854.775807 USD over all time; no movement that
    goes beyond is made."""

    code = "ledger_account_full"


class TransactionExists(Conflict):
    """This movement of money has happened already."""

    code = "ledger_transaction_exists"


class NotReversible(Conflict):
    """What a delegation moved is corrected by the delegation itself, such as by a dispute."""

    code = "ledger_not_reversible"


class AccountNotFound(NotFound):
    """No account has this id, or it is not yours to see."""

    code = "ledger_account_not_found"


class TransactionNotFound(NotFound):
    """No transaction has this id, or it is not yours to see."""

    code = "ledger_transaction_not_found"


class NotSealed(Conflict):
    """The transaction is not in a sealed block yet; blocks are sealed about twice a minute."""

    code = "ledger_not_sealed"
    settled = False


class MeteringEventReused(Conflict):
    """The event id was used before, for an event with another content."""

    code = "metering_event_reused"
