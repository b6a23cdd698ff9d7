//! Database servers, one of each kind for all tests of this process: `tests/server` keeps one running until
//! its stdin ends, which happens however this process ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{collections::HashMap, env};

/// Exit code of `tests/server`: the programs are not there.
const NOT_INSTALLED: i32 = 3;

struct Started {
    url: String,
    _runs_until_this_ends: ChildStdin,
}

/// The URL of the server of this kind; `None` if its programs are not installed.
pub(crate) async fn url(kind: &'static str) -> Option<String> {
    tokio::task::spawn_blocking(move || started(kind)).await.expect("starting a server reports errors")
}

fn started(kind: &'static str) -> Option<String> {
    static SERVERS: Mutex<Option<HashMap<&str, Option<Started>>>> = Mutex::new(None);
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let server = servers.get_or_insert_default().entry(kind).or_insert_with(|| start(kind));
    server.as_ref().map(|server| server.url.clone())
}

#[expect(clippy::zombie_processes, reason = "a server ends with this process, which cannot wait for it")]
fn start(kind: &str) -> Option<Started> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("server");
    let mut command = Command::new(&script);
    command.arg(kind).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let mut url = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut url).expect("URLs are text");
    if url.is_empty() {
        let status = child.wait().expect("our own child can be waited for");
        let missing = status.code() == Some(NOT_INSTALLED);
        let must_be_there = env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(missing && !must_be_there, "tests/server {kind} ended with {status}");
        #[expect(clippy::print_stderr, reason = "a skip must not be overlooked")]
        {
            eprintln!("################ SKIPPED: {kind} is not installed");
        }
        return None;
    }
    let stdin = child.stdin.take().expect("stdin is piped");
    Some(Started { url: url.trim().to_owned(), _runs_until_this_ends: stdin })
}
