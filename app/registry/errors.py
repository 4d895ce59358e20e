"""What the registry refuses."""

from app.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed


class NamespaceNotFound(NotFound):
    """The name in the path cannot be a namespace."""

    code = "namespace_not_found"


class AgentNotFound(NotFound):
    """No agent has this id."""

    code = "agent_not_found"


class VersionNotFound(NotFound):
    """The agent has no such version."""

    code = "version_not_found"


class NamespaceTaken(Forbidden):
    """The namespace belongs to another owner."""

    code = "namespace_taken"


class NotOwner(Forbidden):
    """The agent belongs to another owner."""

    code = "not_owner"


class AgentExists(Conflict):
    """The namespace already has an agent with this slug; publish a version with PUT instead."""

    code = "agent_exists"


class VersionExists(Conflict):
    """The agent already has this version, or one that differs only in build metadata."""

    code = "version_exists"


class AgentChanged(PreconditionFailed):
    """The agent is no longer the one that ``If-Match`` names; read it again and decide anew."""

    code = "agent_changed"


class ManifestTooLarge(Invalid):
    """The manifest to copy is larger than manifests may be by now."""

    code = "manifest_too_large"


class ManifestMismatch(Invalid):
    """The manifest's ``identity.id`` is not the agent it was sent to."""

    code = "manifest_mismatch"
