//! Queue for the control plane: events, and drivers' requests in round robin.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    event::HostEvent,
    tag::{ClientId, Tag},
};

/// Events kept; requests are bounded where they are counted, in [`crate::asked`].
const MAX_EVENTS: usize = 65_536;
/// Requests taken at once, about 1 ms each. More wait here, where every driver has its turn and those of
/// a driver that goes are forgotten.
const TURN: usize = 16;

/// Two queues in one.
#[derive(Default)]
pub(crate) struct Inbox {
    events: VecDeque<HostEvent>,
    requests: BTreeMap<ClientId, VecDeque<HostEvent>>,
    /// Whose turn is next. Those who have no request any more are passed over.
    turns: VecDeque<ClientId>,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.requests.is_empty()
    }

    /// Queues an event. `false` when there are too many.
    pub(crate) fn push(&mut self, event: HostEvent) -> bool {
        if let HostEvent::Request { tag, .. } = event {
            let own = self.requests.entry(tag.client).or_default();
            if own.is_empty() {
                self.turns.push_back(tag.client);
            }
            own.push_back(event);
            return true;
        }
        let has_room = self.events.len() < MAX_EVENTS;
        if has_room {
            self.events.push_back(event);
        }
        has_room
    }

    /// Queues the last event, whatever there is already.
    pub(crate) fn push_last(&mut self, event: HostEvent) {
        self.events.push_back(event);
    }

    /// Takes every event, and some requests.
    pub(crate) fn take(&mut self) -> Vec<HostEvent> {
        let mut taken: Vec<HostEvent> = self.events.drain(..).collect();
        let full = taken.len() + TURN;
        while taken.len() < full
            && let Some(client) = self.turns.pop_front()
        {
            let Some(own) = self.requests.get_mut(&client) else { continue };
            taken.extend(own.pop_front());
            if own.is_empty() {
                self.requests.remove(&client);
            } else {
                self.turns.push_back(client);
            }
        }
        taken
    }

    /// Forgets the requests of a driver that is gone.
    pub(crate) fn forget(&mut self, client: ClientId) -> Vec<Tag> {
        let own = self.requests.remove(&client).unwrap_or_default();
        own.iter().filter_map(tag_of).collect()
    }
}

fn tag_of(event: &HostEvent) -> Option<Tag> {
    match event {
        HostEvent::Request { tag, .. } => Some(*tag),
        HostEvent::RecordNeeded(_)
        | HostEvent::KeyNeeded(_)
        | HostEvent::AdmissionNeeded(..)
        | HostEvent::PolicyNeeded(_)
        | HostEvent::EndpointDiscovered(_)
        | HostEvent::HomeChanged(_)
        | HostEvent::PathChanged(..)
        | HostEvent::Stopped(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use pilot_proto::wire::addr::NodeId;

    use super::*;

    fn request(client: u64, id: u32) -> HostEvent {
        let tag = Tag { client, id: Some(id) };
        HostEvent::Request { tag, command: 0x0D, payload: Vec::new() }
    }

    fn tags(events: &[HostEvent]) -> Vec<(u64, u32)> {
        let tags = events.iter().filter_map(tag_of);
        tags.map(|tag| (tag.client, tag.id.unwrap())).collect()
    }

    #[test]
    fn each_driver_has_its_turn_however_many_requests_another_has() {
        let mut inbox = Inbox::default();
        for id in 0..1000 {
            inbox.push(request(1, id));
        }
        inbox.push(request(2, 0));
        inbox.push(request(3, 0));
        inbox.push(request(2, 1));
        assert!(inbox.push(HostEvent::RecordNeeded(NodeId(7))));
        let taken = inbox.take();
        assert!(matches!(taken[0], HostEvent::RecordNeeded(NodeId(7))), "events go first");
        assert_eq!(tags(&taken)[..6], [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        assert_eq!(taken.len(), 1 + TURN);
        let mut left = 0;
        while !inbox.is_empty() {
            left += inbox.take().len();
        }
        assert_eq!(left, 1003 - TURN);
    }

    #[test]
    fn the_requests_of_a_driver_that_goes_are_forgotten_and_named() {
        let mut inbox = Inbox::default();
        for id in 0..100 {
            inbox.push(request(1, id));
            inbox.push(request(2, id));
        }
        inbox.take();
        assert_eq!(inbox.forget(1).len(), 100 - TURN / 2);
        assert_eq!(inbox.forget(1).len(), 0);
        while !inbox.is_empty() {
            assert!(tags(&inbox.take()).iter().all(|(client, _)| *client == 2));
        }
        inbox.push(request(1, 0));
        assert_eq!(tags(&inbox.take()), [(1, 0)], "its number may come again");
    }

    #[test]
    fn events_are_bounded() {
        let mut inbox = Inbox::default();
        let pushed = (0..MAX_EVENTS + 9).filter(|_| inbox.push(HostEvent::RecordNeeded(NodeId(1)))).count();
        assert_eq!(pushed, MAX_EVENTS);
        inbox.push_last(HostEvent::Stopped("over".into()));
        assert_eq!(inbox.take().len(), MAX_EVENTS + 1);
    }
}
