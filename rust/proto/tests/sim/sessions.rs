//! Sessions of restarted peers when frames of the old process arrive late.

use std::{net::SocketAddr, time::Duration};

use pilot_proto::{
    crypto::{entropy::Entropy, exchange::ExchangeKey, identity::Identity},
    storage::token_bucket::TokenBucket,
    time::Instant,
    tunnel::{
        Candidates, Capabilities, KeyVerdict, Local, OpenError, Outbox, PathChange, Peer, Route, Session,
        prediction::Observations,
    },
    wire::{
        addr::{Address, NodeId},
        packet::{Flags, Header, Protocol},
        tunnel::{Frame, SignedKey},
    },
};

use crate::hand::packet;

pub(crate) const PEER: NodeId = NodeId(1);
const SELF: NodeId = NodeId(2);
pub(crate) const BOOT_ID: u64 = 9;

/// A process of the peer: its signed key and its side of the session.
pub(crate) struct Process {
    pub(crate) proof: SignedKey,
    pub(crate) session: Session,
}

/// Our view of the peer.
pub(crate) struct View {
    pub(crate) now: Instant,
    pub(crate) peer: Peer,
    pub(crate) own: [u8; 32],
    identity: Identity,
    entropy: Entropy,
    pub(crate) out: Outbox,
    checks: TokenBucket,
}

pub(crate) fn exchange_key(n: u8) -> ExchangeKey {
    ExchangeKey::from_secret(&[n; 32]).unwrap()
}

pub(crate) fn endpoint() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 4000))
}

impl View {
    pub(crate) fn new() -> Self {
        let now = Instant::from_millis(1000);
        let own = exchange_key(100);
        let mut view = Self {
            now,
            own: own.public_key(),
            peer: Peer::new(now, PEER, own),
            identity: Identity::from_seed(&[2; 32]).unwrap(),
            entropy: Entropy::new(&[3; 32]),
            out: Outbox::new(),
            checks: TokenBucket::new(100, 100, now),
        };
        let named = Identity::from_seed(&[1; 32]).unwrap().public_key();
        view.with_peer(|peer, local, out| peer.on_record(now, named, Some(endpoint()), local, out));
        view
    }

    pub(crate) fn with_peer<R>(&mut self, f: impl FnOnce(&mut Peer, &mut Local<'_>, &mut Outbox) -> R) -> R {
        let mut local = Local {
            address: Address::backbone(SELF),
            identity: &self.identity,
            entropy: &mut self.entropy,
            capabilities: Capabilities { boot_id: BOOT_ID, max_segment: 4096 },
            candidates: &Candidates::default(),
            checks: &mut self.checks,
            nat: &mut Observations::default(),
        };
        f(&mut self.peer, &mut local, &mut self.out)
    }

    pub(crate) fn process(&self, n: u8) -> Process {
        let key = exchange_key(n);
        let proof = Identity::from_seed(&[1; 32]).unwrap().sign_exchange_key(PEER, key.public_key()).unwrap();
        Process { proof, session: Session::new(&key, self.own, u32::from(n)).unwrap() }
    }

    pub(crate) fn hear_key(&mut self, process: &Process) -> KeyVerdict {
        let now = self.now;
        self.with_peer(|peer, local, out| {
            peer.on_signed_key(now, &process.proof, endpoint().into(), local, out)
        })
    }

    /// Whether a frame opened, and whether it changed the session.
    pub(crate) fn hear_frame(&mut self, process: &mut Process) -> Result<bool, OpenError> {
        self.hear_frame_from(process, endpoint())
    }

    /// The peer answers what was sent to one of its addresses, from there. Returns how many pings that
    /// were.
    pub(crate) fn answer_pings(&mut self, process: &mut Process, at: SocketAddr) -> Vec<PathChange> {
        let mut proofs = Vec::new();
        for (to, frame) in std::mem::take(&mut self.out) {
            let Ok(Frame::Sealed(sealed)) = Frame::parse(&frame) else { continue };
            let mut packet = Vec::new();
            if to != Route::Direct(at) || process.session.open_to(sealed, &frame, &mut packet).is_err() {
                continue;
            }
            let ping = Header::parse(&packet).unwrap().0;
            self.hear_frame_from(process, at).unwrap();
            proofs.push(self.peer.on_pong(self.now, ping.src_port, ping.seq));
        }
        proofs
    }

    /// The same from another address.
    pub(crate) fn hear_frame_from(
        &mut self,
        process: &mut Process,
        from: SocketAddr,
    ) -> Result<bool, OpenError> {
        let mut frame = process.session.seal_both(PEER, b"data").swap_remove(0);
        let Ok(Frame::Sealed(header)) = Frame::parse(&frame) else { panic!("not sealed") };
        let (now, len) = (self.now, frame.len());
        let opened = self.peer.open(now, header, &mut frame, &mut Vec::new())?;
        let header = packet(Protocol::Datagram, Flags::NONE, (5, 9), 0);
        Ok(self
            .with_peer(|peer, local, out| peer.on_opened(now, opened, from.into(), len, &header, local, out)))
    }
}

/// A key that was replaced is a replay, and one that is in use again is none, even after the sessions
/// were forgotten.
#[test]
fn a_key_in_use_is_not_taken_for_a_replay() {
    let mut view = View::new();
    let (mut first, mut alive, mut dead) = (view.process(10), view.process(11), view.process(12));
    for process in [&mut first, &mut alive, &mut dead] {
        assert_eq!(view.hear_key(process), KeyVerdict::Accepted);
        view.hear_frame(process).unwrap();
    }
    let told = Capabilities { boot_id: 12, max_segment: 4096 };
    view.peer.on_capabilities(view.now, told, BOOT_ID);
    assert_eq!(view.hear_key(&alive), KeyVerdict::Refused);
    // Under the previous session, while the current one is silent.
    view.now += Duration::from_millis(999);
    assert_eq!(view.hear_frame(&mut alive), Ok(false));
    view.now += Duration::from_millis(1);
    assert_eq!(view.hear_frame(&mut alive), Ok(true));
    // The capabilities belonged to the other process.
    assert_eq!(view.peer.capabilities(), None);
    view.out.clear();
    let now = view.now;
    view.with_peer(|peer, local, out| peer.handle_timeout(now, local, out));
    assert!(!view.out.is_empty(), "a ping asks");
    view.peer.forget_sessions(view.now, exchange_key(101));
    assert_eq!(view.hear_key(&first), KeyVerdict::Refused);
    assert_eq!(view.hear_key(&dead), KeyVerdict::Refused);
    assert_eq!(view.hear_key(&alive), KeyVerdict::Accepted);
}
