"""uvicorn's HTTP protocol with time-outs for clients that send or read too slowly.

uvicorn waits for a request's header, for the rest of a refused body and for a client that does not
read for as long as the connection lasts. What a route does within a request is not touched.
"""
from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LINGER = 2.0        # seconds in which what a refused client still sends is discarded


def protocol(receive_timeout: float, max_clients: int) -> type[H11Protocol]:
    """The class for uvicorn's `http`, with the limits of the service."""
    return type("Protocol", (PatientProtocol,), {"receive_timeout": receive_timeout,
                                                 "max_clients": max_clients})


class PatientProtocol(H11Protocol):
    """Patient, but not for ever: each of these has `receive_timeout` seconds.

    A header must arrive (else 408), the rest of a body that was refused early, and the client must
    take its answer (else the connection is cut). A request that is cut short is answered with 400.
    """
    receive_timeout = 20.0
    max_clients = 512

    def connection_made(self, transport: asyncio.Transport) -> None:    # type: ignore[override]
        super().connection_made(transport)
        self._ending = False
        self._deadline: asyncio.TimerHandle | None = None
        # Requests on connections over the limit get 503; so many more, and not even that.
        if len(self.connections) > 2 * self.max_clients:
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def eof_received(self) -> bool | None:
        if self._ending or not self._unfinished():
            return None
        self._end(400, "the request ended early")
        return True

    def send_400_response(self, msg: str) -> None:
        self._end(400, msg)

    # -- time-outs --------------------------------------------------------------------------------

    def _unfinished(self) -> bool:
        """Has a part of a request arrived whose rest is missing?"""
        return (self.conn.their_state is h11.SEND_BODY
                or (self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])))

    def _waiting(self) -> bool:
        """Does only the client keep this connection from getting on?

        While a route reads a body, its own time-out counts; between requests, uvicorn's.
        """
        answered = self.cycle is None or self.cycle.response_complete
        return answered and (self.timeout_keep_alive_task is None or self._unfinished()
                             or self.transport.get_write_buffer_size() > 0)

    def _watch(self) -> None:
        if self._ending:
            return
        if not self._waiting():
            self._set_deadline(None)
        elif self._deadline is None:
            self._set_deadline(self.receive_timeout)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._deadline = None
        if self._ending or self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        elif self.conn.their_state is h11.IDLE and self._unfinished():
            self._end(408, f"the header did not arrive within {self.receive_timeout:g} s")
        elif self._waiting():
            self.transport.abort()

    # -- the end ----------------------------------------------------------------------------------

    def _end(self, status: int, message: str) -> None:
        """Answer if that is still possible, and close once the client has had time to read it.

        Closing at once would reset a connection on which data is unread, and lose the answer.
        """
        self._ending = True
        self._unset_keepalive_if_required()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))),
                       ("Connection", "close")]
            events: list[Any] = [h11.Response(status_code=status, headers=headers, reason=b""),
                                 h11.Data(data=body), h11.EndOfMessage()]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True      # the route must not answer, too
            self.cycle.message_event.set()
        self._set_deadline(LINGER)
        try:
            self.transport.write_eof()
        except OSError:         # the client is gone already
            self.transport.abort()
            return
        self.transport.resume_reading()
