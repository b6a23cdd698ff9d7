//! Places where a service hooks in tracing, signing or metrics.
//!
//! Interceptors run in the order of their list before, and in the opposite order after. They are
//! called on the way, so they must not block.

use crate::consumer::HandlerOutcome;
use crate::delivery::Delivery;
use crate::error::{DecisionError, Error};
use crate::ids::{ReceiptHandle, TransactionId};
use crate::message::Message;
use crate::receipt::{DecisionReceipt, Receipt};

/// Hooks around prepare, send and decision.
///
/// ```
/// use halfmq_client::{Message, ProducerInterceptor};
///
/// struct Origin;
///
/// impl ProducerInterceptor for Origin {
///     fn before_prepare(&self, messages: &mut [Message]) {
///         for message in messages {
///             message.headers.insert("origin".into(), "shop".into());
///         }
///     }
/// }
/// ```
pub trait ProducerInterceptor: Send + Sync + 'static {
    /// Before half messages leave; may change them.
    fn before_prepare(&self, _messages: &mut [Message]) {}

    /// After a commit or rollback was answered, or was not.
    fn after_decision(&self, _id: &TransactionId, _result: Result<&DecisionReceipt, &DecisionError>) {}

    /// Before messages without a transaction leave; may change them.
    fn before_send(&self, _messages: &mut [Message]) {}

    /// After a send was answered, or was not.
    fn after_send(&self, _result: Result<&[Receipt], &Error>) {}
}

/// Hooks around the handler of a [`Consumer`](crate::Consumer). A panic in `before_handler`
/// or `after_handler` counts as the handler's.
pub trait ConsumerInterceptor: Send + Sync + 'static {
    /// When the delivery came, in the order in which deliveries come; handlers run side by side.
    fn received(&self, _delivery: &Delivery) {}

    /// Before the handler sees the delivery; may change it.
    fn before_handler(&self, _delivery: &mut Delivery) {}

    /// After the handler, before the delivery is acked or given back.
    fn after_handler(&self, _delivery: &Delivery, _outcome: &HandlerOutcome) {}

    /// A handled delivery could not be acked, so it will be delivered again.
    fn ack_failed(&self, _receipt: &ReceiptHandle, _error: &Error) {}
}
