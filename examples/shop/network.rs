//! A network that loses answers: a proxy on loopback that cuts a connection when the request went
//! through and the answer is on its way back. The caller cannot know whether its call took effect.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Network {
    address: SocketAddr,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    to_lose: AtomicU32,
    lost: AtomicU32,
}

impl Network {
    /// Carries everything between its own address and `coordinator`, for as long as the runtime lives.
    pub(crate) async fn start(coordinator: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, coordinator, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, faults })
    }

    /// Where services find the coordinator.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next answer will not arrive, nor will anything after it on that connection.
    pub(crate) fn lose_next_answer(&self) {
        self.faults.to_lose.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers were lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.faults.lost.load(Ordering::Relaxed)
    }
}

impl Faults {
    /// Whether this answer is to be lost.
    fn strike(&self) -> bool {
        let one_less = |to_lose: u32| to_lose.checked_sub(1);
        let struck = self.to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        if struck {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        struck
    }
}

/// One connection. It ends, in both directions, when either side ends or an answer is lost.
async fn carry(client: TcpStream, coordinator: SocketAddr, faults: Arc<Faults>) -> io::Result<()> {
    let server = TcpStream::connect(coordinator).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut requests, to_client) = client.into_split();
    let (answers, mut to_server) = server.into_split();
    tokio::select! {
        copied = tokio::io::copy(&mut requests, &mut to_server) => copied.map(drop),
        carried = carry_answers(answers, to_client, &faults) => carried,
    }
}

async fn carry_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let (bytes, _) = buffer.split_at(length);
        if bytes.is_empty() || (frames.begin_an_answer(bytes) && faults.strike()) {
            return Ok(());
        }
        to.write_all(bytes).await?;
    }
}

/// Follows HTTP/2 frames (RFC 9113, section 4.1) through a stream of bytes.
#[derive(Default)]
struct Frames {
    /// The nine octets of a frame's header, as far as they have come.
    head: Vec<u8>,
    /// Octets of the payload that have not.
    payload_left: usize,
}

const HEAD_BYTES: usize = 9;
const TYPE_HEADERS: u8 = 1;

impl Frames {
    /// Whether an answer begins in these bytes; settings, pings and window updates are none.
    fn begin_an_answer(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            let wanted = if self.payload_left > 0 { self.payload_left } else { HEAD_BYTES - self.head.len() };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.payload_left > 0 {
                self.payload_left -= now.len();
                continue;
            }
            self.head.extend_from_slice(now);
            if let [high, middle, low, kind, _, _, _, _, _] = *self.head {
                self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                found |= kind == TYPE_HEADERS;
                self.head.clear();
            }
        }
        found
    }
}
