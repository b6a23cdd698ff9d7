//! The real coordinator: built from this repository, started on a folder of its own, killed, started
//! again on the same data and ports, and asked what it knows through its own command line.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::Failure;

/// From launch to the line that tells it serves.
const READY_TIME_MAX: Duration = Duration::from_secs(20);
/// While it was dead, somebody may have picked its port for an outgoing connection.
const RESTART_TIME_MAX: Duration = Duration::from_secs(10);
/// More transactions than this are not listed.
const LISTED_MAX: &str = "1000000";

pub(crate) struct Coordinator {
    binary: PathBuf,
    folder: PathBuf,
    addresses: Addresses,
    process: Child,
}

/// What `halfmq serve --json` says when it is ready.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A transaction in the coordinator's listing.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    pub(crate) transaction_id: String,
    /// Who decided it: a call, a check or a policy; nobody while it is open.
    pub(crate) decided_by: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    transactions: Vec<Listed>,
    more: bool,
}

/// Builds `halfmq` in the profile of this program, into the same target folder.
pub(crate) async fn build() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let profile_folder = own.ancestors().nth(2).ok_or("an example lies in target/PROFILE/examples")?;
    let target = profile_folder.parent().ok_or("a profile's folder lies in the target folder")?;
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => return Err(format!("{} names no profile", profile_folder.display()).into()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let status = Command::new(cargo)
        .args(["build", "--package", "halfmq-coordinator", "--bin", "halfmq", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .await?;
    if !status.success() {
        return Err("the coordinator does not build".into());
    }
    Ok(profile_folder.join("halfmq").with_extension(std::env::consts::EXE_EXTENSION))
}

impl Coordinator {
    /// Starts it on free ports, with its data and log in `folder`.
    pub(crate) async fn start(binary: PathBuf, folder: &Path) -> Result<Self, Failure> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, addresses) = launch(&binary, folder, Addresses { grpc: any, http: any }).await?;
        Ok(Self { binary, folder: folder.to_owned(), addresses, process })
    }

    /// Where the gRPC API listens.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.addresses.grpc
    }

    /// kill -9, and a start on the same data and ports.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        self.process.kill().await?;
        let deadline = Instant::now() + RESTART_TIME_MAX;
        loop {
            match launch(&self.binary, &self.folder, self.addresses).await {
                Ok((process, _)) => {
                    self.process = process;
                    return Ok(());
                }
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Transactions in this state, by `halfmq tx list`; `None` means all open ones.
    pub(crate) async fn transactions(&self, state: Option<&str>) -> Result<Vec<Listed>, Failure> {
        let mut list = Command::new(&self.binary);
        list.args(["tx", "list", "--json", "--limit", LISTED_MAX, "--endpoint"]);
        list.arg(format!("http://{}", self.addresses.grpc));
        list.args(state.into_iter().flat_map(|state| ["--state", state]));
        let output = list.output().await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("`halfmq tx list` failed: {said}").into());
        }
        let listing: Listing = serde_json::from_slice(&output.stdout)?;
        if listing.more {
            return Err(format!("more than {LISTED_MAX} transactions").into());
        }
        Ok(listing.transactions)
    }
}

/// One life of the process; returns when it serves.
async fn launch(binary: &Path, folder: &Path, addresses: Addresses) -> Result<(Child, Addresses), Failure> {
    let log = folder.join("coordinator.log");
    let flag = |name: &str, value: OsString| [OsString::from(name), value];
    let mut process = Command::new(binary)
        .args(["serve", "--json"])
        .args(flag("--grpc", addresses.grpc.to_string().into()))
        .args(flag("--http", addresses.http.to_string().into()))
        .args(flag("--data", folder.join("coordinator").into()))
        // A frozen producer is given up sooner than by default, and another one is asked.
        .args(["--set", "checks.answer_timeout=1s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::options().create(true).append(true).open(&log)?)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = process.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines();
    let first = timeout(READY_TIME_MAX, lines.next_line()).await;
    let first = first.map_err(|_elapsed| format!("the coordinator is not ready, see {}", log.display()))?;
    let first = first?.ok_or_else(|| format!("the coordinator ended, see {}", log.display()))?;
    Ok((process, serde_json::from_str(&first)?))
}
