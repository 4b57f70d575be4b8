//! Replay protection with sliding windows in the manner of RFC 6479, one per nonce prefix.

/// Size of the window behind the highest counter.
pub const WINDOW: u64 = 256;
/// Prefixes tracked per key; a peer that needs more must exchange keys again.
pub const MAX_PREFIXES: usize = 64;

const WORDS: usize = (WINDOW / 64) as usize;

/// The accepted counters of one nonce prefix. Call [`Self::check`] first, and [`Self::commit`] only after the
/// frame was authenticated, so that a forged counter does not move the window.
///
/// As in existing nodes, a window that holds counter 0 alone accepts it again. Counters start at 1, and
/// sessions refuse 0 before they ask.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    highest: u64,
    bitmap: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `counter` is new.
    pub fn check(&self, counter: u64) -> bool {
        if self.highest == 0 || counter > self.highest {
            return true;
        }
        self.highest - counter < WINDOW && self.bitmap[word(counter)] & bit(counter) == 0
    }

    /// Marks an authenticated `counter` as accepted.
    pub fn commit(&mut self, counter: u64) {
        if self.highest == 0 || counter > self.highest {
            let ahead = counter - self.highest;
            if ahead >= WINDOW {
                self.bitmap = [0; WORDS];
            } else {
                for skipped in self.highest + 1..=counter {
                    self.bitmap[word(skipped)] &= !bit(skipped);
                }
            }
            self.highest = counter;
        }
        self.bitmap[word(counter)] |= bit(counter);
    }
}

/// One window per nonce prefix, kept for the life of the key: a G1 peer restarts at counter 1 under a new
/// prefix whenever it installs our key again.
#[derive(Clone, Debug, Default)]
pub struct PrefixWindows {
    windows: Vec<(u32, ReplayWindow)>,
}

impl PrefixWindows {
    /// Whether the frame is new. An unknown prefix is refused once [`MAX_PREFIXES`] are tracked.
    pub fn check(&self, prefix: u32, counter: u64) -> bool {
        match self.windows.iter().find(|(known, _)| *known == prefix) {
            Some((_, window)) => window.check(counter),
            None => self.windows.len() < MAX_PREFIXES,
        }
    }

    /// Marks an authenticated frame as accepted. Returns whether its counter is the highest of its prefix.
    pub fn commit(&mut self, prefix: u32, counter: u64) -> bool {
        let at = match self.windows.iter().position(|(known, _)| *known == prefix) {
            Some(at) => at,
            None if self.windows.len() < MAX_PREFIXES => {
                self.windows.push((prefix, ReplayWindow::default()));
                self.windows.len() - 1
            }
            None => return false,
        };
        let window = &mut self.windows[at].1;
        window.commit(counter);
        window.highest == counter
    }

    /// Whether no further prefix can be accepted.
    pub fn is_full(&self) -> bool {
        self.windows.len() >= MAX_PREFIXES
    }
}

fn word(counter: u64) -> usize {
    (counter % WINDOW / 64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}
