//! Keeps every event in memory, and makes the ledger again from them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halfmq_core::{
    Archivist, DecidedTransaction, DelayedPage, Entry, Event, Extent, Ledger, Log, Message, Shelf, State,
    Timestamp, TransactionId,
};

/// An extent's position counts contents: it is an index into the messages; those of pages come behind.
#[derive(Default)]
pub(crate) struct Journal {
    /// All that a restart needs.
    pub(crate) events: Vec<(Event, Vec<Extent>)>,
    /// All that ever happened.
    pub(crate) history: Vec<Event>,
    messages: Vec<Message>,
    shelf: Arc<Pages>,
}

#[derive(Debug, Default)]
struct Pages(Mutex<Vec<OnShelf>>);

#[derive(Debug)]
enum OnShelf {
    Entries(Arc<[Entry]>),
    Delayed(DelayedPage),
}

/// Position of the first page.
const PAGES: u64 = 1 << 40;

impl Shelf for Pages {
    fn page(&self, extent: Extent) -> Option<Arc<[Entry]>> {
        match self.0.lock().expect("no test panics with it").get(index(extent)?)? {
            OnShelf::Entries(entries) => Some(entries.clone()),
            OnShelf::Delayed(_) => panic!("{extent:?} is no page of a queue"),
        }
    }

    fn delayed_page(&self, extent: Extent) -> Option<DelayedPage> {
        match self.0.lock().expect("no test panics with it").get(index(extent)?)? {
            OnShelf::Delayed(page) => Some(page.clone()),
            OnShelf::Entries(_) => panic!("{extent:?} is no page of delayed messages"),
        }
    }
}

fn index(extent: Extent) -> Option<usize> {
    usize::try_from(extent.position.checked_sub(PAGES)?).ok()
}

impl Journal {
    pub(crate) fn body(&self, extent: Extent) -> String {
        String::from_utf8_lossy(&self.message(extent).body).into_owned()
    }

    pub(crate) fn message(&self, extent: Extent) -> Message {
        self.messages[usize::try_from(extent.position).expect("an index")].clone()
    }

    /// A reader of the messages so far, for a verb that writes more of them.
    pub(crate) fn reader(&self) -> impl Fn(Extent) -> Option<Message> + use<> {
        let messages = self.messages.clone();
        move |extent| messages.get(usize::try_from(extent.position).ok()?).cloned()
    }

    /// An empty ledger that finds its pages here.
    pub(crate) fn ledger(&self, retention: Duration) -> Ledger {
        Ledger::new(retention, self.shelf.clone())
    }

    /// The ledger after a restart.
    pub(crate) fn replayed(&self, retention: Duration) -> Ledger {
        let mut ledger = self.ledger(retention);
        for (event, extents) in &self.events {
            ledger.apply(event.clone(), extents).expect("its own events fit");
        }
        ledger
    }

    /// Writes every content anew that is still needed, and sees that nothing is left behind.
    pub(crate) fn carry_all(&mut self, ledger: &mut Ledger, now: Timestamp) {
        let (read, old) = (self.reader(), (0, self.messages.len() as u64));
        ledger.carry_forward(now, old, u64::MAX, &read, self);
        ledger.held(now, &mut |run| assert!(!run.touches(old.0, old.1), "{run:?} was left behind"));
    }

    /// Decided transactions, found in the events alone.
    pub(crate) fn archived(&self) -> BTreeMap<TransactionId, DecidedTransaction> {
        let mut archivist = Archivist::default();
        self.events.iter().filter_map(|(event, _)| archivist.follow(event.clone())).collect()
    }

    /// Writes an image down, and forgets all events before it.
    pub(crate) fn condense(&mut self, ledger: &Ledger, now: Timestamp) {
        self.events = ledger.image(now).map(|piece| (Event::Image(Box::new(piece)), Vec::new())).collect();
    }
}

impl Log for Journal {
    fn append(&mut self, event: &Event) -> Vec<Extent> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others carry no messages")]
        let messages: Vec<&Message> = match event {
            Event::Prepared(prepared) => prepared.messages.iter().collect(),
            Event::Sent(sent) => sent.messages.iter().collect(),
            Event::Decided(decided) => decided.replacements.iter().map(|(_, message)| message).collect(),
            Event::Moved { message, .. } => vec![message],
            _ => Vec::new(),
        };
        let extent = |(message, position): (&&Message, u64)| Extent {
            position,
            length: u32::try_from(message.content_bytes()).expect("a bounded content"),
        };
        let mut extents: Vec<_> = messages.iter().zip(self.messages.len() as u64..).map(extent).collect();
        self.messages.extend(messages.into_iter().cloned());
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others carry no page")]
        let page = match event {
            Event::Paged { page, .. } => Some(OnShelf::Entries(page.0.clone().into())),
            Event::DelayedPaged { page, .. } => Some(OnShelf::Delayed(page.clone())),
            _ => None,
        };
        if let Some(page) = page {
            let mut pages = self.shelf.0.lock().expect("no test panics with it");
            extents.push(Extent { position: PAGES + pages.len() as u64, length: 1 });
            pages.push(page);
        }
        self.events.push((event.clone(), extents.clone()));
        self.history.push(event.clone());
        extents
    }
}

/// All that a ledger shows and that a restart must not change. When somebody asks next is not durable
/// while a claim lasts, so it is left out.
pub(crate) fn observe(ledger: &Ledger) -> Vec<String> {
    let mut seen = vec![format!(
        "{} open, {} in doubt, oldest {:?}, {} delayed in memory, next due {:?}",
        ledger.open_transactions(),
        ledger.in_doubt_transactions(),
        ledger.oldest_open(),
        ledger.hot_delayed(),
        ledger.next_due()
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
