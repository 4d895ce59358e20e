"""What the console refuses."""

from app.errors import Forbidden, NotFound


class OperatorRoleRefused(Forbidden):
    """``X-Operator-Role`` names a role that does not exist, or one above that of the API key."""

    code = "operator_role_refused"


class FormRefused(Forbidden):
    """A form did not come from a page of the session that sends it."""

    code = "form_refused"


class PageNotFound(NotFound):
    """The console has no such page."""

    code = "page_not_found"
