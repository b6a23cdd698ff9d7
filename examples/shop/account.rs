//! The account: what the databases hold against what the coordinator says. Nothing here knows what the
//! customers were told or what was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::path::Path;

use halfmq_client::{Admin, Topic};
use rusqlite::{Connection, OpenFlags};

use crate::Failure;
use crate::coordinator::{Coordinator, Listed};
use crate::order::{CART, POINTS};

/// Differences that are named one by one; more are only counted.
const NAMED_MAX: usize = 10;

/// Where everything is written down.
pub(crate) struct Books<'a> {
    pub(crate) shop: &'a Path,
    pub(crate) cart: &'a Path,
    pub(crate) points: &'a Path,
}

/// One line of the account.
struct Line {
    what: &'static str,
    count: u64,
    /// What the orders demand and is not there.
    missing: Vec<String>,
    /// What is there twice.
    double: Vec<String>,
    /// What is there without an order.
    unwanted: Vec<String>,
}

pub(crate) struct Account {
    lines: Vec<Line>,
    rolled_back: u64,
    by_check: u64,
    repetitions: u64,
    open: Vec<String>,
    in_doubt: Vec<String>,
}

/// Reads all books.
pub(crate) async fn draw_up(
    books: &Books<'_>,
    coordinator: &Coordinator,
    admin: &Admin,
) -> Result<Account, Failure> {
    let (numbers, transactions) = orders(books.shop)?;
    let committed = coordinator.transactions(Some("committed")).await?;
    let rolled_back = coordinator.transactions(Some("rolled-back")).await?;
    let (cart, cart_repetitions) = effects(books.cart)?;
    let (points, points_repetitions) = effects(books.points)?;
    let by_check = committed.iter().chain(&rolled_back).filter(|listed| listed.is_by_check()).count();
    let lines = vec![
        Line::compare("orders in the shop's database", &numbers, count(numbers.iter().copied())),
        Line::compare(
            "transactions that are committed",
            &transactions,
            count(committed.iter().map(Listed::id)),
        ),
        Line::released("messages released to cart", &numbers, &admin.describe_topic(CART).await?),
        Line::compare("effects in the cart's database", &numbers, cart),
        Line::released("messages released to points", &numbers, &admin.describe_topic(POINTS).await?),
        Line::compare("effects in the points' database", &numbers, points),
    ];
    Ok(Account {
        lines,
        rolled_back: rolled_back.len() as u64,
        by_check: by_check as u64,
        repetitions: u64::from(cart_repetitions + points_repetitions),
        open: ids(&coordinator.transactions(Some("prepared")).await?),
        in_doubt: ids(&coordinator.transactions(Some("in-doubt")).await?),
    })
}

impl Account {
    /// Whether nothing is missing, double, unwanted or open.
    pub(crate) fn is_balanced(&self) -> bool {
        self.open.is_empty() && self.in_doubt.is_empty() && self.lines.iter().all(Line::is_balanced)
    }

    /// For people: the table, then every difference by its name.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{:36}{:>6}{:>9}{:>8}{:>10}\n", "", "count", "missing", "double", "unwanted");
        for line in &self.lines {
            let Line { what, count, missing, double, unwanted } = line;
            let (missing, double, unwanted) = (missing.len(), double.len(), unwanted.len());
            add(&mut text, format_args!("  {what:34}{count:>6}{missing:>9}{double:>8}{unwanted:>10}\n"));
        }
        let further = [
            ("transactions that are rolled back", self.rolled_back, "without a message, without an effect"),
            ("decided by a check", self.by_check, "the producer was dead, frozen or unheard"),
            ("deliveries that came again", self.repetitions, "recognised by their message id"),
            ("transactions still open", self.open.len() as u64, ""),
            ("transactions in doubt", self.in_doubt.len() as u64, ""),
        ];
        for (what, count, remark) in further {
            let line = format!("  {what:34}{count:>6}   {remark}");
            add(&mut text, format_args!("{}\n", line.trim_end()));
        }
        for line in &self.lines {
            name(&mut text, line.what, "missing", &line.missing);
            name(&mut text, line.what, "double", &line.double);
            name(&mut text, line.what, "unwanted", &line.unwanted);
        }
        name(&mut text, "transactions", "still open", &self.open);
        name(&mut text, "transactions", "in doubt", &self.in_doubt);
        text
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes everything");
}

fn name(text: &mut String, what: &str, how: &str, names: &[String]) {
    if !names.is_empty() {
        let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = if names.len() > NAMED_MAX { ", ..." } else { "" };
        add(text, format_args!("\n  {what}: {how}: {}{more}", shown.join(", ")));
    }
}

impl Line {
    /// One of each that is wanted, and nothing else.
    fn compare<T: Ord + Display>(what: &'static str, wanted: &BTreeSet<T>, found: BTreeMap<T, u32>) -> Self {
        let names = |some: &mut dyn Iterator<Item = &T>| some.map(ToString::to_string).collect();
        Self {
            what,
            count: found.values().map(|times| u64::from(*times)).sum(),
            missing: names(&mut wanted.iter().filter(|one| !found.contains_key(*one))),
            double: names(&mut found.iter().filter(|(_, times)| **times > 1).map(|(one, _)| one)),
            unwanted: names(&mut found.keys().filter(|one| !wanted.contains(*one))),
        }
    }

    /// Offsets are dense, so the ends of the queues count the messages; they have no names.
    fn released(what: &'static str, orders: &BTreeSet<u32>, topic: &Topic) -> Self {
        let count: u64 = topic.queues.iter().map(|queue| queue.next).sum();
        let wanted = orders.len() as u64;
        let offsets = |from: u64, to: u64| (from..to).map(|nth| format!("number {}", nth + 1)).collect();
        let (missing, unwanted) = (offsets(count, wanted), offsets(wanted, count));
        Self { what, count, missing, double: Vec::new(), unwanted }
    }

    fn is_balanced(&self) -> bool {
        self.missing.is_empty() && self.double.is_empty() && self.unwanted.is_empty()
    }
}

impl Listed {
    fn id(&self) -> String {
        self.transaction_id.clone()
    }

    fn is_by_check(&self) -> bool {
        self.decided_by.as_deref() == Some("check")
    }
}

fn ids(listed: &[Listed]) -> Vec<String> {
    listed.iter().map(Listed::id).collect()
}

fn count<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeMap<T, u32> {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

/// Numbers and transactions of all orders.
fn orders(file: &Path) -> rusqlite::Result<(BTreeSet<u32>, BTreeSet<String>)> {
    let shop = read_only(file)?;
    let mut rows = shop.prepare("SELECT number, transaction_id FROM orders")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?)))?;
    rows.collect()
}

/// How many effects each order had, and how many deliveries were recognised as repetitions.
fn effects(file: &Path) -> rusqlite::Result<(BTreeMap<u32, u32>, u32)> {
    let effects = read_only(file)?;
    let mut rows = effects.prepare("SELECT order_number, count(*) FROM effects GROUP BY order_number")?;
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let repetitions = effects.query_row("SELECT count(*) FROM repetitions", [], |row| row.get(0))?;
    Ok((rows.collect::<rusqlite::Result<_>>()?, repetitions))
}

fn read_only(file: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
}
