//! Who may reach a private node, and which networks we are in (`docs/explanation/trust.md`).
//!
//! Tunnels prove who a peer is; whether it may come in is the control plane's decision. Each peer is
//! asked about once. What arrives meanwhile is held, so that an admitted peer notices nothing, and a
//! stranger gets no answer at all.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Node, trace::count_drop};
use crate::{
    time::Instant,
    tunnel::Peer,
    wire::{
        addr::{NetworkId, NodeId, Port},
        packet::{Flags, Header, Protocol},
    },
};

/// How long a peer that we called may call back.
const REPLY_WINDOW: Duration = Duration::from_secs(300);
/// The ports it may call then: data exchange and handshakes.
const REPLY_PORTS: [Port; 2] = [Port(1001), Port(444)];
/// Peers that may call back.
const MAX_WINDOWS: usize = 4096;
/// Verdicts remembered.
const MAX_VERDICTS: usize = 16_384;
/// Packets of one peer, and of all, that wait for a verdict, and their bytes.
const MAX_HELD_PER_PEER: usize = 4;
const MAX_HELD: usize = 1024;
const MAX_HELD_BYTES: usize = 4 << 20;
/// A question is forgotten after this, and so is what waited for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A verdict holds for at least this.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// Who wants to reach which of our addresses. Every peer on a network of our own must be its member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller {
    /// The peer.
    pub node: NodeId,
    /// The network of the address that it calls.
    pub network: NetworkId,
}

/// A packet that waits.
#[derive(Debug)]
struct Held {
    header: Header,
    payload: Vec<u8>,
}

/// An open question.
#[derive(Debug)]
struct Question {
    until: Instant,
    held: Vec<Held>,
}

/// What the gate makes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Admitted,
    Refused,
    Unknown,
}

/// The gate's memory, bounded in every direction.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_private: bool,
    /// Networks besides the backbone.
    networks: BTreeSet<NetworkId>,
    verdicts: BTreeMap<Caller, (bool, Instant)>,
    questions: BTreeMap<Caller, Question>,
    held: usize,
    held_bytes: usize,
    windows: BTreeMap<NodeId, Instant>,
    windows_by_age: BTreeSet<(Instant, NodeId)>,
}

impl Gate {
    /// Lets a peer call back for a while.
    pub(super) fn open_window(&mut self, now: Instant, node: NodeId) {
        let until = now + REPLY_WINDOW;
        if let Some(before) = self.windows.insert(node, until) {
            self.windows_by_age.remove(&(before, node));
        } else if self.windows.len() > MAX_WINDOWS
            && let Some((_, oldest)) = self.windows_by_age.pop_first()
        {
            self.windows.remove(&oldest);
        }
        self.windows_by_age.insert((until, node));
    }

    fn verdict(&self, now: Instant, caller: Caller, header: &Header) -> Verdict {
        if let Some((is_admitted, until)) = self.verdicts.get(&caller)
            && now < *until
            && (*is_admitted || !self.may_call_back(now, caller, header))
        {
            return if *is_admitted { Verdict::Admitted } else { Verdict::Refused };
        }
        if self.may_call_back(now, caller, header) { Verdict::Admitted } else { Verdict::Unknown }
    }

    fn may_call_back(&self, now: Instant, caller: Caller, header: &Header) -> bool {
        caller.network == NetworkId::BACKBONE
            && header.protocol == Protocol::Stream
            && header.flags == Flags::SYN
            && REPLY_PORTS.contains(&header.dst_port)
            && self.windows.get(&caller.node).is_some_and(|until| now < *until)
    }

    /// Keeps a packet until the verdict. Whether it is kept, and whether the question is new.
    fn hold(&mut self, now: Instant, caller: Caller, header: &Header, payload: &[u8]) -> (bool, bool) {
        let is_new = !self.questions.contains_key(&caller);
        if is_new && self.questions.len() >= MAX_HELD {
            self.forget_questions(now);
            if self.questions.len() >= MAX_HELD {
                return (false, false);
            }
        }
        let has_room = self.held < MAX_HELD && self.held_bytes + payload.len() <= MAX_HELD_BYTES;
        let question = self
            .questions
            .entry(caller)
            .or_insert_with(|| Question { until: now + PATIENCE, held: Vec::new() });
        if question.held.len() >= MAX_HELD_PER_PEER || !has_room {
            return (false, is_new);
        }
        self.held += 1;
        self.held_bytes += payload.len();
        question.held.push(Held { header: *header, payload: payload.to_vec() });
        (true, is_new)
    }

    fn decide(&mut self, now: Instant, caller: Caller, is_admitted: bool, lifetime: Duration) -> Vec<Held> {
        if self.verdicts.len() >= MAX_VERDICTS && !self.verdicts.contains_key(&caller) {
            self.verdicts.retain(|_, (_, until)| now < *until);
            // Of those that hold, the one that would end next: a refusal before an admission.
            let next = self.verdicts.iter().min_by_key(|(_, (_, until))| *until).map(|(caller, _)| *caller);
            if let Some(next) = next.filter(|_| self.verdicts.len() >= MAX_VERDICTS) {
                self.verdicts.remove(&next);
            }
        }
        // What was held is looked at under this verdict, so it must outlive the call.
        self.verdicts.insert(caller, (is_admitted, now + lifetime.max(MIN_LIFETIME)));
        let held = self.questions.remove(&caller).map_or_else(Vec::new, |question| question.held);
        self.held -= held.len();
        self.held_bytes -= bytes_of(&held);
        held
    }

    /// Forgets every verdict about a peer, and what it may do because we called it.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.verdicts.retain(|caller, _| caller.node != node);
        if let Some(until) = self.windows.remove(&node) {
            self.windows_by_age.remove(&(until, node));
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.verdicts.retain(|_, (_, until)| now < *until);
        self.forget_questions(now);
        self.windows.retain(|_, until| now < *until);
        self.windows_by_age.retain(|(until, _)| now < *until);
    }

    /// Forgets questions that nobody answered, and what waited for that.
    fn forget_questions(&mut self, now: Instant) {
        self.questions.retain(|_, question| now < question.until);
        self.held = self.questions.values().map(|question| question.held.len()).sum();
        self.held_bytes = self.questions.values().map(|question| bytes_of(&question.held)).sum();
    }
}

fn bytes_of(held: &[Held]) -> usize {
    held.iter().map(|held| held.payload.len()).sum()
}

impl Node {
    /// Whether only admitted peers may reach us. Connections that exist stay.
    pub fn set_private(&mut self, is_private: bool) {
        self.gate.is_private = is_private;
    }

    /// The networks that we are in besides the backbone. Packets for our addresses on any other are
    /// dropped, and connections there are reset.
    pub fn set_networks(&mut self, now: Instant, networks: impl IntoIterator<Item = NetworkId>) {
        self.recorder.now = now;
        self.gate.networks = networks.into_iter().collect();
        let networks = &self.gate.networks;
        self.gate
            .verdicts
            .retain(|caller, _| caller.network == NetworkId::BACKBONE || networks.contains(&caller.network));
        let is_outside = |network: NetworkId| network != NetworkId::BACKBONE && !networks.contains(&network);
        let gone: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| is_outside(slot.connection.tuple().local.network))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.reset(now, id);
        }
    }

    /// Answers [`Event::AdmissionNeeded`], or decides before it is asked; the verdict holds for
    /// `lifetime`. What an admitted peer sent meanwhile is taken now.
    pub fn on_admission(&mut self, now: Instant, caller: Caller, is_admitted: bool, lifetime: Duration) {
        self.recorder.now = now;
        for held in self.gate.decide(now, caller, is_admitted, lifetime) {
            if is_admitted {
                self.dispatch_packet(now, caller.node, &held.header, &held.payload);
            } else {
                self.count_refused(&held.header);
            }
        }
    }

    /// Lets a peer answer a call of ours that did not reach it through a tunnel: for five minutes it
    /// may open streams to the ports of handshakes and data exchange.
    pub fn expect_call(&mut self, now: Instant, node: NodeId) {
        self.recorder.now = now;
        self.gate.open_window(now, node);
    }

    /// Resets every connection with a peer and forgets its tunnel and every verdict about it.
    pub fn dismiss(&mut self, now: Instant, node: NodeId) {
        self.recorder.now = now;
        self.gate.forget(node);
        self.pending.remove(&node);
        self.early.take(node);
        let ids = self.by_peer.get(&node).cloned().unwrap_or_default();
        for id in &ids {
            self.reset(now, *id);
        }
        if ids.is_empty() {
            self.forget_peer(node);
        } else {
            // The resets leave through the tunnel; it is forgotten with the last connection.
            self.dismissed.insert(node);
        }
    }

    fn reset(&mut self, now: Instant, id: super::ConnectionId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.connection.abort(now);
            self.queue(id);
            self.after(id);
        }
    }

    /// Whether a packet that opens something may come in. One that must wait for a verdict is held.
    pub(super) fn may_enter(
        &mut self,
        now: Instant,
        sender: NodeId,
        header: &Header,
        payload: &[u8],
    ) -> bool {
        let caller = Caller { node: sender, network: header.dst.network };
        let is_backbone = caller.network == NetworkId::BACKBONE;
        if sender == self.address.node || is_backbone && !self.gate.is_private {
            return true;
        }
        match self.gate.verdict(now, caller, header) {
            Verdict::Admitted => return true,
            Verdict::Refused => self.count_refused(header),
            Verdict::Unknown => self.ask_admission(now, caller, header, payload),
        }
        false
    }

    fn ask_admission(&mut self, now: Instant, caller: Caller, header: &Header, payload: &[u8]) {
        let Some(key) = self.peers.get(&caller.node).and_then(Peer::identity_key) else {
            self.count_refused(header);
            return;
        };
        let (is_held, is_new) = self.gate.hold(now, caller, header, payload);
        if is_new {
            self.events.push_back(Event::AdmissionNeeded(caller, key));
        }
        if !is_held {
            count_drop!(self, dropped_limited);
        }
    }

    fn count_refused(&mut self, header: &Header) {
        match header.protocol {
            Protocol::Stream if header.flags == Flags::SYN => count_drop!(self, dropped_stranger_syns),
            Protocol::Stream | Protocol::Control => count_drop!(self, dropped_strangers),
            Protocol::Datagram => count_drop!(self, dropped_stranger_datagrams),
        }
    }

    /// Whether a packet is for an address that we have.
    pub(super) fn is_on_network(&self, network: NetworkId) -> bool {
        network == NetworkId::BACKBONE || self.gate.networks.contains(&network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{addr::Address, seq::SeqNumber};

    fn caller(node: u32) -> Caller {
        Caller { node: NodeId(node), network: NetworkId::BACKBONE }
    }

    fn hold(gate: &mut Gate, now: Instant, node: u32, len: usize) -> (bool, bool) {
        let address = Address::backbone(NodeId(node));
        let header = Header {
            flags: Flags::NONE,
            protocol: Protocol::Datagram,
            src: address,
            dst: address,
            src_port: Port(1),
            dst_port: Port(2),
            seq: SeqNumber::default(),
            ack: SeqNumber::default(),
            window: 0,
        };
        gate.hold(now, caller(node), &header, &vec![0; len])
    }

    #[test]
    fn what_waits_for_verdicts_is_bounded_and_forgotten() {
        let now = Instant::from_millis(1);
        let mut gate = Gate::default();
        let kept = |gate: &mut Gate, node| (0..9).filter(|_| hold(gate, now, node, 60_000).0).count();
        assert_eq!(kept(&mut gate, 1), MAX_HELD_PER_PEER);
        for node in 2..2000 {
            kept(&mut gate, node);
        }
        assert!(gate.held_bytes <= MAX_HELD_BYTES && gate.held_bytes > MAX_HELD_BYTES - 60_000);
        assert_eq!(gate.questions.len(), MAX_HELD);
        assert_eq!(gate.decide(now, caller(1), true, Duration::ZERO).len(), MAX_HELD_PER_PEER);
        assert_eq!(hold(&mut gate, now, 3000, 60_000), (true, true), "there is room again");
        assert_eq!(hold(&mut gate, now, 3001, 1), (false, false));
        // Nobody answered the others.
        assert_eq!(hold(&mut gate, now + PATIENCE, 3001, 1), (true, true));
        assert_eq!((gate.questions.len(), gate.held, gate.held_bytes), (1, 1, 1));
    }

    /// A refusal ends within seconds anyway, so many refused peers take no admission away.
    #[test]
    fn refusals_make_room_before_admissions() {
        let now = Instant::from_millis(1);
        let mut gate = Gate::default();
        gate.decide(now, caller(1), true, Duration::from_secs(3600));
        for node in 2..2 + MAX_VERDICTS as u32 {
            gate.decide(now, caller(node), false, Duration::from_secs(5));
        }
        assert_eq!(gate.verdicts.len(), MAX_VERDICTS);
        assert!(gate.verdicts.contains_key(&caller(1)));
    }
}
