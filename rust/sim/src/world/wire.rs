//! Datagrams on the wire: the paths they take and what happens to them there.

use core::net::SocketAddr;

use super::{
    World,
    realms::{PUBLIC, Party, Routed},
};
use crate::{
    channel::{Channel, LinkId, Path},
    flow::HostId,
};
use pilot_proto::{
    node::TooBig,
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// Bytes of a datagram quoted by an ICMP message, which has at most 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTED: usize = 576 - 20 - 8 - 20 - 8;
/// Largest number of datagrams per batch.
pub(super) const BATCH: usize = 16;
/// Delay between hosts of one private network.
const LAN_DELAY: Duration = Duration::from_micros(300);

/// Something in flight.
#[derive(Debug)]
pub(super) enum Parcel {
    Datagram {
        routed: Routed,
        bytes: Vec<u8>,
    },
    /// A PTB message about the host's datagram to `destination`.
    TooBig {
        host: HostId,
        destination: SocketAddr,
        mtu: usize,
        quote: Vec<u8>,
    },
    /// The registry's answer.
    Record {
        host: HostId,
        id: NodeId,
    },
}

impl World {
    /// Adds a bottleneck of `rate` bytes per second with a queue of `queue` bytes.
    pub fn add_link(&mut self, rate: u64, queue: usize) -> LinkId {
        self.links.add(rate, queue)
    }

    /// Datagrams dropped at a bottleneck's tail.
    pub fn dropped_at(&self, link: LinkId) -> u64 {
        self.links.0.get(link.0).map_or(0, |link| link.dropped)
    }

    /// Sets one direction between two hosts.
    pub fn set_path(&mut self, from: HostId, to: HostId, path: Path) {
        self.channels.insert((Party::Host(from), Party::Host(to)), Channel::new(path));
    }

    /// Cuts or restores both directions between two hosts. What a beacon relays still passes.
    pub fn set_partition(&mut self, a: HostId, b: HostId, is_cut: bool) {
        for pair in [(a, b), (b, a)] {
            if is_cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// Datagrams sent so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    pub(super) fn schedule(&mut self, at: Instant, parcel: Parcel) {
        self.serial += 1;
        self.wire.insert((at, self.serial), parcel);
    }

    /// Sends the next batch of a host.
    pub(super) fn transmit(&mut self, from: HostId) -> bool {
        let host = &mut self.hosts[from];
        let Some(transmit) = host.node.poll_transmit(self.now, &mut self.buffer, BATCH) else {
            return false;
        };
        let size = transmit.segment_size.unwrap_or(transmit.len).max(1);
        let Some(routed) = host.send(transmit.destination) else { return true };
        let buffer = core::mem::take(&mut self.buffer);
        for datagram in buffer[..transmit.len].chunks(size) {
            self.datagrams += 1;
            self.carry(Party::Host(from), routed, datagram);
        }
        self.buffer = buffer;
        true
    }

    /// Takes one datagram through the boxes on its way out and over its path. The boxes on its way in come when
    /// it arrives.
    pub(super) fn carry(&mut self, from: Party, datagram: Routed, bytes: &[u8]) {
        let Some(routed) = self.realms.send(self.now, datagram, &mut self.rng) else { return };
        let target = self.realms.party_at(self.now, routed.realm, routed.destination);
        let Some((realm, to)) = target else { return };
        if let (Party::Host(from), Party::Host(to)) = (from, to)
            && self.cut.contains(&(from, to))
        {
            return;
        }
        if realm == datagram.realm && realm != PUBLIC {
            self.schedule(self.now + LAN_DELAY, Parcel::Datagram { routed, bytes: bytes.to_vec() });
            return;
        }
        let default = self.default_path;
        let channel = self.channels.entry((from, to)).or_insert_with(|| Channel::new(default));
        let fate = channel.send(self.now, bytes.len(), &mut self.links, &mut self.rng);
        let mtu = channel.path.mtu;
        for at in [fate.first, fate.second].into_iter().flatten() {
            self.schedule(at, Parcel::Datagram { routed, bytes: bytes.to_vec() });
        }
        if let (Some(at), Party::Host(host)) = (fate.refused, from) {
            let quote = bytes[..bytes.len().min(QUOTED)].to_vec();
            self.schedule(at, Parcel::TooBig { host, destination: datagram.destination, mtu, quote });
        }
    }

    /// Hands out what arrives, and sends what follows from it.
    pub(super) fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Datagram { routed, mut bytes } => match self.realms.receive(self.now, routed) {
                Some((Party::Host(host), at)) if self.hosts[host].receives_at(at) => {
                    self.hosts[host].node.handle_datagram(self.now, routed.source, &mut bytes);
                    self.drain(host);
                }
                Some((Party::Beacon(id), at)) => {
                    self.beacons[id].receive(self.now, routed.source, at, &bytes);
                    self.drain_beacon(id);
                }
                Some((Party::Host(_) | Party::Box(_), _)) | None => {}
            },
            Parcel::TooBig { host, destination, mtu, quote } => {
                let report = TooBig { destination, max_datagram: mtu, quote: Some(&quote) };
                self.hosts[host].node.handle_too_big(self.now, &report);
                self.drain(host);
            }
            Parcel::Record { host, id } => {
                self.answer_record(host, id);
                self.drain(host);
            }
        }
    }
}
