//! One port for plaintext and TLS: the first byte of a connection tells which it is.
//!
//! Some RocketMQ clients speak TLS unless they are told not to, and take any certificate; others do not.
//! Without a configured certificate a self-signed one is made at the start, which protects against those
//! who listen, not against those who pose as the server.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::server::TlsStream;

/// The first byte of a TLS connection, a handshake record; HTTP/2 begins with a letter.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a new connection may take to say its first word and to shake hands.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// After an accept that failed, most likely for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that are open and not yet served.
const WAITING_MAX: usize = 128;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or holds something else.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key do not go together, or cannot be made.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// TLS with the certificate chain and the key in these PEM files, or with a self-signed one.
///
/// # Errors
/// [`TlsError`].
pub fn tls(files: Option<(&Path, &Path)>) -> Result<TlsAcceptor, TlsError> {
    let (chain, key) = match files {
        Some((chain, key)) => (read_chain(chain)?, read_key(key)?),
        None => self_signed()?,
    };
    let unusable = |error: tokio_rustls::rustls::Error| TlsError::Unusable(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |why: String| TlsError::File { path: path.to_owned(), why };
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain {
        Ok(chain) if chain.is_empty() => Err(bad("it holds no certificate (PEM)".to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| TlsError::File { path: path.to_owned(), why: error.to_string() })
}

fn self_signed() -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made =
        rcgen::generate_simple_self_signed(names).map_err(|error| TlsError::Unusable(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Connection {
    /// As it came.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections as they come, once it is known what they speak. Slow ones do not hold up others.
#[must_use]
pub fn incoming(listener: TcpListener, tls: TlsAcceptor) -> mpsc::Receiver<Connection> {
    let (ready, connections) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(greet(stream, tls.clone(), ready.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    connections
}

async fn greet(stream: TcpStream, tls: TlsAcceptor, ready: mpsc::Sender<Connection>) {
    match tokio::time::timeout(GREETING_MAX, recognise(stream, tls)).await {
        // Nobody serves any more if this cannot be handed over.
        Ok(Ok(connection)) => drop(ready.send(connection).await),
        // Such as a port scan.
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it began"),
        Err(_) => tracing::debug!("a connection said nothing"),
    }
}

async fn recognise(stream: TcpStream, tls: TlsAcceptor) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if first == [TLS_HANDSHAKE] => Ok(Connection::Tls(Box::new(tls.accept(stream).await?))),
        _ => Ok(Connection::Plain(stream)),
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
