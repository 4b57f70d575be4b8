//! What may be sent to addresses that are not validated (RFC 9000 section 8).

use super::{
    Paths,
    address::{AMPLIFICATION, IP_UDP_HEADERS, Path},
};
use crate::{storage::token_bucket::TokenBucket, time::Instant, tunnel::route::Route};

impl Paths {
    /// Whether `len` bytes may be sent by a route; if so, they are charged. A beacon is configured, so that
    /// nothing is sent to an address that somebody made up.
    pub(in crate::tunnel) fn spend(&mut self, to: Route, len: usize) -> bool {
        let Some(to) = to.direct() else { return true };
        let Some(path) = self.find_mut(to) else { return false };
        let has_credit = path.has_credit(len);
        if has_credit {
            path.on_sent(len);
        }
        path.is_credit_blocked |= !has_credit;
        has_credit
    }

    /// The same for the key frames of a dial, which may be sent to an address named by the registry without
    /// credit.
    pub(in crate::tunnel) fn spend_hello(&mut self, to: Route, len: usize) -> bool {
        let path = to.direct().and_then(|to| self.find_mut(to));
        path.is_some_and(|path| path.is_from_registry) || self.spend(to, len)
    }

    /// The credit granted by an unauthenticated frame of `len` bytes; 0 for one that was counted already.
    pub(in crate::tunnel) fn grant_credit(&mut self, from: Route, len: usize) -> u64 {
        if len == 0 {
            return 0;
        }
        self.on_unauthenticated(from, len);
        AMPLIFICATION * (len as u64 + IP_UDP_HEADERS)
    }

    /// As [`Self::spend`]; for an address that is not the peer's, `credit` is charged.
    pub(in crate::tunnel) fn spend_credit(&mut self, credit: &mut u64, to: Route, len: usize) -> bool {
        if to.direct().is_none_or(|to| self.find_mut(to).is_some()) {
            return self.spend(to, len);
        }
        let left = credit.checked_sub(len as u64 + IP_UDP_HEADERS);
        *credit = left.unwrap_or(*credit);
        left.is_some()
    }

    /// The path in use, if it is an address.
    fn direct_in_use(&mut self) -> Option<&mut Path> {
        if self.is_relayed() { None } else { self.active.as_mut() }
    }

    /// Whether `len` bytes may be sent by the route in use.
    pub(in crate::tunnel) fn has_credit(&mut self, len: usize) -> bool {
        let has_relay = self.relay.is_some();
        self.direct_in_use().map_or(has_relay, |path| {
            let has_credit = path.has_credit(len);
            path.is_credit_blocked |= !has_credit;
            has_credit
        })
    }

    /// Charges bytes sent by the route in use.
    pub(in crate::tunnel) fn on_sent(&mut self, len: usize) {
        if let Some(path) = self.direct_in_use() {
            path.on_sent(len);
        }
    }

    /// Whether something was not sent for lack of credit since the last call.
    pub(in crate::tunnel) fn take_credit_blocked(&mut self) -> bool {
        self.active.as_mut().is_some_and(|path| core::mem::take(&mut path.is_credit_blocked))
    }

    /// As [`Self::spend`] for a challenge. What only the check list or the registry names is paid from what
    /// the peer sent by proven routes, and from a budget for all peers.
    pub(in crate::tunnel) fn spend_check(
        &mut self,
        now: Instant,
        to: Route,
        len: usize,
        budget: &mut TokenBucket,
    ) -> bool {
        if self.spend(to, len) {
            return true;
        }
        let is_named = to
            .direct()
            .and_then(|to| self.find_mut(to))
            .is_some_and(|path| path.is_told || path.is_from_registry);
        let may_send = is_named && self.checks.can_spend(len) && budget.take(now);
        if may_send {
            self.checks.spend(len);
        }
        may_send
    }
}
