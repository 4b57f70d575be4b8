//! Datagrams between hosts: the paths they take and what happens to them there.

use super::{World, hosts::host_of};
use crate::{
    channel::{Channel, LinkId, Path},
    flow::HostId,
};

/// Bytes of a datagram quoted by an ICMP message, which has at most 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTED: usize = 576 - 20 - 8 - 20 - 8;
/// Largest number of datagrams per batch.
const BATCH: usize = 16;

/// Something in flight to a host.
#[derive(Debug)]
pub(super) enum Parcel {
    Datagram {
        from: HostId,
        bytes: Vec<u8>,
    },
    /// A PTB message about the host's datagram to `destination`.
    TooBig {
        destination: HostId,
        mtu: usize,
        quote: Vec<u8>,
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
        self.channels.insert((from, to), Channel::new(path));
    }

    /// Cuts or restores both directions between two hosts.
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

    pub(super) fn transmit(&mut self, from: HostId) -> bool {
        let Some(transmit) = self.hosts[from].node.poll_transmit(self.now, &mut self.buffer, BATCH) else {
            return false;
        };
        let to = host_of(transmit.destination);
        let size = transmit.segment_size.unwrap_or(transmit.len).max(1);
        let default = self.default_path;
        for frame in self.buffer[..transmit.len].chunks(size) {
            self.datagrams += 1;
            if self.cut.contains(&(from, to)) {
                continue;
            }
            let channel = self.channels.entry((from, to)).or_insert_with(|| Channel::new(default));
            let fate = channel.send(self.now, frame.len(), &mut self.links, &mut self.rng);
            for at in [fate.first, fate.second].into_iter().flatten() {
                self.serial += 1;
                let parcel = Parcel::Datagram { from, bytes: frame.to_vec() };
                self.wire.insert((at, self.serial), (to, parcel));
            }
            if let Some(at) = fate.refused {
                self.serial += 1;
                let quote = frame[..frame.len().min(QUOTED)].to_vec();
                let parcel = Parcel::TooBig { destination: to, mtu: channel.path.mtu, quote };
                self.wire.insert((at, self.serial), (from, parcel));
            }
        }
        true
    }
}
