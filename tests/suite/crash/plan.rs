//! What each transaction of a campaign must come to: a pure function of the seed and the key.

use halfmq_proto::v1::Resolution;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The seed of a campaign.
#[derive(Clone, Copy)]
pub(super) struct Plans {
    pub(super) seed: u64,
}

/// One transaction, or one send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) outcome: Outcome,
    pub(super) told_by: ToldBy,
    /// 1 to 3.
    pub(super) messages: usize,
    /// Its last message is delayed.
    pub(super) delayed: bool,
}

/// What the local transaction came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Commit,
    Rollback,
}

/// How the coordinator learns of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ToldBy {
    /// The producer calls, and goes on calling until it is answered.
    Call,
    /// The producer calls once and does not care for the answer.
    OneCall,
    /// The producer falls silent after prepare; the checker must tell.
    Check,
    /// There is nothing to tell: a plain send.
    Send,
}

impl Plans {
    pub(super) fn of(self, key: &str) -> Plan {
        let key = key.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
        let mut rng = SmallRng::seed_from_u64(self.seed ^ key);
        let told_by = match rng.random_range(0..10) {
            0..=4 => ToldBy::Call,
            5 | 6 => ToldBy::OneCall,
            7 | 8 => ToldBy::Check,
            _ => ToldBy::Send,
        };
        let committed = told_by == ToldBy::Send || rng.random_ratio(7, 10);
        Plan {
            outcome: if committed { Outcome::Commit } else { Outcome::Rollback },
            told_by,
            messages: rng.random_range(1..=3),
            delayed: rng.random_ratio(1, 10),
        }
    }

    /// What the checker says; now and then it cannot tell yet.
    pub(super) fn answer(self, key: &str, checks_answered: u32) -> Resolution {
        match self.of(key).outcome {
            _ if checks_answered == 0 && key.ends_with('3') => Resolution::Unknown,
            Outcome::Commit => Resolution::Commit,
            Outcome::Rollback => Resolution::Rollback,
        }
    }
}
