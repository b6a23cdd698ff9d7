//! Keeps every event in memory, and makes the ledger again from them.

use std::time::Duration;

use bytes::Bytes;
use halfmq_core::{Event, Extent, Ledger, Log, Message, State};

/// An extent's position counts contents: it is an index into the bodies.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) events: Vec<(Event, Vec<Extent>)>,
    bodies: Vec<Bytes>,
}

impl Journal {
    pub(crate) fn body(&self, extent: Extent) -> String {
        let index = usize::try_from(extent.position).expect("an index");
        String::from_utf8_lossy(&self.bodies[index]).into_owned()
    }

    /// The ledger after a restart.
    pub(crate) fn replayed(&self, retention: Duration) -> Ledger {
        let mut ledger = Ledger::new(retention);
        for (event, extents) in &self.events {
            ledger.apply(event.clone(), extents).expect("its own events fit");
        }
        ledger
    }
}

impl Log for Journal {
    fn append(&mut self, event: &Event) -> Vec<Extent> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others carry no messages")]
        let messages: Vec<&Message> = match event {
            Event::Prepared(prepared) => prepared.messages.iter().collect(),
            Event::Sent(sent) => sent.messages.iter().collect(),
            Event::Decided(decided) => decided.replacements.iter().map(|(_, message)| message).collect(),
            _ => Vec::new(),
        };
        let extent = |(message, position): (&&Message, u64)| Extent {
            position,
            length: u32::try_from(message.content_bytes()).expect("a bounded content"),
        };
        let extents: Vec<_> = messages.iter().zip(self.bodies.len() as u64..).map(extent).collect();
        self.bodies.extend(messages.iter().map(|message| message.body.clone()));
        self.events.push((event.clone(), extents.clone()));
        extents
    }
}

/// All that a ledger shows and that a restart must not change. When somebody asks next is not durable
/// while a claim lasts, so it is left out.
pub(crate) fn observe(ledger: &Ledger) -> Vec<String> {
    let mut seen = vec![format!(
        "{} open, {} in doubt, oldest {:?}",
        ledger.open_transactions(),
        ledger.in_doubt_transactions(),
        ledger.oldest_open()
    )];
    for state in
        [None, Some(State::Prepared), Some(State::InDoubt), Some(State::Committed), Some(State::RolledBack)]
    {
        for mut view in ledger.list(state, None, None, usize::MAX) {
            view.next_check = None;
            seen.push(format!("{state:?}: {view:?}"));
        }
    }
    seen.extend(ledger.topics().iter().map(|topic| format!("{topic:?}")));
    for group in ledger.groups() {
        let letters = ledger.dead_letters(&group.group, 0, usize::MAX).expect("the group is listed");
        seen.push(format!("{group:?}"));
        seen.extend(letters.iter().map(|letter| format!("{letter:?}")));
    }
    seen.extend(ledger.callbacks().map(|(group, url)| format!("{group} at {url}")));
    seen
}
