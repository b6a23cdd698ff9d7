//! One real coordinator process: its data, its doors, its life and its deaths.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fs};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::driver::Driver;
use crate::{binary, within};

/// Lines of the log that a failed test shows.
const TAIL_LINES: usize = 40;
/// Any free loopback port.
const ANY_PORT: &str = "127.0.0.1:0";

/// A check schedule that a test can wait for.
pub const CHECKS_SOON: [(&str, &str); 4] = [
    ("HALFMQ_CHECKS__FIRST_AFTER", "200ms"),
    ("HALFMQ_CHECKS__INTERVAL", "200ms"),
    ("HALFMQ_CHECKS__INTERVAL_MAX", "400ms"),
    ("HALFMQ_CHECKS__ANSWER_TIMEOUT", "500ms"),
];

/// A running (or, between death and restart, dead) `halfmq serve` with a data folder of its own.
/// Dropping it kills the process and removes the data.
pub struct Coordinator {
    process: Option<Process>,
    environment: Vec<(String, String)>,
    addresses: Addresses,
    starts: usize,
    home: TempDir,
}

struct Process {
    child: Child,
    /// Kept open: a server that writes to a closed pipe would die of it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

#[derive(Clone)]
struct Addresses {
    grpc: String,
    http: String,
}

impl Coordinator {
    /// Starts the binary with its default settings on free loopback ports.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts the binary with these `HALFMQ_…` variables.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut coordinator = Self {
            process: None,
            environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            addresses: Addresses { grpc: ANY_PORT.into(), http: ANY_PORT.into() },
            starts: 0,
            home: TempDir::with_prefix("halfmq-test-").expect("a temporary folder can be made"),
        };
        coordinator.launch().await;
        coordinator
    }

    /// Clients of its gRPC API.
    #[must_use]
    pub fn driver(&self) -> Driver {
        Driver::new(&self.addresses.grpc)
    }

    /// Host and port of the gRPC API.
    #[must_use]
    pub fn grpc(&self) -> &str {
        &self.addresses.grpc
    }

    /// The URL of its gRPC API.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addresses.grpc)
    }

    /// Runs a client command of the binary against it: exit code, stdout, stderr.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(binary::path());
        command
            .args(arguments)
            .env("HALFMQ_ENDPOINT", self.endpoint())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within("the command", command.output()).await.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Host and port of the HTTP API.
    #[must_use]
    pub fn http(&self) -> &str {
        &self.addresses.http
    }

    /// The folder its store lives in.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// What the newest process wrote to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends the process the hard way, as a power cut would: it gets no chance to write anything.
    ///
    /// # Panics
    /// If it is not running.
    pub async fn kill9(&mut self) {
        let mut process = self.process.take().expect("it is running");
        process.child.start_kill().expect("our own child can be killed");
        let status = within("the killed process", process.child.wait()).await;
        assert!(!status.expect("our own child can be waited for").success(), "it had ended before the kill");
    }

    /// Asks the process to stop, and waits.
    ///
    /// # Panics
    /// If it is not running, or does not end with exit code 0.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("it is running");
        let id = process.child.id().and_then(|id| i32::try_from(id).ok()).expect("it was not waited for yet");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("our own child can be signalled");
        let status = within("a clean stop", process.child.wait()).await.expect("a child can be waited for");
        assert!(status.success(), "asked to stop, it ended with {status}:\n{}", self.tail());
    }

    /// Starts a dead coordinator again, on the same data and the same ports; stops it before if it runs.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.stop().await;
        }
        self.launch().await;
    }

    /// Starts a dead coordinator on the same data and kills it after `moment`, be it ready by then or not.
    ///
    /// # Panics
    /// If it ended by itself.
    pub async fn kill9_while_starting(&mut self, moment: Duration) {
        let mut child = self.spawn(&self.addresses.clone());
        if let Ok(ended) = tokio::time::timeout(moment, child.wait()).await {
            panic!("it ended by itself with {ended:?}:\n{}", self.tail());
        }
        child.start_kill().expect("our own child can be killed");
        within("the killed process", child.wait()).await.expect("a child can be waited for");
    }

    /// Starts another process on the same data, which must refuse; returns what it said.
    ///
    /// # Panics
    /// If it starts, or ends with exit code 0.
    pub async fn refused_start(&mut self) -> String {
        let anywhere = Addresses { grpc: ANY_PORT.into(), http: ANY_PORT.into() };
        let mut child = self.spawn(&anywhere);
        let mut stdout = lines(&mut child);
        let first = within("the refusal", stdout.next_line()).await.expect("stdout is text");
        assert_eq!(first, None, "it should have refused to start:\n{}", self.tail());
        let status: ExitStatus =
            within("the refusal", child.wait()).await.expect("a child can be waited for");
        assert_eq!(status.code(), Some(1), "a refused start ends with exit code 1:\n{}", self.tail());
        self.log()
    }

    async fn launch(&mut self) {
        let mut child = self.spawn(&self.addresses.clone());
        let mut stdout = lines(&mut child);
        let line = within("the addresses", stdout.next_line()).await.expect("stdout is text");
        let Some(addresses) = line.as_deref().and_then(Addresses::parse) else {
            panic!("instead of its addresses it printed {line:?}:\n{}", self.tail());
        };
        self.addresses = addresses;
        self.process = Some(Process { child, _stdout: stdout });
    }

    fn spawn(&mut self, listen: &Addresses) -> Child {
        self.starts += 1;
        let log = fs::File::create(self.log_file()).expect("the temporary folder is writable");
        let mut command = Command::new(binary::path());
        command.args(["serve", "--json", "--grpc", &listen.grpc, "--http", &listen.http, "--data"]);
        command.arg(self.data());
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HALFMQ_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", binary::path().display()))
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join(format!("stderr.{}.log", self.starts))
    }

    fn tail(&self) -> String {
        tail(&self.log_file())
    }
}

impl Addresses {
    fn parse(line: &str) -> Option<Self> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let address = |door| Some(line.get(door)?.as_str()?.to_owned());
        Some(Self { grpc: address("grpc")?, http: address("http")? })
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the story of a failed test is for people")]
            {
                eprintln!("--- the coordinator's last words (start {}):\n{}", self.starts, self.tail());
            }
        }
    }
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("stdout is piped")).lines()
}

fn tail(file: &Path) -> String {
    let log = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}
