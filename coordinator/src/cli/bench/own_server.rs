//! A server of the bench's own: this very binary, in a process of its own, gone when the run is over.

use super::home::Home;
use crate::cli::failure::Failure;
use crate::clock::Clock;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) struct OwnServer {
    process: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    launched: Instant,
    ready_after: Duration,
    home: Home,
}

impl OwnServer {
    /// Starts it and waits until it serves.
    pub(super) fn start(home: Home) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Bench(format!("the server to measure did not start: {why}"));
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let began = Clock::stopwatch();
        let mut process = Command::new(program)
            .args(["serve", "--json", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(home.path())
            .args(["--set", "log.filter=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut line = String::new();
        if let Some(stdout) = &mut process.stdout {
            // It prints one line, once it serves.
            BufReader::new(stdout).read_line(&mut line).map_err(|error| failed(error.to_string()))?;
        }
        let ready_after = began.elapsed();
        let Some((grpc, http)) = addresses(&line) else {
            return Err(failed("see its log above".to_owned()));
        };
        Ok(Self { process, grpc, http, launched: began, ready_after, home })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.http
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// From launch to the first answer it could have given.
    pub(super) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    pub(super) fn launched(&self) -> Instant {
        self.launched
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // Nothing acknowledged is lost by this, and nobody else knows its address.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub(super) fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let bound: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| bound.get(name)?.as_str()?.parse().ok();
    Some((address("grpc")?, address("http")?))
}
