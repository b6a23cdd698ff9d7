//! Reads the server's `/metrics`.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much the journal has done so far.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Journal {
    pub(super) bytes: f64,
    pub(super) syncs: f64,
}

impl Journal {
    /// From the Prometheus text format; `None` when either is not in it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            bytes: sample(text, "halfmq_journal_written_bytes_total")?,
            syncs: sample(text, "halfmq_journal_syncs_total")?,
        })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { bytes: self.bytes - before.bytes, syncs: self.syncs - before.syncs }
    }
}

fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The page as it came, head included. HTTP/1.0, so that its end is the end of the connection.
pub(super) async fn fetch(address: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut page = String::new();
    connection.read_to_string(&mut page).await?;
    Ok(page)
}
