//! Limits of local programs, each and in total.

use std::{io, os::fd::AsRawFd, time::Duration};

/// Connected drivers, where the descriptor limit allows it.
const MAX_CLIENTS: u64 = 8192;
/// Largest number of descriptors reserved for drivers and registry connections.
const MAX_RESERVE: u64 = 512;

/// Frames per driver and turn of the loop: at most, and at least when many drivers are busy.
pub(crate) const TURN_FRAMES: usize = 256;
pub(crate) const MIN_TURN_FRAMES: usize = 8;
/// Pause of a driver that used up its share of a turn, so that it does not keep a processor busy.
pub(crate) const PACE: Duration = Duration::from_millis(1);
/// Bytes of frames taken from a driver in one turn, but at least one frame.
pub(crate) const TURN_BYTES: usize = 512 << 10;
/// Frames taken from all drivers in one turn, as long as each gets its fewest.
pub(crate) const TURN_ALL_FRAMES: usize = 4096;
/// Passes over streams and datagrams per turn.
pub(crate) const TURN_PASSES: usize = 16;
/// Events of the node that are acted on in one pass.
pub(crate) const PASS_EVENTS: usize = 4096;
/// Commands of the control plane taken in one turn.
pub(crate) const TURN_COMMANDS: usize = 1024;
/// Connections of one listening socket accepted in one turn.
pub(crate) const TURN_ACCEPTS: usize = 64;

/// Output backlog of a driver above which stream data stays in its connection.
pub(crate) const OUT_STREAMS: usize = 1 << 20;
/// Output backlog of a driver above which datagrams to it are dropped.
pub(crate) const OUT_DATAGRAMS: usize = 2 << 20;
/// Output backlog of a driver above which its requests wait: it does not read its answers.
pub(crate) const OUT_REQUESTS: usize = 3 << 20;
/// Output backlog of a driver above which it is disconnected.
pub(crate) const OUT_MAX: usize = 32 << 20;
/// Overhead of a queued frame, bytes.
pub(crate) const FRAME_OVERHEAD: usize = 64;
/// Bytes that all drivers together may make the daemon hold, both ways; above, the driver that makes it
/// hold most is dropped.
pub(crate) const MAX_HELD: usize = 256 << 20;

/// Requests of one driver at the control plane.
pub(crate) const MAX_ASKED: usize = 256;
/// Bytes of a driver's requests at the control plane with what their answers may take.
pub(crate) const MAX_ASKED_BYTES: usize = 16 << 20;
/// Requests of all drivers at the control plane, from which only a driver without any is heard, and from
/// which nobody is.
pub(crate) const SOFT_ALL_ASKED: usize = 4096;
pub(crate) const MAX_ALL_ASKED: usize = 16_384;
/// Bytes of all requests at the control plane, likewise.
pub(crate) const SOFT_ALL_ASKED_BYTES: usize = 64 << 20;
pub(crate) const MAX_ALL_ASKED_BYTES: usize = 128 << 20;

/// Dials of one driver that were not answered yet.
pub(crate) const MAX_DIALS: usize = 1024;
/// Streams of one driver, half of what ephemeral ports there are.
pub(crate) const MAX_STREAMS: u64 = 8192;
/// Ports of one driver.
pub(crate) const MAX_PORTS: usize = 1024;
/// Paths that one driver forwards.
pub(crate) const MAX_FORWARDS: usize = 256;
/// Descriptors queued for a driver above which its requests wait.
pub(crate) const MAX_QUEUED_FDS: usize = 64;
/// Streams to a driver's ports that it has not taken yet; the next are reset.
pub(crate) const MAX_BACKLOG: usize = 1024;
/// Streams that wait for the server at a path to accept connections.
pub(crate) const MAX_PATH_BACKLOG: usize = 1024;
/// How long they wait.
pub(crate) const PATH_PATIENCE: Duration = Duration::from_secs(10);
/// Datagrams that wait for the network above which those of drivers are dropped.
pub(crate) const MAX_OUTBOX: usize = 4096;
/// Pause before a listening socket is tried again when no descriptor is free; an edge-triggered poll does not
/// report waiting connections again (epoll(7)).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long unsent bytes of a disconnected driver are kept.
pub(crate) const ORPHAN_TIME: Duration = Duration::from_secs(60);

/// Descriptors that this process may have.
fn max_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is live; the call only writes it.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { limit.rlim_cur } else { 1024 }
}

/// Descriptors or streams that are allowed without asking for the limit: no daemon can work with a lower one.
const FEW: u64 = 64;

/// Whether `fd`, the newest descriptor, leaves the reserve free. The lowest free number is given to a new
/// descriptor (open(2)), so its number tells how many there are.
pub(crate) fn leaves_reserve(fd: &impl AsRawFd) -> bool {
    let number = u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX);
    if number < FEW {
        return true;
    }
    let max = max_descriptors();
    number < max.saturating_sub((max / 8).clamp(16, MAX_RESERVE))
}

/// Drivers that may be connected at once.
pub(crate) fn max_clients() -> usize {
    usize::try_from(MAX_CLIENTS.min(max_descriptors() / 2)).unwrap_or(usize::MAX)
}

/// Whether a driver that has `count` streams may have another: they may take no more than three quarters of
/// the descriptors.
pub(crate) fn allows_stream(count: usize) -> bool {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    count < FEW || count < MAX_STREAMS.min(max_descriptors() / 4 * 3)
}

/// Whether an error says that the system lacks something for now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ETOOMANYREFS)
    )
}
