//! Every story is a rule: the calls in order, and at the end of each line what is answered.
//!
//! Each is told several times, with a restart and other things that must not matter after every line.
//! `tick` moves time.

use crate::teller::{Between, Teller};

fn tell(file: &str, text: &str) {
    let stories: Vec<_> = text.split("\n# ").skip(1).collect();
    assert!(!stories.is_empty(), "{file} has no stories");
    let between = [Between::Nothing, Between::Restart, Between::Image, Between::Shelf];
    let told = stories.iter().flat_map(|story| between.map(|between| Teller::tell(story, between)));
    let failed: Vec<_> = told.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{file}\n\n# {}", failed.join("\n\n# "));
}

macro_rules! files {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                tell(stringify!($name), include_str!(concat!("stories/", stringify!($name), ".txt")));
            }
        )*
    };
}

files!(
    transactions,
    requests,
    checks,
    queues,
    consumption,
    delayed,
    dead_letters,
    message_groups,
    administration,
);
