//! What there is to show of a peer's paths.

use core::{net::SocketAddr, time::Duration};

use super::{Path, Paths, Source};
use crate::time::Instant;

/// What became of an address at which the peer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CandidateState {
    /// Frames go there.
    InUse,
    /// It is validated, and another path is better or was first.
    Standby,
    /// A challenge is outstanding.
    Checking,
    /// It did not answer.
    Failed,
    /// It was not tried.
    Waiting,
}

impl CandidateState {
    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Standby => "standby",
            Self::Checking => "checking",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
        }
    }

    /// Why frames do not go there, in words; empty if they do.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InUse => "",
            Self::Standby => "another path is as good or better",
            Self::Checking => "no answer yet",
            Self::Failed => "no answer",
            Self::Waiting => "not tried",
        }
    }
}

/// One address at which the peer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CandidateStatus {
    /// The address.
    pub address: SocketAddr,
    /// Who named it.
    pub source: Source,
    /// What became of it.
    pub state: CandidateState,
}

impl Paths {
    /// Every address at which the peer may be.
    pub(in crate::tunnel) fn candidates(&self) -> Vec<CandidateStatus> {
        let mut found: Vec<_> = self
            .checks
            .iter()
            .map(|check| {
                let state = self.state_of(check.address);
                let has_failed = state == CandidateState::Waiting && check.failures > 0;
                let state = if has_failed { CandidateState::Failed } else { state };
                CandidateStatus { address: check.address, source: check.source, state }
            })
            .collect();
        for path in self.active.iter().chain(&self.candidates) {
            if found.iter().all(|known| known.address != path.address) {
                let source = if path.is_from_registry { Source::Registry } else { Source::Frame };
                let state = self.state_of(path.address);
                found.push(CandidateStatus { address: path.address, source, state });
            }
        }
        found
    }

    fn state_of(&self, address: SocketAddr) -> CandidateState {
        let is_there = |path: &&Path| path.address == address;
        if let Some(path) = self.active.as_ref().filter(is_there) {
            return match path {
                path if path.is_suspect => CandidateState::Failed,
                path if path.is_usable() || !self.is_relayed() => CandidateState::InUse,
                path if path.challenge.is_some_and(|last| last.is_exhausted()) => CandidateState::Failed,
                _ => CandidateState::Checking,
            };
        }
        match self.candidates.iter().find(is_there) {
            Some(path) if path.is_validated => CandidateState::Standby,
            Some(path) if path.challenge.is_some() => CandidateState::Checking,
            _ => CandidateState::Waiting,
        }
    }

    /// How long the path in use has been in use.
    pub(in crate::tunnel) fn age(&self, now: Instant) -> Option<Duration> {
        let direct = self.active.as_ref().filter(|path| path.is_usable()).and_then(|path| path.validated_at);
        let relayed = self.relay.as_ref().filter(|_| self.is_relayed()).and_then(|relay| relay.since);
        direct.or(relayed).map(|since| now.saturating_since(since))
    }
}
