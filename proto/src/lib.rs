//! The wire of HalfMQ, and only the wire: types generated from the `.proto` files beside this crate.
//!
//! Deliberately absent: rules, defaults, conversions. Whoever speaks the protocol brings its own.

/// The native API, `halfmq.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated; the .proto files are its documentation"
)]
pub mod v1 {
    tonic::include_proto!("halfmq.v1");
}

/// The protocol of RocketMQ 5 clients, `apache.rocketmq.v2`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated; the .proto files are its documentation"
)]
pub mod rocketmq {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// The trailing metadata entry that names the [`v1::Reason`] of a refused call.
pub const REASON_METADATA: &str = "halfmq-reason";
