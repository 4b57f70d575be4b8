//! The beacon: tells nodes where their datagrams come from (whitepaper section 4.2).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use pilot_proto::wire::beacon::Message;

/// Octets of the longest message that is read.
const RECV_LEN: usize = 1 << 16;

/// What a beacon has done.
#[derive(Debug, Default)]
pub struct BeaconCounters {
    /// Endpoints told.
    pub discovered: AtomicU64,
    /// Datagrams that are no message, or one that this beacon does not serve.
    pub dropped: AtomicU64,
}

/// A beacon and its thread.
pub struct Beacon {
    socket: Arc<UdpSocket>,
    counters: Arc<BeaconCounters>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beacon {
    /// Binds and starts.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn start(listen: SocketAddr) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(listen)?);
        let counters = Arc::new(BeaconCounters::default());
        let is_stopping = Arc::new(AtomicBool::new(false));
        let worker = {
            let (socket, counters) = (Arc::clone(&socket), Arc::clone(&counters));
            let is_stopping = Arc::clone(&is_stopping);
            move || serve(&socket, &counters, &is_stopping)
        };
        let thread = thread::Builder::new().name("pilot-beacon".into()).spawn(worker)?;
        Ok(Self { socket, counters, is_stopping, thread: Some(thread) })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What it has done.
    pub fn counters(&self) -> &BeaconCounters {
        &self.counters
    }

    /// Stops and waits for the end.
    pub fn stop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let Ok(mut address) = self.socket.local_addr() else { return };
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // The thread waits for a datagram.
        let _ = self.socket.send_to(&[], address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(socket: &UdpSocket, counters: &BeaconCounters, is_stopping: &AtomicBool) {
    let mut buffer = vec![0; RECV_LEN];
    let mut answer = Vec::new();
    while !is_stopping.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        answer.clear();
        match Message::parse(&buffer[..len]) {
            Ok(Message::Discover { .. }) => {
                Message::DiscoverReply(from).emit(&mut answer);
                let _ = socket.send_to(&answer, from);
                counters.discovered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(_) => {
                counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_both_families_where_they_come_from() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let mut beacon = Beacon::start(listen.parse().unwrap()).unwrap();
            let socket = UdpSocket::bind(listen).unwrap();
            let ours = socket.local_addr().unwrap();
            let mut buffer = [0; 64];
            socket.send_to(b"\x05garbage", beacon.local_addr().unwrap()).unwrap();
            socket.send_to(&[1, 0, 0, 0, 9], beacon.local_addr().unwrap()).unwrap();
            let (len, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(Message::parse(&buffer[..len]), Ok(Message::DiscoverReply(ours)));
            beacon.stop();
            assert_eq!(beacon.counters().dropped.load(Ordering::Relaxed), 2);
        }
    }
}
