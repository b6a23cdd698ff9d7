//! Nobody is asked yet: the interface only.
#![expect(missing_docs, reason = "the interface only")]
use crate::clock::Clock;
use crate::store::*;
use halfmq_core::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
pub struct CheckerSettings {
    pub answer_timeout: Duration,
    pub in_flight_max: usize,
    pub per_second_max: u32,
    pub callbacks: CallbackSettings,
}
pub struct CallbackSettings {
    pub allow: Vec<String>,
    pub secret: Option<String>,
    pub timeout: Duration,
    pub in_flight_max: usize,
    pub batch_max: usize,
}
pub struct Checker {}
pub struct Asked {
    pub question: Question,
    pub messages: Vec<Message>,
}
pub struct Connection {
    pub questions: mpsc::Receiver<Asked>,
}
impl Checker {
    pub fn new(
        _s: Arc<dyn Store>,
        _c: Clock,
        _: CheckerSettings,
        _: Arc<dyn Fn(&Receipt) + core::marker::Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {})
    }
    pub fn connect(self: &Arc<Self>, _: ProducerGroup, _: Option<InstanceId>, _: bool) -> Connection {
        let (a, b) = mpsc::channel(1);
        std::mem::forget(a);
        Connection { questions: b }
    }
    pub async fn answer(&self, _: CheckAnswer) -> Result<(), Refused> {
        Ok(())
    }
    pub fn reachable(&self, _: &ProducerGroup) -> bool {
        false
    }
    pub fn admits(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
    pub fn callback_registered(&self, _: &ProducerGroup, _: &str) {}
    pub fn nudge(&self, _: Timestamp) {}
    pub fn connected(&self) -> usize {
        0
    }
    pub async fn run(self: Arc<Self>, s: impl Future<Output = ()>) {
        s.await
    }
}
