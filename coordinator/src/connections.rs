//! Connections that speak HTTP/2: each is one task, together with all its calls.
//!
//! A group that became durable answers dozens of calls at once. If each were a task, each would be woken by
//! itself, and many would write by themselves; here one wake-up takes all their answers to the socket, and
//! what came in meanwhile to the store.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::api::deadline::Deadlines;
use crate::listener::Connection;
use crate::service::until;
use crate::wakes;

/// A peer that says nothing for so long is asked whether it lives, and may take as long to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Answers written at once. With all of them the peer would have nothing to do while the rest is made, and
/// we nothing while it reads them: those who call in turn would all wait for each other.
const ANSWERS_AT_ONCE: usize = 16;

/// Serves connections as they come. Once `stopping` is true no more are taken, and calls that are open end.
pub async fn serve(
    mut incoming: mpsc::Receiver<Connection>,
    routes: Routes,
    stopping: watch::Receiver<bool>,
) {
    let routes = Deadlines(routes.prepare());
    let mut open = JoinSet::new();
    let mut stop = pin!(until(stopping.clone()));
    loop {
        tokio::select! {
            connection = incoming.recv() => match connection {
                Some(connection) => drop(open.spawn(serve_one(connection, routes.clone(), stopping.clone()))),
                None => break,
            },
            // Forgets those that have ended.
            Some(_) = open.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(incoming);
    while open.join_next().await.is_some() {}
}

async fn serve_one(connection: Connection, routes: Deadlines, stopping: watch::Receiver<bool>) {
    let calls = Calls::default();
    let connection = http2::Builder::new(calls.begun.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        // As many as the peer likes: behind a proxy, long polls wait by the thousand on one connection.
        .max_concurrent_streams(None)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes));
    let mut served = Served { connection, calls, waker: None };
    let ended = tokio::select! {
        biased;
        ended = &mut served => ended,
        () = until(stopping) => {
            Pin::new(&mut served.connection).graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The calls of a connection.
#[derive(Default)]
struct Calls {
    begun: Begun,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Calls that the connection has begun and nobody has taken over yet.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Begun {
    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, call: F) {
        // A call that panics ends by itself: its stream is reset.
        let call = AssertUnwindSafe(call).catch_unwind().map(drop).boxed();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Calls {
    /// Has calls answered, so many at the most; returns how many were.
    fn answer(&mut self, max: usize, context: &mut Context<'_>) -> usize {
        let mut answered = || matches!(self.running.poll_next_unpin(context), Poll::Ready(Some(())));
        (0..max).take_while(|_| answered()).count()
    }

    /// Takes over what has begun; returns whether there was anything.
    fn take_over(&mut self) -> bool {
        let begun = self.begun.take();
        let any = !begun.is_empty();
        self.running.extend(begun);
        any
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // Each call holds what begins others, and so itself.
        drop(self.begun.take());
    }
}

/// A connection and its calls.
struct Served {
    connection: http2::Connection<TokioIo<Connection>, TowerToHyperService<Deadlines>, Begun>,
    calls: Calls,
    /// The task's waker as it was last, and the one that is woken instead.
    waker: Option<(Waker, Waker)>,
}

impl Future for Served {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let waker = this.waker(context.waker());
        wakes::in_bulk(|| this.turn(&mut Context::from_waker(&waker)))
    }
}

impl Served {
    /// Calls first: what they answer leaves in the same turn. What the connection then brings is begun.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        loop {
            let answered = self.calls.answer(ANSWERS_AT_ONCE, context);
            if let Poll::Ready(ended) = self.connection.poll_unpin(context) {
                return Poll::Ready(ended);
            }
            if !self.calls.take_over() && answered < ANSWERS_AT_ONCE {
                return Poll::Pending;
            }
        }
    }

    /// Whoever answers many calls at once wakes their connection once.
    fn waker(&mut self, of_task: &Waker) -> Waker {
        let (of_task, deferrable) = match self.waker.take() {
            Some((known, deferrable)) if known.will_wake(of_task) => (known, deferrable),
            _ => (of_task.clone(), wakes::deferrable(of_task.clone())),
        };
        let waker = deferrable.clone();
        self.waker = Some((of_task, deferrable));
        waker
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use hyper_util::rt::TokioExecutor;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tonic::body::Body;
    use tonic::codegen::{Service, http};
    use tonic::server::NamedService;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::listener;

    /// Longest time that a test waits for anything that must come.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Does what the path of a call says.
    #[derive(Clone)]
    struct Doing {
        /// Somebody has come this far.
        waiting: mpsc::UnboundedSender<()>,
        gate: Arc<Semaphore>,
    }

    impl NamedService for Doing {
        const NAME: &'static str = "story.Calls";
    }

    impl Service<http::Request<Body>> for Doing {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let this = self.clone();
            async move {
                match request.uri().path() {
                    "/story.Calls/wait" => {
                        this.waiting.send(()).expect("the story listens");
                        drop(this.gate.acquire().await);
                    }
                    "/story.Calls/panic" => panic!("as the story wants it"),
                    _ => {}
                }
                Ok(http::Response::new(Body::empty()))
            }
            .boxed()
        }
    }

    struct Story {
        address: SocketAddr,
        channel: Channel,
        waiting: mpsc::UnboundedReceiver<()>,
        gate: Arc<Semaphore>,
        stop: watch::Sender<bool>,
        served: JoinHandle<()>,
    }

    type Answer = Result<http::StatusCode, tonic::transport::Error>;

    impl Story {
        async fn begin() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            let incoming = listener::incoming(listener, listener::tls(None).expect("a certificate"));
            let (saying, waiting) = mpsc::unbounded_channel();
            let gate = Arc::new(Semaphore::new(0));
            let (stop, stopping) = watch::channel(false);
            let calls = Doing { waiting: saying, gate: Arc::clone(&gate) };
            let served = tokio::spawn(serve(incoming, Routes::new(calls), stopping));
            let channel = Self::connect(address).await.expect("it is served");
            Self { address, channel, waiting, gate, stop, served }
        }

        async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
            Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await
        }

        fn call(&self, what: &str) -> JoinHandle<Answer> {
            let request = self.request(what).body(Body::empty()).expect("a request");
            let mut channel = self.channel.clone();
            tokio::spawn(async move {
                std::future::poll_fn(|context| channel.poll_ready(context)).await?;
                Ok(channel.call(request).await?.status())
            })
        }

        fn request(&self, what: &str) -> http::request::Builder {
            http::Request::post(format!("http://{}/story.Calls/{what}", self.address))
        }

        /// So many calls of one connection wait for the gate.
        async fn waiting(&mut self, count: usize) -> Vec<JoinHandle<Answer>> {
            let calls = (0..count).map(|_| self.call("wait")).collect();
            for _ in 0..count {
                within(self.waiting.recv()).await.expect("the service lives");
            }
            calls
        }
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, future).await.expect("it does not take for ever")
    }

    async fn all_are_fine(calls: Vec<JoinHandle<Answer>>) {
        for call in calls {
            let answer = within(call).await.expect("no panic");
            assert_eq!(answer.expect("an answer"), http::StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn calls_of_one_connection_do_not_wait_for_each_other() {
        let mut story = Story::begin().await;
        // More than are written at once, and not a multiple of it.
        let waiting = story.waiting(ANSWERS_AT_ONCE * 2 + 5).await;
        all_are_fine(vec![story.call("go")]).await;
        assert!(waiting.iter().all(|call| !call.is_finished()), "nobody opened the gate");
        story.gate.close();
        all_are_fine(waiting).await;
    }

    #[tokio::test]
    async fn a_call_that_panics_takes_no_other_with_it() {
        let mut story = Story::begin().await;
        let waiting = story.waiting(3).await;
        let panicked = within(story.call("panic")).await.expect("it is the server that panics");
        assert!(panicked.is_err(), "there is no answer: {panicked:?}");
        story.gate.close();
        all_are_fine(waiting).await;
    }

    #[tokio::test]
    async fn a_call_ends_when_the_time_of_its_caller_is_up() {
        let mut story = Story::begin().await;
        // A client that does not look at the time itself.
        let stream = tokio::net::TcpStream::connect(story.address).await.expect("it is served");
        let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = client.await.expect("it is served");
        tokio::spawn(connection);
        let late = story.request("wait").header("grpc-timeout", "1m").body(Body::empty()).expect("a request");
        let answer = within(client.send_request(late)).await.expect("an answer");
        within(story.waiting.recv()).await.expect("it had begun");
        let status = tonic::Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        all_are_fine(vec![story.call("go")]).await;
    }

    /// hyper gives each call what begins others, so a call that nobody has taken over holds itself.
    #[test]
    fn calls_that_were_just_begun_end_with_their_connection() {
        let calls = Calls::default();
        let begun = calls.begun.clone();
        let left = Arc::downgrade(&begun.0);
        let holds_itself = begun.clone();
        begun.execute(async move {
            std::future::pending::<()>().await;
            drop(holds_itself);
        });
        drop((calls, begun));
        assert_eq!(left.strong_count(), 0);
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_ends() {
        let mut story = Story::begin().await;
        let given_up = story.waiting(1).await;
        given_up.iter().for_each(JoinHandle::abort);
        // The service is gone when the last call that holds it is.
        story.stop.send_replace(true);
        within(&mut story.served).await.expect("it ends");
        assert!(within(story.waiting.recv()).await.is_none());
    }

    #[tokio::test]
    async fn open_calls_end_before_it_stops_and_no_more_are_taken() {
        let mut story = Story::begin().await;
        let waiting = story.waiting(2).await;
        story.stop.send_replace(true);
        let refused = async { while Story::connect(story.address).await.is_ok() {} };
        within(refused).await;
        assert!(!story.served.is_finished(), "two calls are open");
        story.gate.close();
        all_are_fine(waiting).await;
        within(&mut story.served).await.expect("it ends");
    }
}
