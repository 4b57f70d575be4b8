//! The thread over real sockets.

use std::net::UdpSocket;

use pilot_proto::wire::beacon::Message;

use super::*;

fn config(listen: &str) -> Config {
    Config {
        listen: listen.parse().unwrap(),
        id: 1,
        seed: [1; 32],
        trusts_loopback: true,
        probe_ports: vec![0; 2],
        public_ips: vec![],
    }
}

struct Peer {
    socket: UdpSocket,
    beacon: SocketAddr,
}

impl Peer {
    /// A socket that has announced itself as `node`.
    fn new(node: u32, beacon: SocketAddr, code: u8) -> Self {
        let mut local = beacon;
        local.set_port(0);
        let peer = Self { socket: UdpSocket::bind(local).unwrap(), beacon };
        peer.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer.send(&[&[code][..], &node.to_be_bytes()].concat());
        let reply = peer.recv();
        let ours = peer.socket.local_addr().unwrap();
        assert_eq!(Message::parse(&reply), Ok(Message::DiscoverReply(ours)));
        peer
    }

    fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.beacon).unwrap();
    }

    fn recv(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.beacon);
        buffer[..len].to_vec()
    }
}

#[test]
fn nodes_of_both_families_exchange_frames() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut beacon = Beacon::start(config(listen)).unwrap();
        let address = beacon.local_addr();
        let (a, b) = (Peer::new(1, address, 0x01), Peer::new(2, address, 0x08));
        a.send(b"\x05garbage");
        for n in 0..100_u32 {
            let frame = [b"PILS".as_slice(), &n.to_be_bytes()].concat();
            a.send(&[b"\x05\0\0\0\x01\0\0\0\x02".as_slice(), &frame].concat());
            assert_eq!(b.recv(), [b"\x09\0\0\0\x01\0\0\0\x02".as_slice(), &frame].concat());
            b.send(&[b"\x05\0\0\0\x02\0\0\0\x01".as_slice(), &frame].concat());
            assert_eq!(a.recv(), [b"\x06\0\0\0\x02".as_slice(), &frame].concat());
        }
        let report = beacon.report().unwrap();
        assert_eq!((report.counters.relayed, report.counters.dropped_malformed), (200, 1));
        assert_eq!((report.holdings.nodes, report.socket_errors), (2, 0));
        beacon.stop();
        assert!(beacon.report().is_err());
    }
}

#[test]
fn ipv4_is_told_as_such_on_a_dual_stack_socket() {
    let beacon = Beacon::start(config("[::]:0")).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], beacon.local_addr().port()));
    let (a, b) = (Peer::new(1, address, 0x01), Peer::new(2, address, 0x01));
    a.send(b"\x03\0\0\0\x01\0\0\0\x02");
    let command = |peer: &Peer| {
        let mut bytes = Vec::new();
        Message::PunchCommand(peer.socket.local_addr().unwrap()).emit(&mut bytes);
        bytes
    };
    assert_eq!((a.recv(), b.recv()), (command(&b), command(&a)));
}

#[test]
fn notices_reach_nodes_that_announced_themselves() {
    let beacon = Beacon::start(config("127.0.0.1:0")).unwrap();
    let peer = Peer::new(7, beacon.local_addr(), 0x01);
    let nobody = Peer::new(0, beacon.local_addr(), 0x01);
    beacon.notify([0, 8, 7].map(NodeId).to_vec()).unwrap();
    assert_eq!(peer.recv(), [0x0a, 1]);
    assert_eq!(beacon.report().unwrap().counters.notified, 1);
    drop(nobody);
}

#[test]
fn beacons_tell_each_other_and_forward() {
    let beacons: Vec<_> =
        (1..=2).map(|id| Beacon::start(Config { id, ..config("127.0.0.1:0") }).unwrap()).collect();
    let addresses: Vec<_> = beacons.iter().map(Beacon::local_addr).collect();
    let (a, b) = (Peer::new(1, addresses[0], 0x01), Peer::new(2, addresses[1], 0x01));
    for beacon in &beacons {
        let others = addresses.iter().filter(|address| **address != beacon.local_addr());
        beacon.set_beacons(others.copied().collect()).unwrap();
    }
    while beacons[0].report().unwrap().holdings.routes == 0 {
        std::thread::yield_now();
    }
    a.send(b"\x05\0\0\0\x01\0\0\0\x02PILS");
    assert_eq!(b.recv(), b"\x06\0\0\0\x01PILS");
}
