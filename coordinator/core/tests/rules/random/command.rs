//! What is drawn at random.

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(super) enum Command {
    Prepare { messages: Vec<Kind> },
    Send { messages: Vec<Kind> },
    Decide { which: usize, commit: bool },
    Check { commit: Option<bool> },
    Receive { group: usize, max: usize },
    Ack { which: usize },
    Retry { which: usize },
    Extend { which: usize },
    Wait { seconds: u64 },
    Replay { group: usize },
    Crash,
    Image,
    Shelve { entries: usize },
    ShelveDelayed { messages: usize, pages: u32 },
    Recall { which: usize },
    Carry { from: u64, bytes: u64 },
}

#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) topic: usize,
    pub(super) message_group: Option<u8>,
    /// Seconds.
    pub(super) delay: Option<u64>,
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..2_usize, proptest::option::of(0..2_u8), proptest::option::weighted(0.3, 1..120_u64))
        .prop_map(|(topic, message_group, delay)| Kind { topic, message_group, delay })
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let messages = || proptest::collection::vec(kind(), 1..4);
    prop_oneof![
        4 => messages().prop_map(|messages| Command::Prepare { messages }),
        2 => messages().prop_map(|messages| Command::Send { messages }),
        5 => (0..8_usize, proptest::bool::weighted(0.7)).prop_map(|(which, commit)| Command::Decide { which, commit }),
        2 => proptest::option::of(any::<bool>()).prop_map(|commit| Command::Check { commit }),
        5 => (0..2_usize, 1..5_usize).prop_map(|(group, max)| Command::Receive { group, max }),
        4 => (0..8_usize).prop_map(|which| Command::Ack { which }),
        2 => (0..8_usize).prop_map(|which| Command::Retry { which }),
        1 => (0..8_usize).prop_map(|which| Command::Extend { which }),
        2 => (0..40_u64).prop_map(|seconds| Command::Wait { seconds }),
        1 => (0..2_usize).prop_map(|group| Command::Replay { group }),
        1 => Just(Command::Crash),
        1 => Just(Command::Image),
        2 => (1..4_usize).prop_map(|entries| Command::Shelve { entries }),
        2 => (1..4_usize, 1..4_u32)
            .prop_map(|(messages, pages)| Command::ShelveDelayed { messages, pages }),
        1 => (0..8_usize).prop_map(|which| Command::Recall { which }),
        1 => (0..40_u64, 1..40_u64).prop_map(|(from, bytes)| Command::Carry { from, bytes }),
    ]
}
