"""A session for threads: the link of blocking drivers, listeners and datagram sockets."""

from __future__ import annotations

import math
import select
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, cast

from pilotstack.client import calls
from pilotstack.client._serving import log, report_hook
from pilotstack.client._session import (
    Accepted,
    Answer,
    Event,
    Greeted,
    Received,
    discard,
    unavailable,
)
from pilotstack.client._wire import (
    CLOSE,
    DAEMON_GONE,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_BACKLOG,
    MAX_DATAGRAMS,
    SETUP,
    Ending,
    Wire,
    close_after_fork,
    forked,
    is_hung_up,
    open_socket,
)
from pilotstack.errors import NotRunning, PilotError, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pilotstack.client._socket import StreamSocket
    from pilotstack.client._wire import Place
    from pilotstack.client.calls import Call

    Hook = Callable[[], object]

T = TypeVar("T")


class Plan:
    """What a session does about the end of its daemon.

    Args:
        is_wanted: connect again.
        on_disconnect: called when a session ended.
        on_reconnect: called when it is as before.
    """

    def __init__(
        self,
        is_wanted: bool,
        on_disconnect: Hook | None,
        on_reconnect: Hook | None,
    ) -> None:
        self.is_wanted = is_wanted
        self.on_disconnect = on_disconnect
        self.on_reconnect = on_reconnect


def _tell(hook: Hook | None) -> None:
    if hook is not None:
        try:
            hook()
        except Exception as error:
            report_hook(error)


def _late() -> TimedOut:
    return TimedOut("no answer in time", hint="the daemon may be stopped or overloaded")


class ThreadLink:
    """One session. A thread that waits holds up no thread that only sends.

    Args:
        timeout: seconds that the daemon has for an answer.
        plan: what happens when the daemon ends.

    Raises:
        NotRunning: no daemon answers.
        TimedOut: it does not greet.
    """

    def __init__(self, place: Place, timeout: float, plan: Plan) -> None:
        self.place = place
        self.timeout = timeout
        self.plan = plan
        #: Binds again what was bound, after a new session began.
        self.restore: Callable[[float], None] | None = None
        self.is_closed = False
        # Held by whoever waits for what arrives, and while bytes or state move.
        self._reading = threading.RLock()
        self._moving = threading.RLock()
        self._events: list[Event] = []
        self._lost = 0
        close_after_fork(self)
        self.wire = self._open(time.monotonic() + min(SETUP, timeout))

    def _open(self, deadline: float) -> Wire:
        pause = 0.01
        while (socket := open_socket(self.place)) is None:
            self._sleep(pause, deadline)
            pause = min(2 * pause, 0.25)
        wire = self.wire = Wire(socket)
        try:
            self._flush(wire, wire.session.hello(), deadline)
            greeting = cast("Greeted", self._next(lambda e: isinstance(e, Greeted), deadline))
            if greeting.error is not None:
                raise greeting.error
            if not greeting.is_extended:
                raise unavailable()
        except BaseException:
            wire.lose()
            raise
        return wire

    def close(self) -> None:
        """Ends the session; threads that wait on it are told."""
        self.is_closed = True
        self.wire.close()
        if not self.wire.is_forked:
            events, self._events = self._events, []
            discard(events)

    def _after_fork(self) -> None:
        """Streams that wait are the parent's: copies would keep them open there."""
        events, self._events = self._events, []
        discard(events)

    @staticmethod
    def _sleep(pause: float, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _late()
        time.sleep(min(pause, left))

    @contextmanager
    def _as_reader(self, deadline: float) -> Iterator[None]:
        if self.wire.is_forked:
            # Another thread of the parent may have held the lock, which nobody frees here.
            raise forked()
        left = deadline - time.monotonic()
        if not self._reading.acquire(timeout=min(max(0.0, left), threading.TIMEOUT_MAX)):
            raise _late()
        try:
            yield
        finally:
            self._reading.release()

    def _wait(self, wire: Wire, events: int, deadline: float) -> None:
        """Returns when the socket is ready.

        Raises:
            TimedOut: it is not in time.
        """
        poll = select.poll()
        try:
            poll.register(wire.socket, events)
        except (OSError, ValueError):
            wire.check()
            raise
        left = deadline - time.monotonic()
        milliseconds = None if left == math.inf else max(0, math.ceil(min(left, 1e6) * 1000))
        if not poll.poll(milliseconds) and time.monotonic() >= deadline:
            raise _late()

    def _flush(self, wire: Wire, ticket: int, deadline: float) -> None:
        """Returns when a frame has left. A daemon whose own output is not read takes nothing, so
        somebody reads meanwhile."""
        while True:
            with self._moving:
                wire.flush()
                if wire.session.out.is_out(ticket):
                    return
            if self._reading.acquire(blocking=False):
                try:
                    self._wait(wire, select.POLLIN | select.POLLOUT, deadline)
                    self._pump(wire)
                finally:
                    self._reading.release()
            else:
                self._wait(wire, select.POLLOUT, deadline)

    def _pump(self, wire: Wire, *, until_answered: bool = False) -> None:
        with self._moving:
            for event in wire.drain(until_answered=until_answered):
                self._take(wire, event)
            if wire.session.lost > self._lost:
                if self._lost == 0:
                    log.warning("this process may open no more files; streams are refused")
                self._lost = wire.session.lost

    def _take(self, wire: Wire, event: Event) -> None:
        if isinstance(event, Accepted) and len(self._events) >= MAX_BACKLOG:
            wire.session.refuse(event)
        elif not isinstance(event, Received) or len(self._events) < MAX_DATAGRAMS:
            self._events.append(event)

    def _next(self, wanted: Callable[[Event], bool], deadline: float) -> Event:
        """The next event that ``wanted`` holds for; others wait for whoever wants them."""
        while True:
            with self._moving:
                for position, event in enumerate(self._events):
                    if wanted(event):
                        return self._events.pop(position)
            wire = self.wire
            wire.check()
            is_writing = bool(wire.session.out)
            self._wait(wire, select.POLLIN | (select.POLLOUT if is_writing else 0), deadline)
            self._pump(wire, until_answered=True)

    # What drivers, listeners and datagram sockets do

    def ready(self, deadline: float) -> Wire:
        """The session; a new one if the daemon ended and that is wanted."""
        wire = self.wire
        if self.plan.is_wanted and not self.is_closed and not wire.is_forked:
            if not wire.is_closed and is_hung_up(wire.socket):
                # Found out before anything is asked, so that nothing need be asked again.
                with self._moving:
                    wire.lose()
            if wire.is_lost:
                self._reopen(deadline)
        self.wire.check()
        return self.wire

    def _reopen(self, deadline: float) -> None:
        _tell(self.plan.on_disconnect)
        with self._moving:
            events, self._events = self._events, []
            discard(events)
        pause = FIRST_PAUSE
        while not self.is_closed:
            try:
                self._open(min(deadline, time.monotonic() + SETUP))
                self._lost = 0
                if self.restore is not None:
                    self.restore(min(deadline, time.monotonic() + self.timeout))
            except (NotRunning, TimedOut) as error:
                log.debug("the daemon is not back yet: %s", error)
                self.wire.lose()
                self._sleep(pause, deadline)
                pause = min(2 * pause, LONGEST_PAUSE)
            except BaseException:
                # Whoever comes next tries again.
                self.wire.lose()
                raise
            else:
                break
        self._end_if_closed()
        _tell(self.plan.on_reconnect)

    def _end_if_closed(self) -> None:
        # By another thread, while the new session began.
        if self.is_closed:
            self.wire.close()

    def next(self, wanted: Callable[[Event], bool], timeout: float | None) -> Event:
        """What arrives next, over the daemon's restart if that is wanted.

        Raises:
            TimedOut: nothing came in time.
            NotRunning: the daemon went away, or the session was closed.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with self._as_reader(deadline):
            while True:
                self.ready(deadline)
                try:
                    return self._next(wanted, deadline)
                except NotRunning:
                    if self.is_closed or not self.plan.is_wanted:
                        raise

    def request(self, call: Call[T], *, timeout: float | None = None, by: float = math.inf) -> T:
        """Asks, and waits for the answer.

        Args:
            timeout: seconds, if other than the link's.
            by: until when, besides.
        """
        return self.request_of(call, timeout=timeout, by=by)[1]

    def request_of(
        self, call: Call[T], *, timeout: float | None = None, by: float = math.inf
    ) -> tuple[Wire, T]:
        """As :meth:`request`; tells the session that answered, too."""
        seconds = self.timeout if timeout is None else timeout
        deadline = min(by, time.monotonic() + seconds)
        with self._as_reader(deadline):
            wire = self.ready(deadline)
            return wire, self.ask(wire, call, deadline)

    def ask(self, wire: Wire, call: Call[T], deadline: float) -> T:
        """As :meth:`request`, of a session that was just opened."""
        with self._moving:
            pending = wire.session.ask(call)
        try:
            self._flush(wire, pending.ticket, deadline)
            answer = self._next(lambda e: isinstance(e, Answer) and e.id == pending.id, deadline)
        except BaseException:
            if not wire.is_closed and not wire.is_forked:
                with self._moving, suppress(NotRunning):
                    wire.session.cancel(pending)
                    wire.flush()
            raise
        found = cast("Answer", answer)
        if found.error is not None:
            raise found.error
        return call.read(found.value)

    def send(self, frame: bytes) -> None:
        """Sends a frame that nothing answers."""
        if self.wire.is_forked:
            raise forked()
        deadline = time.monotonic() + self.timeout
        wire = self.wire
        if self.plan.is_wanted and (wire.is_lost or is_hung_up(wire.socket)):
            with self._as_reader(deadline):
                wire = self.ready(deadline)
        wire.check()
        with self._moving:
            ticket = wire.session.out.put(frame)
        try:
            self._flush(wire, ticket, deadline)
        except BaseException:
            with self._moving:
                wire.session.out.withdraw(ticket)
            raise

    def abort(self, wire: Wire, stream: StreamSocket) -> None:
        """Resets a stream of a session, if that is still there. Returns when the daemon has done
        so: who closes the stream before would send FIN."""
        wire.check_fork()
        if wire.is_closed or stream.fileno() < 0:
            return
        with self._moving, suppress(NotRunning):
            wire.session.abort(stream.connection_id)
            wire.flush()
        poll = select.poll()
        poll.register(stream, 0)
        poll.poll(CLOSE * 1000)

    def judge(self, wire: Wire) -> Callable[[int, bool, bool], str | None]:
        """How streams of a session end."""

        def judge(connection_id: int, is_cut: bool, is_shut: bool) -> str | None:
            if not wire.is_forked and not wire.is_closed:
                self._catch_up(wire)
            ending = wire.ending(connection_id, is_cut=is_cut, is_shut=is_shut)
            if ending is Ending.FIN:
                return None
            if ending is not Ending.DOUBT:
                return ending
            return self._doubt(wire, connection_id)

        return judge

    def _catch_up(self, wire: Wire) -> None:
        # A thread that waits reads what comes anyway.
        if self._reading.acquire(blocking=False):
            try:
                with suppress(PilotError):
                    self._pump(wire)
            finally:
                self._reading.release()

    def _doubt(self, wire: Wire, connection_id: int) -> str | None:
        deadline = time.monotonic() + min(SETUP, self.timeout)
        if not self._reading.acquire(blocking=False):
            return "reset"
        try:
            # Whoever answers lives, and would have said first that the stream broke.
            self.ask(wire, calls.sign_of_life(), deadline)
        except (NotRunning, TimedOut):
            return DAEMON_GONE
        except PilotError:
            pass
        finally:
            self._reading.release()
        return wire.session.failures.get(connection_id)
