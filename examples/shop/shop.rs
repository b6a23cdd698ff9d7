//! The story from the first customer to the account.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells a story")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use halfmq_client::{Admin, Client};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::account::{self, Books};
use crate::chaos::{Chaos, Tally};
use crate::coordinator::{self, Coordinator};
use crate::customers::{self, Told};
use crate::network::Network;
use crate::order::{CART, POINTS};
use crate::process::Service;
use crate::{Failure, effects, shop_database};

/// Queues of each topic.
const QUEUES: u32 = 4;
/// Every customer is served by then, or the shop has failed.
const SERVE_TIME_MAX: Duration = Duration::from_secs(120);
/// Everything that is under way has arrived by then, or it never will.
const QUIET_TIME_MAX: Duration = Duration::from_secs(60);

/// Files of the story; they vanish if it ends well.
struct Files {
    folder: TempDir,
    shop: PathBuf,
    cart: PathBuf,
    points: PathBuf,
}

/// Builds, sells, breaks, and tells what came of it.
pub(crate) async fn run(orders: u32) -> Result<ExitCode, Failure> {
    let binary = coordinator::build().await?;
    let files = Files::create(orders)?;
    println!(
        "\nA shop of five processes: two order services, cart, points, and the coordinator.\n\
         {orders} customers order while everything is broken on purpose.\n"
    );
    let told = tokio::select! {
        told = sell(orders, binary, &files) => told,
        interrupted = tokio::signal::ctrl_c() => Err(interrupted.map_or_else(Failure::from, |()| "interrupted".into())),
    };
    if !matches!(told, Ok(true)) {
        eprintln!("databases and logs are kept in {}", files.folder.keep().display());
    }
    told.map(|balanced| if balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Files {
    fn create(orders: u32) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("halfmq-shop-").tempdir()?;
        let file = |name: &str| folder.path().join(name);
        let (shop, cart, points) = (file("shop.db"), file("cart.db"), file("points.db"));
        shop_database::create(&shop, orders)?;
        effects::create(&cart)?;
        effects::create(&points)?;
        Ok(Self { folder, shop, cart, points })
    }

    fn books(&self) -> Books<'_> {
        Books { shop: &self.shop, cart: &self.cart, points: &self.points }
    }
}

/// Returns whether the account balances.
async fn sell(orders: u32, binary: PathBuf, files: &Files) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut coordinator = Coordinator::start(binary, files.folder.path()).await?;
    let admin = Client::connect(format!("http://{}", coordinator.grpc()))?.admin();
    admin.create_topic(CART, QUEUES).await?;
    admin.create_topic(POINTS, QUEUES).await?;
    let to_orders = Network::start(coordinator.grpc()).await?;
    let to_consumers = Network::start(coordinator.grpc()).await?;
    let desks = [
        desk("order service 1", &to_orders, &files.shop).await?,
        desk("order service 2", &to_orders, &files.shop).await?,
    ];
    let consumers = to_consumers.endpoint();
    let cart = Service::start("cart service", "cart-service", &consumers, &files.cart).await?;
    let points = Service::start("points service", "points-service", &consumers, &files.points).await?;

    let bar = bar(orders);
    let (door, served) = customers::queue_up(orders, desks.to_vec(), bar.clone());
    let chaos = Chaos {
        coordinator: &mut coordinator,
        desks: &desks,
        cart: &cart,
        points: &points,
        to_orders: &to_orders,
        to_consumers: &to_consumers,
        shop_file: &files.shop,
    };
    let both = async { tokio::try_join!(chaos.rage(door, orders), served) };
    let both = timeout(SERVE_TIME_MAX, both).await;
    let (tally, told) = both.map_err(|_elapsed| "the customers are not served in time")??;
    until_quiet(&coordinator, &admin, &bar).await?;
    bar.finish_and_clear();

    let account = account::draw_up(&files.books(), &coordinator, &admin).await?;
    tell(told, &tally);
    println!("Account, from the three databases and the coordinator's own listing\n{}", account.render());
    let verdict = if account.is_balanced() {
        "Every order has its effects, exactly once."
    } else {
        "THE ACCOUNT DOES NOT BALANCE."
    };
    println!("{verdict} {:.1} s", started.elapsed().as_secs_f64());
    Ok(account.is_balanced())
}

async fn desk(name: &'static str, network: &Network, shop: &Path) -> Result<Arc<Service>, Failure> {
    Ok(Arc::new(Service::start(name, "order-service", &network.endpoint(), shop).await?))
}

/// Drawn on a terminal only.
fn bar(orders: u32) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} customers served, {elapsed}  {msg}");
    ProgressBar::new(orders.into()).with_style(style.expect("the template is correct"))
}

/// Waits until no transaction is open and nothing is undelivered. Out of time, the account will tell.
async fn until_quiet(coordinator: &Coordinator, admin: &Admin, bar: &ProgressBar) -> Result<(), Failure> {
    let deadline = Instant::now() + QUIET_TIME_MAX;
    loop {
        let open = coordinator.transactions(None).await?.len();
        let undelivered = undelivered(admin, CART).await? + undelivered(admin, POINTS).await?;
        if (open == 0 && undelivered == 0) || Instant::now() >= deadline {
            return Ok(());
        }
        bar.set_message(format!("{open} transactions open, {undelivered} messages under way"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn undelivered(admin: &Admin, topic: &str) -> Result<u64, Failure> {
    let groups = admin.describe_topic(topic).await?.groups;
    Ok(groups.iter().map(|group| group.undelivered).sum())
}

fn tell(told: Told, tally: &Tally) {
    let Told { placed, sold_out, repeated } = told;
    println!(
        "Customers: {placed} were told \"placed\", {sold_out} \"sold out\"; {repeated} orders had to be repeated.\n"
    );
    println!("Broken on purpose");
    let mut sufferer = "";
    for (disaster, times) in tally {
        let (who, what) = disaster.describe();
        let shown = if who == sufferer { "" } else { who };
        sufferer = who;
        println!("  {shown:16}{what:58}{times:>4}");
    }
    println!();
}
