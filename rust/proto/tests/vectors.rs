//! The published vectors: what every node on the network agrees on, byte by byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use pilot_proto::{
    crypto::{
        CryptoError, Suite,
        aead::TunnelKey,
        exchange::{ExchangeKey, SharedKeys},
        identity::{Identity, verify_signed_key},
        replay::{PrefixWindows, ReplayWindow},
    },
    storage::assembler::Assembler,
    time::Instant,
    transport::{Connection, Dialect, FourTuple, Options},
    wire::{
        ParseError,
        addr::{Address, NetworkId, NodeId, Port},
        beacon::Message,
        packet::{Flags, HEADER_LEN, Header, Protocol},
        sack::{SackBlock, SackBlocks},
        seq::SeqNumber,
        tunnel::{BareKey, Frame, Nonce, SEALED_HEADER_LEN, SealedHeader, TAG_LEN},
    },
};
use serde_json::Value;

macro_rules! vectors {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../../tests/vectors/", $name, ".json")))
            .unwrap()
    };
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key}"))
}

fn number<T: TryFrom<u64>>(value: &Value) -> T
where
    T::Error: std::fmt::Debug,
{
    value.as_u64().unwrap().try_into().unwrap()
}

#[test]
fn addresses() {
    let file = vectors!("addresses");
    for case in list(&file, "valid") {
        let address =
            Address { network: NetworkId(number(&case["network"])), node: NodeId(number(&case["node"])) };
        assert_eq!(address.to_string(), case["text"]);
        assert_eq!(case["text"].as_str().unwrap().parse(), Ok(address));
        assert_eq!(address.emit().to_vec(), bytes(&case["bytes"]));
        assert_eq!(Address::parse(array(&case["bytes"])), address);
        assert_eq!(address.is_broadcast(), case["broadcast"]);
        assert_eq!(address.is_unspecified(), case["zero"]);
    }
    for text in list(&file, "invalid") {
        assert_eq!(text.as_str().unwrap().parse::<Address>(), Err(ParseError::Invalid), "{text}");
    }
    let lowercase = file["lowercase_hex_ok"].as_str().unwrap();
    let parsed: Address = lowercase.parse().unwrap();
    assert_eq!(parsed.to_string(), lowercase.to_uppercase());
}

fn protocol(value: &Value) -> Protocol {
    Protocol::try_from(number::<u8>(value)).unwrap()
}

#[test]
fn headers() {
    let file = vectors!("headers");
    for case in list(&file, "valid") {
        let address = |net: &str, node: &str| Address {
            network: NetworkId(number(&case[net])),
            node: NodeId(number(&case[node])),
        };
        let header = Header {
            flags: Flags::from_bits(number(&case["flags"])),
            protocol: protocol(&case["protocol"]),
            src: address("src_net", "src_node"),
            dst: address("dst_net", "dst_node"),
            src_port: Port(number(&case["src_port"])),
            dst_port: Port(number(&case["dst_port"])),
            seq: SeqNumber::new(number(&case["seq"])),
            ack: SeqNumber::new(number(&case["ack"])),
            window: number(&case["window"]),
        };
        let wire = bytes(&case["wire"]);
        let payload = bytes(&case["payload"]);
        assert_eq!(Header::parse(&wire), Ok((header, &payload[..])), "{}", case["name"]);
        let mut emitted = vec![0; HEADER_LEN];
        emitted.extend(&payload);
        assert!(header.emit(&mut emitted));
        assert_eq!(emitted, wire, "{}", case["name"]);
    }
    for case in list(&file, "decode") {
        let is_accepted = Header::parse(&bytes(&case["wire"])).is_ok();
        assert_eq!(is_accepted, case["g2"] != "reject", "{case}");
    }
    let mut largest = vec![0x5a; HEADER_LEN + 65_535];
    let (header, _) = Header::parse(&bytes(&list(&file, "valid")[0]["wire"])).unwrap();
    let header = Header { flags: Flags::ACK, seq: SeqNumber::new(1), ack: SeqNumber::new(1), ..header };
    assert!(header.emit(&mut largest));
    assert_eq!(hex::encode(&largest[30..34]), file["max_payload"]["crc32"]);
    largest.push(0);
    assert!(!header.emit(&mut largest));
}

fn blocks(value: &Value) -> Vec<SackBlock> {
    let pair = |pair: &Value| SackBlock {
        left_edge: SeqNumber::new(number(&pair[0])),
        right_edge: SeqNumber::new(number(&pair[1])),
    };
    value.as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn sack() {
    let file = vectors!("sack");
    let cases = list(&file, "encode").iter().chain([&file["encode_more_than_4"]]);
    for case in cases {
        let mut built = SackBlocks::default();
        blocks(&case["blocks"]).into_iter().for_each(|block| built.push(block));
        let mut out = [0; 64];
        let len = built.emit(&mut out).unwrap();
        assert_eq!(&out[..len], bytes(&case["wire"]));
        assert_eq!(SackBlocks::parse(&out[..len]), Ok(built));
    }
    for case in list(&file, "decode_reject") {
        assert!(SackBlocks::parse(&bytes(&case["wire"])).is_err(), "{case}");
    }
    for case in list(&file, "decode_accept") {
        assert_eq!(SackBlocks::parse(&bytes(&case["wire"])).unwrap().as_slice(), blocks(&case["blocks"]));
    }
    for case in list(&file, "ooo_to_blocks") {
        let mut assembler = Assembler::default();
        for segment in case["segments"].as_array().unwrap() {
            let len: usize = number(&segment[1]);
            assembler.insert(SeqNumber::new(number(&segment[0])), &vec![1; len], 128);
        }
        assert_eq!(assembler.highest_ranges().as_slice(), blocks(&case["g2"]), "{case}");
    }
}

#[test]
fn key_exchange() {
    let file = vectors!("keyexchange");
    let own = ExchangeKey::from_secret(&array(&file["x25519_priv_a"])).unwrap();
    let peer = ExchangeKey::from_secret(&array(&file["x25519_priv_b"])).unwrap();
    assert_eq!(own.public_key().to_vec(), bytes(&file["x25519_pub_a"]));
    let derived = SharedKeys::derive(&bytes(&file["shared"])).unwrap();
    for keys in [own.agree(&peer.public_key()).unwrap(), peer.agree(&own.public_key()).unwrap(), derived] {
        assert_eq!(keys.key(Suite::G1).to_vec(), bytes(&file["g1_key"]));
        assert_eq!(keys.key(Suite::G2).to_vec(), bytes(&file["g2_key"]));
    }
    assert_eq!(own.agree(&[0; 32]).err(), Some(CryptoError::Key));
    for (side, node, key) in [("a", "node_a", own.public_key()), ("b", "node_b", peer.public_key())] {
        let identity = Identity::from_seed(&array(&file[format!("ed25519_seed_{side}")])).unwrap();
        let sender = NodeId(number(&file[node]));
        let signed = identity.sign_exchange_key(sender, key).unwrap();
        assert_eq!(signed.emit().to_vec(), bytes(&file[format!("pila_{side}")]));
        assert_eq!(Frame::parse(&signed.emit()), Ok(Frame::SignedKey(signed.clone())));
        assert_eq!(verify_signed_key(&signed), Ok(()));
        let bare = BareKey { sender, exchange_key: key };
        assert_eq!(bare.emit().to_vec(), bytes(&file[format!("pilk_{side}")]));
        assert_eq!(Frame::parse(&bare.emit()), Ok(Frame::BareKey(bare)));
    }
    for case in list(&file, "pila_reject") {
        let is_good = match Frame::parse(&bytes(&case["wire"])) {
            Ok(Frame::SignedKey(frame)) => {
                verify_signed_key(&frame).is_ok() && own.agree(&frame.exchange_key).is_ok()
            }
            Ok(_) | Err(_) => false,
        };
        assert!(!is_good, "{case}");
    }
    let trailing = Frame::parse(&bytes(&file["pila_accept_with_trailing"]));
    assert!(matches!(trailing, Ok(Frame::SignedKey(frame)) if verify_signed_key(&frame).is_ok()));
    assert_eq!(Frame::parse(&bytes(&file["pilp"])), Ok(Frame::Punch));
}

#[test]
fn sealed_frames() {
    let keys = vectors!("keyexchange");
    let file = vectors!("sealed");
    let key = |generation: &Value| {
        if generation == 1 {
            TunnelKey::new(Suite::G1, &array(&keys["g1_key"])).unwrap()
        } else {
            TunnelKey::new(Suite::G2, &array(&keys["g2_key"])).unwrap()
        }
    };
    for case in list(&file, "frames") {
        let key = key(&case["generation"]);
        let (packet, wire) = (bytes(&case["plaintext"]), bytes(&case["frame"]));
        let prefix = u32::from_be_bytes(array(&case["nonce_prefix"]));
        let header = SealedHeader {
            sender: NodeId(number(&case["sender"])),
            nonce: Nonce { prefix, counter: number(&case["counter"]) },
        };
        assert_eq!(Frame::parse(&wire), Ok(Frame::Sealed(header)));
        let mut frame = vec![0; SEALED_HEADER_LEN + packet.len() + TAG_LEN];
        frame[SEALED_HEADER_LEN..SEALED_HEADER_LEN + packet.len()].copy_from_slice(&packet);
        key.seal(header, &mut frame).unwrap();
        assert_eq!(frame, wire);
        let mut opened = Vec::new();
        key.open_to(header, &wire, &mut opened).unwrap();
        assert_eq!(opened, packet);
        assert_eq!(key.open(header, &mut frame).unwrap(), &packet[..]);
    }
    for case in list(&file, "reject") {
        let wire = bytes(&case["frame"]);
        let Ok(Frame::Sealed(header)) = Frame::parse(&wire) else { continue };
        let opened = key(&case["generation"]).open_to(header, &wire, &mut Vec::new());
        assert_eq!(opened, Err(CryptoError::Open), "{case}");
    }
    assert_eq!(Frame::parse(&bytes(&file["plaintext_frame"])), Ok(Frame::Plain));
}

fn emitted(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.emit(&mut out);
    out
}

#[test]
fn beacon_messages() {
    let file = vectors!("beacon");
    let node = |value: &Value| NodeId(number(value));
    let check = |message: Message<'_>, wire: &Value| {
        assert_eq!(emitted(&message), bytes(wire));
        assert_eq!(Message::parse(&bytes(wire)), Ok(message));
    };
    let endpoint = |case: &Value| {
        let ip = case["ip"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(ip, number(&case["port"]))
    };
    for case in list(&file, "discover") {
        let message = Message::Discover { node: node(&case["node"]), identity_key: None, is_extended: false };
        check(message, &case["wire"]);
    }
    let case = &file["discover_with_pubkey_g2beacon"];
    let identity_key = Some(array(&case["pubkey"]));
    check(Message::Discover { node: node(&case["node"]), identity_key, is_extended: false }, &case["wire"]);
    let case = &file["discover_ex_g2"];
    check(
        Message::Discover { node: node(&case["node"]), identity_key: None, is_extended: true },
        &case["wire"],
    );
    for case in list(&file, "discover_reply") {
        let wire = bytes(&case["wire"]);
        let Ok(Message::DiscoverReply(parsed)) = Message::parse(&wire) else { panic!("{case}") };
        assert_eq!(parsed.ip().to_canonical(), endpoint(case).ip().to_canonical());
        assert_eq!(emitted(&Message::DiscoverReply(endpoint(case))), wire);
    }
    for case in list(&file, "punch_command") {
        assert_eq!(emitted(&Message::PunchCommand(endpoint(case))), bytes(&case["wire"]));
    }
    let case = &file["punch_request"];
    let message =
        Message::PunchRequest { requester: node(&case["requester"]), target: node(&case["target"]) };
    check(message, &case["wire"]);
    let (relay, deliver) = (&file["relay"], &file["relay_deliver"]);
    let frame = bytes(&relay["frame"]);
    let (sender, destination) = (node(&relay["sender"]), node(&relay["dest"]));
    check(Message::Relay { sender, destination, frame: &frame }, &relay["wire"]);
    check(Message::RelayDeliver { sender, destination: None, frame: &frame }, &deliver["wire"]);
    let message = Message::RelayDeliver { sender, destination: Some(destination), frame: &frame };
    check(message, &file["relay_deliver_dest_g2"]["wire"]);
    for case in list(&file, "sync") {
        let nodes = list(case, "nodes").iter().flat_map(|id| number::<u32>(id).to_be_bytes());
        let nodes: Vec<u8> = nodes.collect();
        check(Message::Sync { beacon: number(&case["beacon_id"]), nodes: &nodes }, &case["wire"]);
    }
    check(Message::Notify { kind: 1 }, &file["notify_g2"]["wire"]);
    // A note among the cases has no bytes.
    for case in list(&file, "reject").iter().filter(|case| case["wire"].is_string()) {
        assert!(Message::parse(&bytes(&case["wire"])).is_err(), "{case}");
    }
}

#[test]
fn replay_windows() {
    for case in list(&vectors!("replay"), "sequences") {
        let mut window = <ReplayWindow>::default();
        for (counter, expected) in list(case, "counters").iter().zip(list(case, "accept")) {
            let counter: u64 = counter.as_str().unwrap().parse().unwrap();
            let is_new = window.check(counter);
            assert_eq!(is_new, expected.as_bool().unwrap(), "{counter} in {case}");
            if is_new {
                window.commit(counter);
            }
        }
    }
    for case in list(&vectors!("prefix_windows"), "sequences") {
        let mut windows = PrefixWindows::<4>::default();
        for frame in list(case, "frames") {
            let prefix = u32::from_be_bytes(array(&frame["prefix"]));
            let counter: u64 = frame["counter"].as_str().unwrap().parse().unwrap();
            let is_new = windows.check(prefix, counter);
            assert_eq!(is_new, frame["per_prefix_windows"].as_bool().unwrap(), "{frame} in {}", case["name"]);
            if is_new {
                windows.commit(prefix, counter);
            }
        }
    }
}

/// The dialling side of a whole echo session, as both older generations show it on the wire.
#[test]
fn session_trace() {
    let trace = vectors!("session_trace");
    let packets: Vec<(bool, Vec<u8>, &str)> = trace
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["dir"] == "A>B", bytes(&step["packet"]), step["what"].as_str().unwrap()))
        .collect();
    let (syn, _) = Header::parse(&packets[0].1).unwrap();
    let tuple =
        FourTuple { local: syn.src, local_port: syn.src_port, remote: syn.dst, remote_port: syn.dst_port };
    let options = Options { dialect: Dialect::G2, ..Options::default() };
    let now = Instant::from_millis(1);
    let mut connection = Connection::connect(now, tuple, options, syn.seq);
    let mut buffer = [0; 8192];
    let mut written = false;
    for (is_ours, packet, what) in &packets {
        let (expected, payload) = Header::parse(packet).unwrap();
        if !is_ours {
            connection.process(now, &expected, payload);
            continue;
        }
        if !payload.is_empty() && !written {
            written = true;
            assert_eq!(connection.send(payload), Ok(payload.len()));
        }
        if expected.flags.contains(Flags::FIN) {
            let mut scratch = [0; 100];
            assert!(matches!(connection.recv(&mut scratch), Ok(Some(n)) if n > 0));
            connection.close(now);
        }
        let len = connection.dispatch(now, &mut buffer).unwrap_or_else(|| panic!("nothing for {what}"));
        let (header, sent) = Header::parse(&buffer[..len]).unwrap();
        let essence = |header: Header| (header.flags, header.src, header.dst, header.seq, header.ack);
        assert_eq!(essence(header), essence(expected), "{what}");
        assert_eq!(sent, payload, "{what}");
    }
}
