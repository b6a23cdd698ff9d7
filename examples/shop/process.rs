//! A service as the shop sees it: a process that is asked, halted, frozen, killed and started anew.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::Failure;
use crate::fail_point::Point;
use crate::order::Order;
use crate::pipe::{Answer, Command, Report};

/// A service that does not come up by then has failed.
const READY_TIME_MAX: Duration = Duration::from_secs(20);

/// One of the shop's services, through all its lives.
pub(crate) struct Service {
    name: &'static str,
    arguments: Vec<OsString>,
    log: PathBuf,
    /// Held while it is down, so that whoever asks meanwhile waits for the next life.
    life: Mutex<Life>,
    halts: Mutex<mpsc::UnboundedReceiver<String>>,
    halted: mpsc::UnboundedSender<String>,
}

struct Life {
    process: Child,
    commands: ChildStdin,
    waiting: Waiting,
}

/// Customers who wait for an answer.
#[derive(Clone, Default)]
struct Waiting(Arc<SyncMutex<HashMap<u32, oneshot::Sender<Answer>>>>);

impl Service {
    /// Starts this very program in another role. `role` is its sub-command.
    pub(crate) async fn start(
        name: &'static str,
        role: &str,
        endpoint: &str,
        database: &Path,
    ) -> Result<Self, Failure> {
        let arguments = vec![role.into(), endpoint.into(), database.into()];
        let log = database.with_file_name(format!("{name}.log").replace(' ', "-"));
        let (halted, halts) = mpsc::unbounded_channel();
        let life = Life::begin(&arguments, &log, halted.clone()).await?;
        Ok(Self { name, arguments, log, life: Mutex::new(life), halts: Mutex::new(halts), halted })
    }

    /// Asks for an order. `None`: the service died before it answered.
    pub(crate) async fn place(&self, order: Order) -> Result<Option<Answer>, Failure> {
        let (answer, answered) = oneshot::channel();
        {
            let mut life = self.life.lock().await;
            life.waiting.lock().insert(order.number, answer);
            let told = life.tell(&Command::Place(order)).await;
            told.map_err(|error| format!("{} died by itself ({error}), see its log", self.name))?;
        }
        Ok(answered.await.ok())
    }

    /// Whoever reaches this point next stands still and tells [`halted`](Self::halted).
    pub(crate) async fn halt(&self, point: Point) -> Result<(), Failure> {
        Ok(self.life.lock().await.tell(&Command::Halt(point)).await?)
    }

    /// Takes the order to halt back, and lets whoever stands still go on.
    pub(crate) async fn go_on(&self) -> Result<(), Failure> {
        Ok(self.life.lock().await.tell(&Command::GoOn).await?)
    }

    /// Waits until it stands still; returns the transaction or message with which it does.
    pub(crate) async fn halted(&self) -> String {
        self.halts.lock().await.recv().await.expect("this service holds a sender")
    }

    /// kill -9, and a new life.
    pub(crate) async fn kill(&self) -> Result<(), Failure> {
        let mut life = self.life.lock().await;
        life.process.kill().await?;
        life.waiting.lock().clear();
        *life = Life::begin(&self.arguments, &self.log, self.halted.clone()).await?;
        Ok(())
    }

    /// The process stands still as a whole, connections and all, as on an overloaded machine.
    pub(crate) async fn freeze(&self) -> Result<(), Failure> {
        self.signal("STOP").await
    }

    /// It goes on as if nothing had happened.
    pub(crate) async fn thaw(&self) -> Result<(), Failure> {
        self.signal("CONT").await
    }

    async fn signal(&self, signal: &str) -> Result<(), Failure> {
        let id = self.life.lock().await.process.id().ok_or("the process is gone")?;
        let kill = format!("kill -{signal} {id}");
        let status = tokio::process::Command::new("sh").args(["-c", &kill]).status().await?;
        if status.success() { Ok(()) } else { Err(format!("`{kill}` failed: {status}").into()) }
    }
}

impl Life {
    async fn begin(
        arguments: &[OsString],
        log: &Path,
        halted: mpsc::UnboundedSender<String>,
    ) -> Result<Self, Failure> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut process = tokio::process::Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let commands = process.stdin.take().expect("stdin is piped");
        let reports = process.stdout.take().expect("stdout is piped");
        let waiting = Waiting::default();
        let (ready, is_ready) = oneshot::channel();
        tokio::spawn(listen(reports, ready, waiting.clone(), halted));
        match tokio::time::timeout(READY_TIME_MAX, is_ready).await {
            Ok(Ok(())) => Ok(Self { process, commands, waiting }),
            Ok(Err(_closed)) => Err(format!("{arguments:?} ended before it was ready").into()),
            Err(_elapsed) => Err(format!("{arguments:?} is not ready after {READY_TIME_MAX:?}").into()),
        }
    }

    async fn tell(&mut self, command: &Command) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(command).expect("commands are made of text and numbers");
        line.push(b'\n');
        self.commands.write_all(&line).await
    }
}

/// Hears what one life reports. When it ends, whoever waits for an answer learns that there is none.
async fn listen(
    reports: ChildStdout,
    ready: oneshot::Sender<()>,
    waiting: Waiting,
    halted: mpsc::UnboundedSender<String>,
) {
    let mut ready = Some(ready);
    let mut lines = BufReader::new(reports).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line).expect("services speak this language") {
            Report::Ready => drop(ready.take().map(|ready| ready.send(()))),
            Report::Answer { number, answer } => {
                let customer = waiting.lock().remove(&number);
                drop(customer.map(|customer| customer.send(answer)));
            }
            Report::Halted { what } => drop(halted.send(what)),
        }
    }
    waiting.lock().clear();
}

impl Waiting {
    /// Only single operations happen under this lock, so a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
