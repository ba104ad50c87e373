"""One acquirer's conversation without I/O and clock: bytes, requests and instants come in; bytes to write and events go out.

`now` is monotonic seconds; `utc` is the wall time that goes into DE7 and into records. Bytes from the wire never raise: what cannot be
read, matched or believed becomes an `Unmatched` record. One object serves the line over all its connections, so that an answer that
comes after a reconnect is still known as late.
"""

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal

from messages.codec import DecodeError, EncodeError, Rejected, decode
from messages.dialect import Dialect, answer_fault, match_key
from messages.framing import Deframer, FramingError, frame
from switch.links import Bounced, Counters, CutOver, EchoEnded, Event, KeyChange, LineClosed, LinkSettings, Reply, Settled, Silence, Unmatched
from switch.links import network as network_rules
from switch.links.backoff import Backoff
from switch.links.exchange import Deadlines, Exchange, Exchanges, NetworkRequest
from switch.links.sealing import LineKeys, Sealing

PAUSED_NETWORK_FRAMES_MAX = 64  # for a host that sends 0800 but does not read
KEY_CHANGES_MAX = 4  # of a host that wait for our answer
ANSWER_FUNCTIONS = "13579"  # third digit of an MTI


class LinkProtocol:
    """Decides; the shell feeds it, writes `take_output()`, dispatches `take_events()`. `draw` gives the jitter, a number from 0 to 1.

    `exchanges` is shared by all lines of the acquirer. `keyed`: somebody answers the host's key changes; else they are refused.
    """

    def __init__(self, acquirer_id: str, dialect: Dialect, settings: LinkSettings, *, next_stan: Callable[[], str | None],
                 draw: Callable[[], float], exchanges: Exchanges | None = None, keys: LineKeys | None = None, keyed: bool = False) -> None:
        self.acquirer_id, self.dialect, self.settings, self.keyed = acquirer_id, dialect, settings, keyed
        self.counters = Counters()
        self.phase: Literal["closed", "signing_on", "signed_off", "up", "signing_off"] = "closed"
        self.draining = self._probing = False
        self.in_flight = self.echo_failures = self._paused_frames = self._key_changes = 0
        self.last_answer_at: datetime | None = None
        self.last_error: str | None = None
        self._next_stan, self.backoff = next_stan, Backoff(settings.backoff_min, settings.backoff_max, draw)
        self._deframer, self._sealing = Deframer(dialect.framing), Sealing(dialect, keys)
        self.exchanges = exchanges or Exchanges(dialect)
        self._exchanges = self.exchanges.by_key
        self._deadlines = Deadlines(2 * settings.window + 1024)
        self._queue: deque[Exchange] = deque()
        self._network: dict[str, NetworkRequest] = {}  # by purpose: a key of dialect.network
        self._events: list[Event] = []
        self._output: list[bytes] = []
        self._paused_since: float | None = None
        self._last_received = self._sign_on_at = self._drain_until = 0.0

    # what the switch asks

    def usable(self) -> bool:
        return self.phase == "up" and not self.draining and self.in_flight < self.settings.window and self._sealing.ready()

    def request(self, message: Mapping[str, str], token: object, now: float, utc: datetime, send_not_after: float,
                deadline: float) -> bytes | Bounced | None:
        """The frame to hand to write() at once; or why not; or None: queued until the host reads. It ends as `Settled(token, ...)`."""
        if self.phase != "up" or self.draining or not self._sealing.ready():
            return Bounced("draining" if self.draining and self.phase != "closed" else "line_down")
        if now > send_not_after or now >= deadline:
            return Bounced("too_late")
        if self.in_flight >= self.settings.window:
            return Bounced("window_full")
        try:
            payload = frame(self.dialect.framing, self._sealing.write(message))
        except (EncodeError, FramingError) as error:
            self.last_error = f"a request cannot be said in this dialect: {error}"
            return Bounced("not_encodable")
        known = self._exchanges.get(key := match_key(self.dialect, message))
        if known is not None and known.end is None:
            return Bounced("duplicate_key")
        exchange = Exchange(key, message, token, self, send_not_after, deadline, sealed=self._sealing.required())
        self.exchanges.add(exchange)
        self.in_flight += 1
        if self._paused_since is not None:
            exchange.payload = payload
            self._queue.append(exchange)
            self._deadlines.watch(exchange, min(send_not_after, deadline))
            return None
        self._deadlines.watch(exchange, deadline)
        exchange.sent_at = utc
        self.counters.sent += 1
        return payload

    def withdraw(self, message: Mapping[str, str], reason: str) -> None:
        """The frame that `request` gave was not handed to write() after all."""
        exchange = self._exchanges.get(match_key(self.dialect, message))
        if exchange is not None and exchange.end is None and exchange.request is message:
            exchange.sent_at = None
            self.counters.sent -= 1
            self._end(exchange, "bounced", Bounced(reason))

    def sign_on(self, now: float, utc: datetime) -> None:
        """Send 0800/001 now; the line is not usable until it is answered, unless it has keys that work: then it goes on with them until it has
        the new ones. Nothing happens while one is waiting."""
        if self.phase == "up" and self._sealing.required() and self._sealing.ready():
            if "sign_on" not in self._network:
                self._send_network("sign_on", now, utc, self.settings.sign_on_timeout)
        elif self.phase in ("up", "signed_off"):
            self._send_sign_on(now, utc)

    def probe(self, now: float, utc: datetime) -> None:
        """Somebody wants to know whether the host answers an echo: one is sent now unless one is waiting; its end is `EchoEnded`."""
        if self.phase == "up" and not self.draining:
            self._probing = True
            if "echo" not in self._network:
                self._send_network("echo", now, utc, self.settings.echo_timeout)

    def answer_key_change(self, message: Mapping[str, str], code: str) -> None:
        """The answer to a `KeyChange`, when its keys are installed or refused. Nothing is said over another connection than it came by."""
        if self.phase != "closed" and self._key_changes:
            self._key_changes -= 1
            self._send({**network_rules.answer(self.dialect, message, None), "39": code})

    def drain(self, until: float) -> None:
        """No new requests; when the last one ended, or at `until`, the next tick signs off. A line that is not up is closed instead."""
        self.draining, self._drain_until = True, until

    # what the shell reports

    def connected(self, now: float, utc: datetime) -> None:
        """A new connection: nothing counts of the last one's bytes; sign on first."""
        self._deframer = Deframer(self.dialect.framing)
        self._last_received, self._paused_since, self.echo_failures, self.draining, self._key_changes = now, None, 0, False, 0
        self._send_sign_on(now, utc)

    def receive(self, data: bytes, now: float, utc: datetime) -> None:
        fault = None
        try:
            payloads = self._deframer.feed(data)
        except FramingError as error:
            payloads, fault = list(error.frames), error.reason
        for payload in payloads:
            if self.phase != "closed":
                self._receive_message(payload, now, utc)
        if (polls := self._deframer.take_polls()) and self.phase != "closed":
            self._last_received = now
            self._put(polls)
        if fault is not None:
            self.close(f"framing lost: {fault}")

    def pause(self, now: float) -> None:
        """The host does not read: new requests wait here until their `send_not_after`."""
        self._paused_since, self._paused_frames = now, 0

    def resume(self) -> None:
        self._paused_since = None

    def next_queued(self, now: float, utc: datetime) -> bytes | None:
        """The next waiting frame that may still be written; the shell asks again after each write, since a write may pause."""
        while self._queue and self._paused_since is None:
            exchange = self._queue.popleft()
            if exchange.end is None and now > exchange.send_not_after:
                self._end(exchange, "bounced", Bounced("too_late"))
            elif exchange.end is None:
                exchange.sent_at = utc
                self.counters.sent += 1
                return exchange.payload
        return None

    def tick(self, now: float, utc: datetime) -> None:
        """Everything that is due at `now`; to be called every few milliseconds while connected."""
        while (exchange := self._deadlines.due(now)) is not None:
            self._fall_due(exchange, now)
        if self._paused_since is not None and now - self._paused_since >= self.settings.write_deadline:
            self.close("write deadline: the host does not read")
        for message, held in self._sealing.settled(now):
            self._receive_answer(message, held, now, utc, final=True)
        self._network_overdue(now)
        if self.draining and (self.in_flight == 0 or now >= self._drain_until):
            self._sign_off(now, utc)
        elif (self.phase == "signed_off" and now >= self._sign_on_at) or (self.phase == "up" and self._sealing.keyless()):
            self._send_sign_on(now, utc)
        elif self.phase == "up" and "echo" not in self._network and (self.echo_failures or now - self._last_received >= self.settings.echo_idle):
            self._send_network("echo", now, utc, self.settings.echo_timeout)

    def close(self, reason: str, *, orderly: bool = False) -> None:
        """The line is gone or given up: what was written is unknown at once, what was queued never left. Harmless when closed."""
        if self.phase == "closed":
            return
        self.phase = "closed"
        if not orderly:
            self.counters.line_losses += 1
            self.last_error = reason
        for exchange in self.exchanges.sent_by(self):
            if exchange.sent_at is None:
                self._end(exchange, "bounced", Bounced("line_down"))
            else:
                self._end(exchange, "line_lost", Silence("line_lost", exchange.sent_at))
        for table in (self._queue, self._deadlines, self._network):
            table.clear()
        self._events.append(LineClosed(reason))

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def take_output(self) -> bytes:
        output, self._output = b"".join(self._output), []
        return output

    def _fall_due(self, exchange: Exchange, now: float) -> None:
        if exchange.sent_at is None:
            self._end(exchange, "bounced", Bounced("too_late"))
        elif now < exchange.deadline:  # it was queued, watched for its send_not_after, and has left since
            self._deadlines.watch(exchange, exchange.deadline)
        else:
            exchange.sender.counters.timeouts += 1
            self._end(exchange, "timeout", Silence("timeout", exchange.sent_at))

    def _end(self, exchange: Exchange, end: str, result: Reply | Bounced | Silence, raw_length: int = 0) -> None:
        self._events.append(Settled(exchange.token, result, exchange.key, raw_length))
        self.exchanges.end(exchange, end)

    # what the host says

    def _receive_message(self, payload: bytes, now: float, utc: datetime) -> None:
        try:
            message = decode(self.dialect, payload)
        except Rejected as reject:
            self._rejected(reject, utc, len(payload))
            return
        except DecodeError as fault:
            self._unmatched("undecodable", None, fault.field, None, len(payload), utc, fault=f"at byte {fault.position}: {fault.reason}")
            return
        self._last_received, mti = now, message["0"]
        if mti[1] == "8" and mti[2] in ANSWER_FUNCTIONS:
            self._receive_network_answer(message, now, utc, len(payload))
        elif mti[1] == "8":
            self._receive_network_request(message, now, utc, len(payload))
        elif mti[2] in ANSWER_FUNCTIONS:
            self._receive_answer(message, payload, now, utc)
        else:
            self._unmatched("unknown_mti", message, "0", None, len(payload), utc)

    def _rejected(self, reject: Rejected, utc: datetime, raw_length: int) -> None:
        """The host did not process a message of ours: evidence, and an answer where the dialect says which."""
        self._unmatched("undecodable", None, "h", None, raw_length, utc, fault=reject.reason)
        exchange = self._exchanges.get(match_key(self.dialect, reject.message)) if "0" in reject.message else None
        answer = network_rules.reject_answer(self.dialect, exchange.request) if exchange is not None and exchange.end is None else None
        if exchange is not None and exchange.sent_at is not None and answer is not None:
            self._end(exchange, "answered", Reply(answer, exchange.sent_at, utc), raw_length)

    def _receive_answer(self, message: dict[str, str], payload: bytes, now: float, utc: datetime, *, final: bool = False) -> None:
        """`final`: it was held already, since its MAC was not right."""
        self.echo_failures, raw_length = 0, len(payload)
        key = match_key(self.dialect, message)
        exchange = self._exchanges.get(key)
        if (exchange is None or exchange.sealed) and self._sealing.wrong(message, payload):
            if final or not self._sealing.hold(message, payload, now):
                self._bad_mac(exchange, message, key, raw_length, now, utc)
            return
        if exchange is None or exchange.sent_at is None:
            self._unmatched("no_request", message, self.exchanges.nearest_difference(message), key, raw_length, utc)
            return
        if exchange.end is None and now >= exchange.deadline:  # a loop that stalled may read before it ticks: the deadline decides
            self._fall_due(exchange, now)
        fault = answer_fault(self.dialect, exchange.request, message)
        if exchange.end is not None:
            self._unmatched("duplicate" if exchange.end == "answered" else "late", message, fault, key, raw_length, utc, exchange.sent_at)
        elif fault is not None:
            self._unmatched("differs", message, fault, key, raw_length, utc)
        else:
            self.counters.answered += 1
            self.last_answer_at = utc
            self._end(exchange, "answered", Reply(message, exchange.sent_at, utc), raw_length)
            if self._sealing.heard(message["39"].strip(), exchange.sent_at) and self.phase == "up":
                self._send_sign_on(now, utc)

    def _bad_mac(self, exchange: Exchange | None, message: dict[str, str], key: str, raw_length: int, now: float, utc: datetime) -> None:
        """Whoever wrote it, it says nothing: evidence, and what it answered is in doubt at once."""
        self._unmatched("bad_mac", message, self._sealing.place(message), key, raw_length, utc)
        if exchange is not None and exchange.end is None and exchange.sent_at is not None:
            self._end(exchange, "bad_mac", Silence("bad_mac", exchange.sent_at), raw_length)
        if self._sealing.faulty(exchange.sent_at if exchange is not None else None) and self.phase == "up":
            self._send_sign_on(now, utc)

    def _unmatched(self, reason: str, message: dict[str, str] | None, number: str | None, key: str | None, raw_length: int, utc: datetime,
                   sent_at: datetime | None = None, fault: str | None = None) -> None:
        self.counters.count(reason if reason in ("late", "undecodable") else "unmatched")
        self._events.append(Unmatched(self.acquirer_id, message, reason, number, key, raw_length, utc, sent_at, fault))

    def _receive_network_request(self, message: dict[str, str], now: float, utc: datetime, raw_length: int) -> None:
        purpose, fault = network_rules.purpose_of(self.dialect, message), None
        if purpose == "key_change" and self.keyed and self._key_changes < KEY_CHANGES_MAX:
            self._key_changes += 1
            self._events.append(KeyChange(message))
            return
        if purpose == "sign_off" and self.phase == "up":
            self._signed_off("signed off by the host", now)
        elif purpose == "sign_on" and self.phase == "signed_off":
            self._sign_on_at = now
        elif purpose == "cut_over" and (day := network_rules.day_opened(message.get("15", ""), utc.date())) is not None:
            self._events.append(CutOver(day))
        elif purpose in ("cut_over", "key_change", None):
            fault = "15" if purpose == "cut_over" else self.dialect.network_rule.code
        unsaid = self._send(network_rules.answer(self.dialect, message, fault))  # the host goes without: no line is lost for it
        if fault or unsaid:
            self._unmatched("unknown_mti", message, fault, None, raw_length, utc, fault=unsaid and f"its answer cannot be said: {unsaid}")

    def _receive_network_answer(self, message: dict[str, str], now: float, utc: datetime, raw_length: int) -> None:
        found = next((item for item in self._network.items() if item[1].message["11"] == message.get("11")), None)
        if found is None:
            self._unmatched("no_request", message, "11", None, raw_length, utc)
            return
        (purpose, request), code = found, message.get("39", "")
        differing = network_rules.differing(self.dialect, request.message, message)
        if differing is not None:
            self._unmatched("no_request", message, differing, None, raw_length, utc)
        elif purpose == "echo" and code != self.dialect.network_rule.approved:
            self._network["echo"] = request._replace(sent=now)  # no proof of life: fails when its time is up, unless something else comes
        else:
            del self._network[purpose]
            self._network_answered(purpose, message, now, utc)

    def _network_answered(self, purpose: str, message: dict[str, str], now: float, utc: datetime) -> None:
        code = message.get("39", "")
        if purpose == "echo":
            self.echo_failures = 0
            self._echo_ended(True)
        elif purpose == "sign_off":
            self.close("drained", orderly=True)
        elif code == self.dialect.network_rule.approved and (fault := self._sealing.signed_on(message, utc)) is None:
            self._up(now)
        elif code == self.dialect.network_rule.approved:
            self._signed_off(f"sign-on without keys: {fault}", now)
        else:
            self._signed_off(f"sign-on refused: {code or 'without DE39'}", now)

    def _echo_ended(self, answered: bool) -> None:
        if self._probing:
            self._probing = False
            self._events.append(EchoEnded(answered))

    def _up(self, now: float) -> None:
        self.phase = "up"
        self.backoff.up(now)

    def _signed_off(self, reason: str, now: float) -> None:
        self.phase, self.last_error = "signed_off", reason
        self._sign_on_at = now + self.backoff.delay(now)

    def _network_overdue(self, now: float) -> None:
        for purpose, request in [item for item in self._network.items() if now >= item[1].deadline]:
            self._network.pop(purpose, None)
            if purpose != "echo":
                self.close(f"{purpose} unanswered", orderly=purpose == "sign_off")
            else:
                self.echo_failures = 0 if self._last_received > request.sent else self.echo_failures + 1
                self._echo_ended(False)
        if self.echo_failures >= self.settings.echo_failures:
            self.close("echo unanswered")

    def _send_sign_on(self, now: float, utc: datetime) -> None:
        if "sign_on" not in self.dialect.network:
            self._up(now)
            return
        self.phase = "signing_on"
        self._send_network("sign_on", now, utc, self.settings.sign_on_timeout)

    def _sign_off(self, now: float, utc: datetime) -> None:
        if self.phase == "up" and "sign_off" in self.dialect.network:
            self.phase = "signing_off"
            self._send_network("sign_off", now, utc, self.settings.sign_on_timeout)
        elif self.phase != "signing_off":
            self.close("drained", orderly=True)

    def _send_network(self, purpose: str, now: float, utc: datetime, timeout: float) -> None:
        if purpose not in self.dialect.network:  # an echo that this host does not know
            return
        stan = self._next_stan()
        if stan is None:  # no number is left: sign on later, echo at the next tick, leave without a sign-off
            if purpose == "sign_on":
                self._signed_off("no STAN for the sign-on", now)
            elif purpose == "sign_off":
                self.close("drained", orderly=True)
            return
        message = network_rules.asking(self.dialect, purpose, stan, utc)
        self._network[purpose] = NetworkRequest(message, now, now + timeout)
        if (fault := self._send(message)) is not None:
            self.close(f"{purpose} cannot be said: {fault}")

    def _send(self, message: dict[str, str]) -> str | None:
        """Why it cannot be said in this dialect, or None."""
        try:
            self._put(frame(self.dialect.framing, self._sealing.write(message)))
        except (EncodeError, FramingError) as error:
            return str(error)
        return None

    def _put(self, said: bytes) -> None:
        self._paused_frames += 1
        if self._paused_since is not None and self._paused_frames > PAUSED_NETWORK_FRAMES_MAX:
            self.close("the host sends network messages and does not read")
        else:
            self._output.append(said)
