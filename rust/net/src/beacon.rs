//! The beacon's thread: moves datagrams between its sockets and [`pilot_proto::beacon::Beacon`], which
//! decides everything (`docs/reference/protocol/beacon.md`).

mod probes;
#[cfg(test)]
mod tests;
mod thread;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::mpsc::{self, Sender, SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use mio::Waker;
use pilot_proto::{
    beacon::{BeaconConfig, Counters, Holdings},
    wire::addr::NodeId,
};

use self::thread::{BeaconThread, Command};

/// Longest wait for an answer of the thread, which never blocks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How a beacon is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is bound.
    pub listen: SocketAddr,
    /// Its number among the beacons of a registry.
    pub id: u32,
    /// A secret that is used once.
    pub seed: [u8; 32],
    /// Whether loopback addresses prove themselves, and each socket there is a source of its own.
    pub trusts_loopback: bool,
    /// Ports at which nodes prove their address; 0 is any.
    pub probe_ports: Vec<u16>,
    /// Its public addresses, if its sockets have others.
    pub public_ips: Vec<IpAddr>,
}

/// What a beacon has done and holds.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What it has done.
    pub counters: Counters,
    /// What it holds.
    pub holdings: Holdings,
    /// Datagrams that the socket could not send or receive.
    pub socket_errors: u64,
}

/// A beacon and its thread.
pub struct Beacon {
    commands: Sender<Command>,
    waker: Waker,
    local_addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Beacon {
    /// Binds and starts.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn start(config: Config) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let (thread, waker) = BeaconThread::new(config, inbox)?;
        let local_addr = thread.local_addr()?;
        let thread = std::thread::Builder::new().name("pilot-beacon".into()).spawn(move || thread.run())?;
        Ok(Self { commands, waker, local_addr, thread: Some(thread) })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Sets the other beacons of the registry.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn set_beacons(&self, beacons: Vec<SocketAddr>) -> io::Result<()> {
        self.command(Command::SetBeacons(beacons))
    }

    /// Tells nodes that handshakes wait for them at the registry.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn notify(&self, nodes: Vec<NodeId>) -> io::Result<()> {
        self.command(Command::Notify(nodes))
    }

    /// Nodes whose keys the registry shall be asked for, at most so many; answered by [`Self::set_key`].
    ///
    /// # Errors
    /// The thread has ended.
    pub fn take_unconfirmed(&self, most: usize) -> io::Result<Vec<NodeId>> {
        self.ask(|sender| Command::TakeUnconfirmed(most, sender))
    }

    /// Tells which key a node has at the registry; `None` if it does not know the node.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn set_key(&self, node: NodeId, key: Option<[u8; 32]>) -> io::Result<()> {
        self.command(Command::SetKey(node, key))
    }

    /// What it has done and holds.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn report(&self) -> io::Result<Report> {
        self.ask(Command::Report)
    }

    fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Command) -> io::Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.command(question(sender))?;
        receiver.recv_timeout(ANSWER_TIMEOUT).map_err(|_| ended())
    }

    /// Stops and waits for the end.
    pub fn stop(&mut self) {
        // It has ended already, if this fails.
        let _ = self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn command(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| ended())?;
        self.waker.wake()
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the beacon's thread has ended")
}

/// What [`BeaconThread`] makes of the configuration.
fn core_config(config: &Config, probe_ports: Vec<u16>) -> BeaconConfig {
    BeaconConfig {
        id: config.id,
        seed: config.seed,
        trusts_loopback: config.trusts_loopback,
        probe_ports,
        public_ips: config.public_ips.clone(),
    }
}
