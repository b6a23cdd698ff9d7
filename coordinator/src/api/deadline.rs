//! The deadline that callers of gRPC may set: behind it nobody waits for the answer.
//!
//! Most callers end a call by themselves when their time is up. Whoever cannot any more, because its machine is
//! gone, must not be handed anything either.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, FutureExt};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;

/// Ends calls whose callers have stopped waiting.
#[derive(Clone)]
pub struct Deadlines(pub Routes);

type Answer = Result<Response<Body>, Infallible>;

impl Service<Request<Incoming>> for Deadlines {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<<Routes as Service<Request<Incoming>>>::Future, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Incoming>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let patience = patience(request.headers());
        let call = self.0.call(request);
        let Some(patience) = patience else { return Either::Left(call) };
        let answer = async move {
            let late = |_| Ok(Status::deadline_exceeded("the caller's time is up").into_http());
            tokio::time::timeout(patience, call).await.unwrap_or_else(late)
        };
        Either::Right(answer.boxed())
    }
}

/// How long the caller waits, as gRPC says it: digits and a unit.
pub(super) fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3_600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, expected) in [
            ("8760H", Some(Duration::from_secs(8_760 * 3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("23000m", Some(Duration::from_secs(23))),
            ("5u", Some(Duration::from_micros(5))),
            ("5n", Some(Duration::from_nanos(5))),
            ("5x", None),
            ("", None),
            ("H", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a legal header"));
            assert_eq!(patience(&headers), expected, "{text}");
        }
    }
}
