"""What goes wrong between a caller and the server, as OpenAI's error bodies put it.

These errors never leave the server, so they are not in the package's tree of errors: a caller gets status and body.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from safe_retrieval.errors import InputError


class Problem(NamedTuple):
    """An answer that is not the one that was asked for.

    Attributes:
        status: of HTTP.
        message: for people: what was expected, what came, the mend.
        code: for programs and logs; a fixed word, never made of what was sent.
        param: the field that is wrong, if it is one.
        retry_after: seconds after which the same request may succeed.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: int | None = None

    @property
    def kind(self) -> str:
        """OpenAI's ``type``."""
        match self.status:
            case 401 | 403:
                return "authentication_error"
            case 429:
                return "rate_limit_error"
            case status if status >= 500:
                return "server_error"
            case _:
                return "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        own = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return own | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


class ProblemError(Exception):
    """Raised by what handles a request, to answer with a :class:`Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class BusyError(ProblemError):
    """There is more work waiting than the server takes on."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            Problem(
                429,
                f"the server has more work waiting than it takes on; send this again in {retry_after} s",
                "server_busy",
                retry_after=retry_after,
            )
        )


SERVER_FAILED = Problem(
    500, "the server failed at this request; its log has the request's id beside the reason", "server_failed"
)
"""The message tells nothing of the inside; the log does."""

NO_JSON = Problem(400, "expected the body to be one JSON object; it cannot be read as JSON", "invalid_json")
"""Whatever the parser gives up on: no JSON, too deep, or too long a number."""


def of_input(error: InputError) -> Problem:
    """An argument that the package refuses is the caller's."""
    return Problem(400, str(error), "invalid_value")


def of_validation(errors: list[Any]) -> Problem:
    """The first thing that is wrong with a body, from pydantic's list; values that were sent are not repeated."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return NO_JSON
    where = [str(part) for part in first["loc"][1:]]
    param = ".".join(where) or None
    reason = first.get("ctx", {}).get("error") or first["msg"]  # our own errors without pydantic's "Value error, "
    message = f"{param or 'the body'}: {reason}"
    return Problem(400, message, "invalid_value", param)
