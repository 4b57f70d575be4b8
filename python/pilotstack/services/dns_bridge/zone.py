"""What the DNS bridge answers: messages in, messages out (RFC 1035, 2308, 2782, 6891, 8482).

The zone is ``pilot.``. A name in it stands for the agent of that name; its address is the local IP
that the gateway maps to the agent, and its services are the ports that the gateway has for it. A
second zone has the names of these IPs.
No socket here. Messages of strangers never raise.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pilotstack import wellknown
from pilotstack.errors import NotFound, PilotError
from pilotstack.services.dns_bridge.reverse import IP, Reverse, Subnet
from pilotstack.services.nameserver.records import is_name

if TYPE_CHECKING:
    from collections import abc
    from collections.abc import Awaitable, Callable

    from pilotstack.types import Address

__all__ = ["Bridge", "Mapping"]

#: Seconds that resolvers keep an address, and that there is none. Both may change at any time.
TTL: Final = 30
NEGATIVE_TTL: Final = 5
#: Bytes of a datagram: without EDNS (RFC 1035, 4.2.1), and that fit every path (RFC 9715).
PLAIN_PAYLOAD: Final = 512
PAYLOAD: Final = 1232
#: Bytes of a message over TCP.
MAX_MESSAGE: Final = 65_535
#: Seconds to find an agent and map it; resolvers ask again after 5.
PATIENCE: Final = 4.0
_HEADER_LEN: Final = 12
#: Bits of the third byte of a header: a response; the kind of a query, which is 0; recursion.
_IS_RESPONSE: Final = 0x80
_OPCODE: Final = 0x78
_RECURSION: Final = 0x01

#: Services by their names in SRV queries, besides port numbers. Those of the overlay, and IANA's.
SERVICES: Final = {
    "echo": wellknown.ECHO_PORT,
    "http": wellknown.HTTP_PORT,
    "https": wellknown.SECURE_PORT,
    "secure": wellknown.SECURE_PORT,
    "stdio": wellknown.STDIO_PORT,
    "data-exchange": wellknown.DATA_EXCHANGE_PORT,
    "event-stream": wellknown.EVENT_STREAM_PORT,
    "http-alt": 8080,
}
_PROTOCOL: Final = "_tcp"
#: The smallest answer to a question for everything.
_MINIMAL: Final = '"RFC8482" ""'


class Mapping(Protocol):
    """Local IPs of agents, as a gateway has them."""

    @property
    def subnet(self) -> Subnet:
        """That local IPs are of."""

    async def local_ip(self, address: Address, name: str) -> IP | None:
        """The local IP of an agent with this name; ``None`` if it has none and gets none."""

    def agent_at(self, ip: IP) -> tuple[Address, str] | None:
        """The agent that a local IP stands for, and by which name it was mapped, if by one."""

    def local_ports(self, address: Address) -> abc.Mapping[int, int]:
        """The ports of its local IP, by the agent's port that they lead to."""


class _Agent:
    """An agent that was asked for."""

    def __init__(self, address: Address, ip: IP | None, ports: abc.Mapping[int, int]) -> None:
        self.address = address
        self.ip = ip
        self.ports = ports


class Bridge:
    """Answers messages.

    Args:
        resolve: the address behind a name of an agent; raises :exc:`NotFound` if there is none.
        mapping: local IPs of agents.
        domain: the name of the zone.
        dropped: counts messages that were not answered, by reason.
    """

    def __init__(
        self,
        resolve: Callable[[str], Awaitable[Address]],
        mapping: Mapping,
        *,
        domain: str = "pilot",
        dropped: Counter[str] | None = None,
    ) -> None:
        self._resolve = resolve
        self._mapping = mapping
        self._zone = dns.name.from_text(domain)
        #: Messages that were not answered, by reason.
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self._reverse = Reverse(mapping.subnet)
        self._soa, self._reverse_soa = map(self._soa_of, (self._zone, self._reverse.zone))

    async def respond(self, data: bytes, *, is_datagram: bool) -> bytes | None:
        """The answer to a message; ``None`` if there is none."""
        if len(data) < _HEADER_LEN or data[2] & _IS_RESPONSE:
            # Answering responses would go on for ever between two servers.
            self.dropped["dns_not_a_query"] += 1
            return None
        if data[2] & _OPCODE:
            return _bare(data, dns.rcode.NOTIMP)
        try:
            query = dns.message.from_wire(data, ignore_trailing=False)
        except (dns.exception.DNSException, ValueError, KeyError, IndexError, OverflowError):
            self.dropped["dns_malformed"] += 1
            return _bare(data, dns.rcode.FORMERR)
        response = dns.message.make_response(query, our_payload=PAYLOAD)
        response.flags |= dns.flags.AA
        await self._fill(query, response)
        limit = MAX_MESSAGE
        if is_datagram:
            asked = max(query.payload, PLAIN_PAYLOAD) if query.edns >= 0 else PLAIN_PAYLOAD
            limit = min(asked, PAYLOAD)
        return _wire(response, limit)

    async def _fill(self, query: dns.message.Message, response: dns.message.Message) -> None:
        problem = self._problem(query)
        if problem is not None:
            response.flags &= ~dns.flags.AA
            response.set_rcode(problem)
            return
        question = query.question[0]
        try:
            with anyio.fail_after(PATIENCE):
                is_there, found = await self._answer(question.name, question.rdtype)
        except (PilotError, TimeoutError, OSError):
            self.dropped["dns_unanswered"] += 1
            response.set_rcode(dns.rcode.SERVFAIL)
            return
        if found is not None:
            response.answer.append(found)
            return
        if not is_there:
            response.set_rcode(dns.rcode.NXDOMAIN)
        # Whoever asked may remember that for as long as the SOA says (RFC 2308, 3).
        is_reverse = question.name.is_subdomain(self._reverse.zone)
        response.authority.append(self._reverse_soa if is_reverse else self._soa)

    def _problem(self, query: dns.message.Message) -> dns.rcode.Rcode | None:
        """Why a query is not answered."""
        if query.edns > 0:
            return dns.rcode.BADVERS
        if len(query.question) != 1 or query.answer or query.authority:
            return dns.rcode.FORMERR
        question = query.question[0]
        is_ours = question.name.is_subdomain(self._zone) or self._reverse.has(question.name)
        transfers = {dns.rdatatype.AXFR, dns.rdatatype.IXFR}
        if question.rdclass != dns.rdataclass.IN or not is_ours or question.rdtype in transfers:
            return dns.rcode.REFUSED
        return None

    async def _answer(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> tuple[bool, dns.rrset.RRset | None]:
        """Whether a name is there, and its records of a type, if it has some."""
        if name.is_subdomain(self._reverse.zone):
            return await self._answer_reverse(name, kind)
        labels = [label.decode("ascii", "replace").lower() for label in name.labels]
        labels = labels[: -len(self._zone.labels)]
        if not labels:
            return True, self._apex(name, kind)
        service, agent_labels = _split(labels)
        agent = await self._agent(".".join(agent_labels))
        if agent is None:
            return False, None
        if service is None:
            return True, self._of_agent(name, kind, agent)
        if service == _PROTOCOL:
            # Between an agent and its services: a name without records (RFC 8020).
            return True, None
        ports = _ports_of(service, agent)
        if not ports:
            return False, None
        return True, self._services(name, kind, ports, dns.name.Name(name.labels[2:]))

    async def _answer_reverse(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> tuple[bool, dns.rrset.RRset | None]:
        if name == self._reverse.zone:
            return True, self._apex(name, kind)
        ip = self._reverse.ip_of(name)
        mapped = None if ip is None else self._mapping.agent_at(ip)
        if mapped is None:
            return self._reverse.is_inner(name), None
        address, called = mapped
        if kind == dns.rdatatype.ANY:
            return True, self._rrset(name, dns.rdatatype.HINFO, _MINIMAL)
        if kind != dns.rdatatype.PTR or not await self._is_named(address, called):
            return True, None
        return True, self._rrset(name, kind, str(_name_of(called, self._zone)))

    async def _is_named(self, address: Address, name: str) -> bool:
        """Whether an agent still has the name by which it was mapped."""
        if not is_name(name):
            return False
        try:
            return await self._resolve(name) == address
        except NotFound:
            return False

    def _apex(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        match kind:
            case dns.rdatatype.SOA:
                return self._soa if name == self._zone else self._reverse_soa
            case dns.rdatatype.NS:
                # As in zones that only a host itself has (RFC 6303, 3).
                return self._rrset(name, kind, str(self._zone))
            case _:
                return None

    async def _agent(self, name: str) -> _Agent | None:
        if not is_name(name):
            return None
        try:
            address = await self._resolve(name)
        except NotFound:
            return None
        ip = await self._mapping.local_ip(address, name)
        return _Agent(address, ip, self._mapping.local_ports(address))

    def _of_agent(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, agent: _Agent
    ) -> dns.rrset.RRset | None:
        match kind:
            case dns.rdatatype.A | dns.rdatatype.AAAA:
                version = 4 if kind == dns.rdatatype.A else 6
                if agent.ip is None or agent.ip.version != version:
                    return None
                return self._rrset(name, kind, str(agent.ip))
            case dns.rdatatype.TXT:
                texts = f"address={agent.address}", f"node={agent.address.node}"
                return self._rrset(name, kind, " ".join(f'"{text}"' for text in texts))
            case dns.rdatatype.SRV:
                return self._services(name, kind, sorted(agent.ports.values()), name)
            case dns.rdatatype.ANY:
                # The smallest answer that ends the question (RFC 8482, 4.2).
                return self._rrset(name, dns.rdatatype.HINFO, _MINIMAL)
            case _:
                return None

    def _services(
        self,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        ports: list[int],
        target: dns.name.Name,
    ) -> dns.rrset.RRset | None:
        if kind != dns.rdatatype.SRV or not ports:
            return None
        return self._rrset(name, kind, *(f"0 0 {port} {target}" for port in ports))

    def _soa_of(self, zone: dns.name.Name) -> dns.rrset.RRset:
        text = f"{self._zone} nobody.invalid. 1 3600 600 86400 {NEGATIVE_TTL}"
        return self._rrset(zone, dns.rdatatype.SOA, text, ttl=NEGATIVE_TTL)

    @staticmethod
    def _rrset(
        name: dns.name.Name, kind: dns.rdatatype.RdataType, *texts: str, ttl: int = TTL
    ) -> dns.rrset.RRset:
        return dns.rrset.from_text(name, ttl, dns.rdataclass.IN, kind, *texts)


def _name_of(agent: str, zone: dns.name.Name) -> dns.name.Name:
    return dns.name.from_text(agent, zone)


def _split(labels: list[str]) -> tuple[str | None, list[str]]:
    """The service of a name, if it has one, and the agent: ``_http._tcp.agent-b``."""
    if len(labels) > 2 and labels[0].startswith("_") and labels[1] == _PROTOCOL:
        return labels[0], labels[2:]
    if len(labels) > 1 and labels[0] == _PROTOCOL:
        return _PROTOCOL, labels[1:]
    return None, labels


def _ports_of(service: str, agent: _Agent) -> list[int]:
    name = service.removeprefix("_")
    is_number = name.isascii() and name.isdecimal() and len(name) <= 5
    port = int(name) if is_number else SERVICES.get(name, 0)
    return [agent.ports[port]] if port in agent.ports else []


def _wire(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        # Who asked comes again over TCP.
        response.flags |= dns.flags.TC
        response.answer.clear()
        response.authority.clear()
        return response.to_wire(max_size=max(limit, PLAIN_PAYLOAD))


def _bare(data: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A response without a question, to a message that cannot be read."""
    kept = data[2] & (_OPCODE | _RECURSION)
    return data[:2] + bytes((_IS_RESPONSE | kept, int(rcode))) + bytes(8)
