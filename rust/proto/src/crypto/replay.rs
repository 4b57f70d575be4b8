//! Replay protection with sliding windows in the manner of RFC 6479, one per nonce prefix.

/// Words of the window of a nonce prefix: 4,096 counters. Frames through the relay arrive behind those that were
/// sent later directly, by as many as the direct path carries in the difference of their times.
const PREFIX_WORDS: usize = 64;
/// Prefixes tracked per key; a peer that needs more must exchange keys again.
pub const MAX_PREFIXES: usize = 64;

/// The accepted counters of one nonce prefix. Call [`Self::check`] first, and [`Self::commit`] only after the
/// frame was authenticated, so that a forged counter does not move the window.
///
/// As in existing nodes, a window that holds counter 0 alone accepts it again. Counters start at 1, and
/// sessions refuse 0 before they ask.
///
/// Its size behind the highest counter is 64 times `WORDS`; existing nodes have 256.
#[derive(Clone, Debug)]
pub struct ReplayWindow<const WORDS: usize = 4> {
    highest: u64,
    bitmap: [u64; WORDS],
}

impl<const WORDS: usize> Default for ReplayWindow<WORDS> {
    fn default() -> Self {
        Self { highest: 0, bitmap: [0; WORDS] }
    }
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    const SIZE: u64 = 64 * WORDS as u64;

    /// Whether `counter` is new.
    pub fn check(&self, counter: u64) -> bool {
        if self.highest == 0 || counter > self.highest {
            return true;
        }
        self.highest - counter < Self::SIZE && self.bitmap[Self::word(counter)] & bit(counter) == 0
    }

    /// Marks an authenticated `counter` as accepted.
    pub fn commit(&mut self, counter: u64) {
        if self.highest == 0 || counter > self.highest {
            let ahead = counter - self.highest;
            if ahead >= Self::SIZE {
                self.bitmap = [0; WORDS];
            } else {
                for skipped in self.highest + 1..=counter {
                    self.bitmap[Self::word(skipped)] &= !bit(skipped);
                }
            }
            self.highest = counter;
        }
        self.bitmap[Self::word(counter)] |= bit(counter);
    }

    fn word(counter: u64) -> usize {
        (counter % Self::SIZE / 64) as usize
    }
}

/// One window per nonce prefix, kept for the life of the key: a G1 peer restarts at counter 1 under a new
/// prefix whenever it installs our key again.
#[derive(Clone, Debug, Default)]
pub struct PrefixWindows<const WORDS: usize = PREFIX_WORDS> {
    windows: Vec<(u32, ReplayWindow<WORDS>)>,
}

impl<const WORDS: usize> PrefixWindows<WORDS> {
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

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}
