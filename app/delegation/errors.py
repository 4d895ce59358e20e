"""What delegation refuses."""

from app.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed, Refused


class DelegationNotFound(NotFound):
    """No delegation has this id."""

    code = "delegation_not_found"


class NoTaskOffered(NotFound):
    """No task waits for the agent now; ask again later, with the same key or another."""

    code = "no_task_offered"


class NotYourAgent(Forbidden):
    """The agent that would act belongs to another owner."""

    code = "not_your_agent"


class NotAParty(Forbidden):
    """The delegation is between agents of other owners, or the command is for its other side."""

    code = "not_a_party"


class DelegateInactive(Conflict):
    """The delegate is deprecated and takes no new work."""

    code = "delegate_inactive"


class DelegateVersionMismatch(Conflict):
    """The delegate's latest version is not the one that the request names."""

    code = "delegate_version_mismatch"


class AcceptanceRuleBroken(Forbidden):
    """The delegate's owner does not take such an offer; ``rule`` names the acceptance rule."""

    code = "acceptance_rule_broken"
    settled = True


class AcceptanceRulesChanged(PreconditionFailed):
    """The rules are no longer those that ``If-Match`` names; read them again and decide anew."""

    code = "acceptance_rules_changed"


class CapabilityUnknown(Conflict):
    """The delegate's latest version has no capability with this id."""

    code = "capability_unknown"


class CapabilitySchemaUnusable(Conflict):
    """The capability's schema cannot be applied, or not to this payload within a check's limits."""

    code = "capability_schema_unusable"


class PayloadInvalid(Invalid):
    """The task's input or output does not match the schema of the delegate's capability."""

    code = "payload_invalid"


class PolicyDenied(Refused):
    """Policy refuses the delegation for its budget alone; see ``policy_decision``."""

    code = "policy_denied"


class PolicyForbidden(Forbidden):
    """Policy refuses the delegation for trust or permissions; see ``policy_decision``."""

    code = "policy_forbidden"
    settled = True


class ReauthorizationRefused(Refused):
    """A new estimate is above the metered cost and at most the maximum budget."""

    code = "reauthorization_refused"


class ChargeRefused(Refused):
    """A dispute is resolved with at most what was used and is held."""

    code = "charge_refused"


class CommandNotAllowed(Conflict):
    """The delegation's state does not allow the command; see ``allowed_commands``."""

    code = "command_not_allowed"


class LeaseLost(Conflict):
    """The lease token is not the present one: another worker holds the task, or nobody does."""

    code = "lease_lost"


class DelegationOverdue(Conflict):
    """The command came too late: the delegation's time had run out, and the system has acted."""

    code = "delegation_overdue"
    keeps_effect = True


class BudgetStopped(Conflict):
    """The hard stop at 120 % has ended the delegation; nothing more is metered."""

    code = "budget_stopped"
