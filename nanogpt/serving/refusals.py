"""What a request is refused with: a status, and one line that a person can act on."""

from __future__ import annotations

import json

from nanogpt.faults import UserError

OLLAMA = "/api/"  # paths whose clients expect Ollama's form of an error


class Refusal(Exception):
    """An answer other than the one that was asked for. `param`: the field at fault. `code`: OpenAI's word for it."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def kind(self) -> str:
        """OpenAI's name for the sort of error."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def content(self) -> dict[str, dict[str, str | None]]:
        """As OpenAI's API states an error."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self, path: str) -> bytes:
        """JSON in the form that clients of `path` expect, in ASCII whatever a client has sent."""
        return json.dumps({"error": self.message} if path.startswith(OLLAMA) else self.content).encode("ascii")


def bad_field(param: str, message: str) -> Refusal:
    """A field of a request that is not as it has to be."""
    return Refusal(400, f"{param}: {message}" if param else message, "invalid_value", param or None)


def refusal_of(error: BaseException) -> Refusal:
    """What a client hears of an error that came up while its text was begun or written."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        return Refusal(400, str(error), "invalid_value")
    return Refusal(500, f"the model cannot go on: {str(error) or type(error).__name__}", "model_failed")
