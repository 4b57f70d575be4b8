//! Events for the control plane.

use std::net::SocketAddr;

use pilot_proto::{
    node::Caller,
    tunnel::Route,
    wire::addr::{NetworkId, NodeId},
};

use crate::tag::Tag;

/// What the control plane must act on.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// The registry must be asked about a node.
    RecordNeeded(NodeId),
    /// Somebody claims to be this node; our own questions go first.
    KeyNeeded(NodeId),
    /// A peer with this identity key wants in.
    AdmissionNeeded(Caller, [u8; 32]),
    /// What a network of ours allows may have changed.
    PolicyNeeded(NetworkId),
    /// A beacon says where our datagrams come from.
    EndpointDiscovered(SocketAddr),
    /// Another beacon relays for us.
    HomeChanged(SocketAddr),
    /// Frames for a peer go by another path.
    PathChanged(NodeId, Route),
    /// A driver asks something the IO thread cannot answer.
    Request {
        /// To be given back with the answer.
        tag: Tag,
        /// The verb.
        command: u8,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// The IO thread ended; the text is empty for an orderly end.
    Stopped(String),
}
