//! `pilot-lab LEFT RIGHT`: makes two TUN devices and forwards packets between them as a path would.
//!
//! It starts as a perfect path. Each line on its standard input describes another one, and is answered
//! with a line: `ok`, or what is wrong. End of input ends it.
//!
//! ```text
//! delay=15ms rate=100mbit queue=375000 loss=0.005 loss-back=0 jitter=1ms noise=10us
//! burst=0.002,0.1,1 duplicate=0.01 reorder=0.01,5ms mtu=1400 seed=1
//! ```
//!
//! `delay` is one way and, as `rate` and `queue` (bytes), holds for each direction; everything else
//! concerns packets from left to right, but for `loss-back`. With a `seed` the nth packet of a direction
//! meets the same fate each time, whoever sends it. The models are those of the simulator
//! (`pilot-sim`), on the host's clock.

mod spec;
mod tun;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
    os::fd::{AsRawFd, RawFd},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use pilot_proto::time::Instant;
use pilot_sim::{Channel, Links, Rng};

use crate::{spec::Spec, tun::Tun};

/// Packets that wait on each side at most; beyond them the router would hide its own slowness.
const MAX_WAITING: usize = 200_000;

struct Router {
    origin: std::time::Instant,
    sides: [Tun; 2],
    channels: [Channel; 2],
    links: Links,
    /// For each direction, what the fate of its next packet is drawn from.
    seeds: [u64; 2],
    /// Packets by departure: the side they leave on, and their bytes.
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

    /// Takes what arrived on a side and decides its fate.
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

    /// Lets go what is due and returns the time until the next is.
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

/// Waits until one of the descriptors is readable or the time is over.
fn wait(fds: [RawFd; 2], timeout: Option<Duration>) {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // New specifications come by a channel, so the wait never lasts long.
    let timeout = timeout.unwrap_or(Duration::from_millis(20)).min(Duration::from_millis(20));
    let spec = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(0),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the array and the time outlive the call, and the count is the array's.
    unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const spec, core::ptr::null()) };
}

fn run(names: [&str; 2], specs: &Receiver<Option<String>>) -> io::Result<()> {
    let mut router = Router {
        origin: start(),
        sides: [Tun::open(names[0])?, Tun::open(names[1])?],
        channels: [Channel::default(), Channel::default()],
        links: Links::default(),
        seeds: [1 << 32, !1 << 32],
        waiting: BTreeMap::new(),
        serial: 0,
    };
    answer("ok");
    let fds = [router.sides[0].as_raw_fd(), router.sides[1].as_raw_fd()];
    let mut buffer = vec![0; 65_536];
    loop {
        match specs.try_recv() {
            Ok(Some(line)) => match line.parse::<Spec>() {
                Ok(spec) => {
                    router.apply(&spec);
                    answer("ok");
                }
                Err(error) => answer(&error.to_string()),
            },
            Ok(None) => return Ok(()),
            Err(_) => {}
        }
        let timeout = router.release();
        wait(fds, timeout);
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
    // Whoever reads no answers has gone; end of input follows.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn main() -> io::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = names.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: pilot-lab LEFT RIGHT"));
    };
    // Sleeps are to end on time.
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(Some(line)).is_err() {
                return;
            }
        }
        let _ = sender.send(None);
    });
    run([left, right], &receiver)
}
