"""One request's way through the gateway: to a replica, perhaps to another one, and its answer back.

What may be sent again: a request that no replica has seen (no connection came about), always; one that a replica may
have seen, only if doing it twice is the same as doing it once (GET, PUT ..., and POST where the endpoint says so), its
body is still here, and nothing of an answer has gone to the client. A time-out is never retried: the replica may be
busy with the request, and another one would be next.
"""

from __future__ import annotations

import asyncio

from localml.gateway import headers as heads
from localml.gateway.admission import NothingReady, Refused
from localml.gateway.routing import Endpoint, Place, Replica, Variant
from localml.gateway.tunnel import join
from localml.gateway.upload import Upload
from localml.gateway.upstream import Answer, Broken, Connection, Unreachable
from localml.httpd.connection import Client
from localml.httpd.headers import CONTINUE, LAST_CHUNK, chunk, length_line
from localml.httpd.request import Request
from localml.httpd.wire import Incoming

ATTEMPTS = 3
CLIENT_TIMEOUT = 60.0
"""Seconds that a client may pause in the middle of reading an answer."""
WHOLE = 64 * 1024
"""Answers up to this size are sent when they are complete, in one write: a replica that dies before costs nothing."""
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Lost(Exception):
    """An attempt came to nothing.

    Args:
        seen: the replica may have got the request.
        stale: a kept connection turned out to be closed, which says nothing about the replica.
    """

    def __init__(self, replica: Replica, code: str, message: str, *, seen: bool, stale: bool = False) -> None:
        super().__init__(message)
        self.replica, self.code, self.seen, self.stale = replica, code, seen, stale


class Exchange:
    """One request that was let in, until its answer is out.

    Args:
        path: the request's target without the place's prefix, query included.
        forced: the only variant that will do; None for any.
        hides: the replica does not get to see the client's credentials.
    """

    def __init__(
        self, request: Request, client: Client, place: Place, path: bytes, forced: str | None, *, hides: bool
    ) -> None:
        self._request, self._client, self._place = request, client, place
        self._endpoint: Endpoint = place.endpoint
        self._path = path
        self._forced = forced
        self._hides = hides
        self._loop = client.loop
        self._limits = self._endpoint.route.limits
        self._upload = Upload(request, self._limits)
        self._prepared = False
        self._tried: set[Replica] = set()
        self._stale: set[Replica] = set()
        self.variant: Variant | None = None
        self.status = 0
        self.error: str | None = None

    async def run(self) -> None:
        """Send the request until it is answered. After ``NothingReady`` it may be called again.

        Raises:
            NothingReady: no replica was there to be asked, though there was one when the request was let in.
            Refused: nothing was answered yet, and this is what to answer.
            BadRequest: the client's body broke off; nothing was answered yet.
        """
        if not self._prepared:
            self._prepared = True
            if self._request.expects_continue:
                self._client.write(CONTINUE)
            await self._upload.prepare()
        last: Lost | None = None
        for number in range(ATTEMPTS):
            choice = self._choose()
            if choice is None:
                break
            self._count_attempt(number)
            try:
                await self._attempt(*choice)
                return
            except Lost as lost:
                last = lost
                self._tried.add(lost.replica)
                if lost.stale:
                    self._stale.add(lost.replica)
                if not self._may_repeat(seen=lost.seen):
                    break
        if last is None:
            raise NothingReady
        self.error = last.code
        raise Refused(502, last.code, f"replica {last.replica.id}: {last}", retry_after=1)

    def _choose(self) -> tuple[Variant, Replica] | None:
        now = self._loop.time()
        if self.variant is not None:  # another attempt: another replica of the same version if there is one
            replica = self.variant.least_busy(now, self._tried)
            if replica is not None:
                return self.variant, replica
        choice = self._endpoint.choose(now, self._forced, self._tried)
        if choice is None and self._stale:  # no other replica: this one deserves a fresh connection
            self._tried -= self._stale
            self._stale.clear()
            choice = self._endpoint.choose(now, self._forced, self._tried)
        return choice

    def _count_attempt(self, number: int) -> None:
        if number and self.variant is not None:
            self.variant.counts.retries += 1

    def _may_repeat(self, *, seen: bool) -> bool:
        if not self._upload.replayable or self._client.head_sent:
            return False
        return not seen or self._harmless()

    def _harmless(self) -> bool:
        method = self._request.method
        return method in _IDEMPOTENT or (method == b"POST" and self._endpoint.route.retry_infer)

    async def _attempt(self, variant: Variant, replica: Replica) -> None:
        self.variant = variant
        replica.inflight += 1
        variant.counts.inflight += 1
        connection: Connection | None = None
        try:
            connection = await replica.pool.acquire()
            await self._send_and_answer(variant, replica, connection)
            replica.succeeded()
        except Unreachable as error:
            replica.failed(self._loop.time())
            raise Lost(replica, "unreachable", str(error), seen=False) from error
        finally:
            replica.inflight -= 1
            variant.counts.inflight -= 1
            if connection is not None:
                replica.pool.give_back(connection)

    async def _send_and_answer(self, variant: Variant, replica: Replica, connection: Connection) -> None:
        head = connection.begin(without_body=self._request.method == b"HEAD")
        if self._upload.small:
            await self._upload.send(connection, self._head(replica))
            await self._back(variant, replica, connection, await self._wait(replica, connection, head))
            return
        sending = self._loop.create_task(self._upload.send(connection, self._head(replica)))
        try:
            await asyncio.wait((head, sending), return_when=asyncio.FIRST_COMPLETED)
            if not head.done():
                self._sent(replica, sending)
            answer = await self._wait(replica, connection, head)
            await self._back(variant, replica, connection, answer)
        finally:
            if not sending.done():  # the replica has answered without reading all
                sending.cancel()
                await asyncio.wait([sending])
                connection.close_after()
            elif not sending.cancelled():
                sending.exception()  # looked at above, or of no interest any more

    def _sent(self, replica: Replica, sending: asyncio.Task[None]) -> None:
        """The body is out, or this says why it is not."""
        try:
            sending.result()
        except ConnectionResetError:
            pass  # the answer's future says more
        except TimeoutError:
            raise self._timeout(replica, "does not read the request's body") from None

    async def _wait(self, replica: Replica, connection: Connection, head: asyncio.Future[Answer]) -> Answer:
        timer = self._loop.call_later(self._limits.timeout_s, _expire, head)
        try:
            return await head
        except TimeoutError:
            raise self._timeout(replica, "did not answer") from None
        except Broken as error:
            if connection.stale:
                replica.pool.drop_idle()
            else:
                replica.failed(self._loop.time())
            raise Lost(replica, "cut", str(error), seen=True, stale=connection.stale) from error
        finally:
            timer.cancel()

    def _timeout(self, replica: Replica, what: str) -> Refused:
        replica.timed_out(self._loop.time())
        self.error = "timeout"
        return Refused(504, "timeout", f"replica {replica.id} {what} in {self._limits.timeout_s:g} s")

    # -- there -------------------------------------------------------------------------------------

    def _head(self, replica: Replica) -> bytes:
        request, first = self._request, self._request.first
        extra = b"host: %b\r\n%bx-forwarded-for: %b\r\nx-forwarded-proto: http\r\n" % (
            replica.pool.netloc,
            replica.greeting,
            self._client.peer,
        )
        if host := first.get(b"host"):
            extra += b"x-forwarded-host: %b\r\n" % host
        if self._place.prefix != self._place.target:
            extra += b"x-forwarded-prefix: %b\r\n" % self._place.prefix.encode()
        if request.websocket:
            extra += b"connection: upgrade\r\nupgrade: websocket\r\n"
        elif request.length is None or request.length or b"content-length" in first:
            extra += length_line(request.length)
        lines = heads.request_lines(
            request.headers,
            request.connection,
            hide_credentials=self._hides,
            extra=extra,
        )
        line = b"%b %b%b HTTP/1.1\r\n" % (request.method, self._place.target.encode(), self._path)
        return b"".join((line, lines, b"\r\n"))

    # -- and back ----------------------------------------------------------------------------------

    async def _back(self, variant: Variant, replica: Replica, connection: Connection, answer: Answer) -> None:
        if answer.status == 503 and self._may_repeat(seen=True) and self._another(replica):
            raise Lost(replica, "unavailable", "it answered 503", seen=True)
        first = await self._first(replica, answer)
        location = answer.first.get(b"location")
        if location is not None:
            location = heads.public_location(
                location, replica.pool.origin, self._place.prefix.encode(), self._place.target.encode()
            )
        lines = heads.answer_lines(answer.headers, answer.first.get(b"connection"), location)
        lines += b"%b: %b\r\n" % (heads.VARIANT, variant.name.encode())
        if answer.status == 101:
            if connection.tunnel is None or self._client.tunnel is None:
                raise Lost(replica, "cut", "it switched protocols without being asked", seen=True)
            lines += b"connection: upgrade\r\nupgrade: websocket\r\n"
            self.status = answer.status
            self._client.switch(bytes(lines))
            await join(self._client, connection)
            return
        self.status = answer.status
        length = self._declared(answer)
        chunked = self._client.start(self._request, answer.status, bytes(lines), length, first)
        if answer.length != -1:
            await self._stream(replica, answer, chunked)

    def _another(self, replica: Replica) -> bool:
        """Some other replica could be asked, and the last attempt is not spent."""
        tried = self._tried | {replica}
        if len(tried) >= ATTEMPTS or self.variant is None:
            return False
        now = self._loop.time()
        return any(
            one.usable(now) and one not in tried
            for variant in self._endpoint.variants.values()
            if variant is self.variant or (self._forced is None and variant.weight)
            for one in variant.replicas
        )

    async def _first(self, replica: Replica, answer: Answer) -> bytes:
        """What of the body goes out with the head: a small one whole, of others what is here."""
        if answer.length is None or answer.length > WHOLE:
            return answer.body.take()
        if answer.length <= 0 or answer.body.ended:
            return answer.body.take()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await answer.body.whole()
        except TimeoutError:
            raise self._timeout(replica, "did not finish its answer") from None
        except Broken as error:
            replica.failed(self._loop.time())
            raise Lost(replica, "cut", str(error), seen=True) from error

    def _declared(self, answer: Answer) -> int | None:
        """The length for the client's head; an answer to HEAD repeats what a GET would have had."""
        if self._request.method == b"HEAD" and b"content-length" in answer.first:
            return int(answer.first[b"content-length"])
        return answer.length

    async def _stream(self, replica: Replica, answer: Answer, chunked: bool) -> None:
        """Pass on the rest of a body. The head is out, so all that can be done about a failure is to cut."""
        body, client = answer.body, self._client
        try:
            while not body.ended or body.waiting:
                await client.drain(CLIENT_TIMEOUT)
                piece = body.take() or await self._next(body)
                if piece:
                    client.write(chunk(piece) if chunked else piece)
            if chunked:
                client.write(LAST_CHUNK)
        except Broken:
            replica.failed(self._loop.time())
            self._give_up("cut")
        except _ReplicaPaused:
            replica.timed_out(self._loop.time())
            self._give_up("timeout")
        except TimeoutError:
            self._give_up("slow_client")
        except ConnectionResetError:
            self._give_up("client_gone")

    async def _next(self, body: Incoming) -> bytes:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await body.read()
        except TimeoutError:
            raise _ReplicaPaused from None

    def _give_up(self, why: str) -> None:
        self.error = why
        self._client.cut()


class _ReplicaPaused(Exception):
    """A replica stopped in the middle of its answer."""


def _expire(head: asyncio.Future[Answer]) -> None:
    if not head.done():
        head.set_exception(TimeoutError())
