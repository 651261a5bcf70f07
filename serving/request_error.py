"""What a client did wrong, or the service cannot do now."""
from __future__ import annotations


class RequestError(Exception):
    """A request ends with this status and {"error": message}.

    Args:
        status: of HTTP, 4xx or 5xx.
        message: one line for people; holds nothing the client did not send or may not know.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
