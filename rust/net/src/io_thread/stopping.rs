//! The end of the thread.

use std::time::Duration;

use pilot_proto::{node::ConnectionId, transport::State};

use super::IoThread;

/// How long streams may finish when the daemon stops.
const LINGER: Duration = Duration::from_secs(1);

impl IoThread {
    /// Finishes every stream whose application did. The others break, once what they sent has arrived: FIN
    /// would tell the peer that it has everything.
    pub(super) fn begin_stop(&mut self) {
        self.stop_at = Some(self.now + LINGER);
        let (streams, mut around) = self.streams();
        streams.begin_stop(&mut around);
    }

    /// Whether the thread may end: every FIN was answered, or the time is up.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        let (streams, mut around) = self.streams();
        streams.break_unfinished(&mut around);
        self.transmit();
        let is_finished = |state: State| {
            matches!(state, State::Closed | State::TimeWait | State::FinWait2 | State::SynSent)
        };
        let is_over = self.now >= stop_at
            || self.node.connections().all(|(_, connection)| is_finished(connection.state()));
        if is_over {
            let ids: Vec<ConnectionId> = self.node.connections().map(|(id, _)| id).collect();
            for id in ids {
                self.node.abort(self.now, id);
            }
            self.transmit();
        }
        is_over
    }
}
