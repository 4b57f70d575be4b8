//! `pilot-lab LEFT RIGHT`: creates two TUN devices and forwards packets between them over an emulated path.
//!
//! The initial path has no impairments. Each line on standard input describes another path and is answered
//! with `ok` or an error. It exits at end of input.
//!
//! ```text
//! delay=15ms rate=100mbit queue=375000 loss=0.005 loss-back=0 jitter=1ms noise=10us
//! burst=0.002,0.1,1 duplicate=0.01 reorder=0.01,5ms mtu=1400 seed=1
//! ```
//!
//! `delay` (one way), `rate` and `queue` (bytes) apply to each direction; everything else applies to packets
//! from left to right, except `loss-back`. With a `seed` the nth packet of a direction is always treated the
//! same. The models are those of the simulator (`pilot-sim`), on the host's clock.

mod spec;
mod tun;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use pilot_proto::time::Instant;
use pilot_sim::{Channel, Links, Rng};

use crate::{spec::Spec, tun::Tun};

/// Upper bound of queued packets per side, so that a slow emulator shows as loss.
const MAX_WAITING: usize = 200_000;

struct Router {
    origin: std::time::Instant,
    sides: [Tun; 2],
    channels: [Channel; 2],
    links: Links,
    /// Random generator of each direction.
    seeds: [u64; 2],
    /// Packets by departure time: output side and bytes.
    waiting: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
}

impl Router {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn apply(&mut self, spec: &Spec) {
        self.links = Links::default();
        self.channels = spec.channels(&mut self.links);
        self.waiting.clear();
        if let Some(seed) = spec.seed {
            self.seeds = [seed << 32, !seed << 32];
        }
    }

    /// Reads packets of a side and schedules them.
    fn take(&mut self, side: usize, buffer: &mut [u8]) -> io::Result<()> {
        let now = self.now();
        while let Some(len) = self.sides[side].read(buffer)? {
            let mut rng = Rng(self.seeds[side]);
            self.seeds[side] = self.seeds[side].wrapping_add(1);
            let fate = self.channels[side].send(now, len, &mut self.links, &mut rng);
            for at in [fate.first, fate.second].into_iter().flatten() {
                if self.waiting.len() < 2 * MAX_WAITING {
                    self.serial += 1;
                    self.waiting.insert((at, self.serial), (1 - side, buffer[..len].to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Sends due packets and returns the time until the next one.
    fn release(&mut self) -> Option<Duration> {
        loop {
            let entry = self.waiting.first_entry()?;
            let now = Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(0));
            if entry.key().0 > now {
                return Some(entry.key().0 - now);
            }
            let (side, packet) = entry.remove();
            self.sides[side].write(&packet);
        }
    }
}

/// Waits until a descriptor is readable or the timeout expires; forever without one. Returns whether the
/// first one is.
fn wait(fds: [RawFd; 3], timeout: Option<Duration>) -> bool {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let spec = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(0),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let spec = spec.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: the array and the time outlive the call, and the count is the array's.
    unsafe { libc::ppoll(polled.as_mut_ptr(), 3, spec, core::ptr::null()) };
    polled[0].revents != 0
}

/// Standard input, line by line, as far as it has come.
struct Lines {
    input: File,
    rest: Vec<u8>,
}

impl Lines {
    /// Reads what is there, and returns the lines that are complete; `None` at the end of input.
    fn read(&mut self) -> io::Result<Option<Vec<String>>> {
        let mut buffer = [0; 4096];
        let len = self.input.read(&mut buffer)?;
        if len == 0 {
            return Ok(None);
        }
        self.rest.extend_from_slice(&buffer[..len]);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim().to_owned());
        }
        Ok(Some(lines))
    }
}

fn run(names: [&str; 2]) -> io::Result<()> {
    let mut router = Router {
        origin: start(),
        sides: [Tun::open(names[0])?, Tun::open(names[1])?],
        channels: [Channel::default(), Channel::default()],
        links: Links::default(),
        seeds: [1 << 32, !1 << 32],
        waiting: BTreeMap::new(),
        serial: 0,
    };
    let mut lines = Lines { input: File::from(io::stdin().as_fd().try_clone_to_owned()?), rest: Vec::new() };
    answer("ok");
    let fds = [lines.input.as_raw_fd(), router.sides[0].as_raw_fd(), router.sides[1].as_raw_fd()];
    let mut buffer = vec![0; 65_536];
    loop {
        let timeout = router.release();
        if wait(fds, timeout) {
            let Some(complete) = lines.read()? else { return Ok(()) };
            for line in complete {
                match line.parse::<Spec>() {
                    Ok(spec) => {
                        router.apply(&spec);
                        answer("ok");
                    }
                    Err(error) => answer(&error.to_string()),
                }
            }
        }
        for side in 0..2 {
            router.take(side, &mut buffer)?;
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a router of real packets keeps real time")]
fn start() -> std::time::Instant {
    std::time::Instant::now()
}

fn answer(text: &str) {
    let mut out = io::stdout().lock();
    // The reader of the answers exited; end of input follows.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn main() -> io::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = names.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: pilot-lab LEFT RIGHT"));
    };
    // Reduce timer slack for exact sleeps.
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    run([left, right])
}
