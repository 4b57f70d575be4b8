//! Two nodes whose datagrams are lost, duplicated, corrupted and delayed by the input: no panic, and received
//! stream data is a prefix of the sent data.
#![no_main]

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use libfuzzer_sys::fuzz_target;
use pilot_proto::{
    config::NodeConfig,
    crypto::identity::Identity,
    node::{ConnectionId, DialOptions, Event, Node},
    time::Instant,
    wire::addr::{Address, NodeId, Port},
};

struct World {
    now: Instant,
    nodes: [Node; 2],
    wire: [VecDeque<Vec<u8>>; 2],
    dialled: Vec<ConnectionId>,
    accepted: Vec<ConnectionId>,
}

fn at(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 4000))
}

fn seed(index: usize) -> [u8; 32] {
    [index as u8 + 1; 32]
}

impl World {
    fn drain(&mut self) {
        let mut buffer = vec![0; 65536];
        for index in 0..2 {
            let mut rounds = 0;
            while let Some(transmit) = self.nodes[index].poll_transmit(self.now, &mut buffer, 16) {
                rounds += 1;
                assert!(rounds < 20_000, "datagrams without end");
                for frame in buffer[..transmit.len].chunks(transmit.segment_size.unwrap_or(transmit.len)) {
                    if self.wire[1 - index].len() < 512 {
                        self.wire[1 - index].push_back(frame.to_vec());
                    }
                }
            }
            while let Some(event) = self.nodes[index].poll_event() {
                match event {
                    Event::RecordNeeded(node) => {
                        let other = 1 - index;
                        let key = Identity::from_seed(&seed(other)).unwrap().public_key();
                        if node == NodeId(other as u32 + 1) {
                            self.nodes[index].on_record(self.now, node, key, Some(at(other)));
                        } else {
                            self.nodes[index].on_no_record(node);
                        }
                    }
                    Event::KeyNeeded(node) => {
                        let key = Identity::from_seed(&seed(1 - index)).unwrap().public_key();
                        let is_other = node == NodeId(2 - index as u32);
                        self.nodes[index].on_key(self.now, node, is_other.then_some(key));
                    }
                    Event::Accepted(id) => self.accepted.push(id),
                    _ => {}
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let node = |index: usize| {
        let mut node =
            Node::new(Instant::ZERO, &seed(index), &[index as u8 + 50; 32], NodeConfig::default()).unwrap();
        node.set_address(Address::backbone(NodeId(index as u32 + 1)));
        node.listen(Port(80)).unwrap();
        node
    };
    let mut world = World {
        now: Instant::from_millis(1),
        nodes: [node(0), node(1)],
        wire: [VecDeque::new(), VecDeque::new()],
        dialled: Vec::new(),
        accepted: Vec::new(),
    };
    for operation in input.chunks_exact(3).take(400) {
        let [kind, a, b] = *operation else { return };
        let side = usize::from(a & 1);
        match kind % 10 {
            0 if world.dialled.len() < 16 => {
                let to = Address::backbone(NodeId(2));
                if let Ok(id) = world.nodes[0].connect(world.now, to, Port(80), DialOptions::default()) {
                    world.dialled.push(id);
                }
            }
            1 => {
                if let Some(id) = world.dialled.get(usize::from(a) % 16).copied() {
                    let data: Vec<u8> = vec![b; usize::from(b) * 40];
                    world.nodes[0].with_connection(id, |connection| connection.send(&data).ok());
                }
            }
            2 => {
                if let Some(id) = world.accepted.get(usize::from(a) % 16).copied() {
                    world.nodes[1].with_connection(id, |connection| connection.recv(&mut [0; 4096]).ok());
                }
            }
            3 => drop(world.wire[side].pop_front()),
            4 => {
                if let Some(frame) = world.wire[side].front().cloned() {
                    world.wire[side].push_back(frame);
                }
            }
            5 => {
                if let Some(frame) = world.wire[side].front_mut() {
                    let position = usize::from(b) % frame.len().max(1);
                    if let Some(byte) = frame.get_mut(position) {
                        *byte ^= a | 1;
                    }
                }
            }
            6 => world.now = world.now + Duration::from_millis(u64::from(b) * 40),
            7 => {
                if let Some(id) = world.dialled.get(usize::from(a) % 16).copied() {
                    world.nodes[0].close(world.now, id);
                }
            }
            _ => {
                for _ in 0..b % 32 {
                    let Some(mut frame) = world.wire[side].pop_front() else { break };
                    world.nodes[side].handle_datagram(world.now, at(1 - side), &mut frame);
                }
            }
        }
        for node in &mut world.nodes {
            node.handle_timeout(world.now);
        }
        world.drain();
    }
});
