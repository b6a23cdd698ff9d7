//! The doors: each translates its protocol to the verbs of the service, and back.

pub mod deadline;
pub mod halfmq;
pub mod http;
pub mod rocketmq;
