"""An internet of one's own on this machine: public hosts, home networks behind NATs, firewalls,
slow and narrow links, all of network namespaces. For ``pilotctl demo --nat`` and the NAT lab.
Linux, root, iproute2 and nftables only.

::

    with Internet() as internet:
        server = internet.public("server")
        home = internet.home("home", KINDS["port-restricted"])
        laptop = home.host("laptop")
        laptop.run("ping", "-c", "1", server.ipv4)
"""

from pilotstack.testing.internet.agents import Agent, Agents
from pilotstack.testing.internet.hosts import Host, Namespaces, missing_requirement
from pilotstack.testing.internet.nat import KINDS, Allocation, Behaviour, Nat, shield
from pilotstack.testing.internet.topology import Home, Internet, Link

__all__ = [
    "KINDS",
    "Agent",
    "Agents",
    "Allocation",
    "Behaviour",
    "Home",
    "Host",
    "Internet",
    "Link",
    "Namespaces",
    "Nat",
    "missing_requirement",
    "shield",
]
