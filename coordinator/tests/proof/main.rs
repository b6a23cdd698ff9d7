//! Proof that what the embedded engine acknowledges survives: power cuts, damage, full disks.
//!
//! Everything runs on a simulated disk, a clock that is moved by hand and a seed, so that a failure is the
//! same again with `HALFMQ_SEED=<seed>`.

#![expect(clippy::indexing_slicing, reason = "a test may panic, and says where")]

mod conformance;
mod damage;
mod full_disk;
mod index;
mod power_cut;
mod reclaim;
mod records;
mod sim_disk;
mod workload;
