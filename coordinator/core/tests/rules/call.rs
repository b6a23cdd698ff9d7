//! One line of a story: words, and `name=value` options.

use std::collections::HashMap;
use std::time::Duration;

/// The words of a call, and its `name=value` options.
pub(crate) struct Call<'a> {
    pub(crate) words: Vec<&'a str>,
    pub(crate) options: HashMap<&'a str, &'a str>,
}

impl<'a> Call<'a> {
    pub(crate) fn read(line: &'a str) -> Self {
        let (options, words): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        Self { words, options: options.into_iter().filter_map(|option| option.split_once('=')).collect() }
    }

    pub(crate) fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("word {at} is missing in {:?}", self.words))
    }

    pub(crate) fn option(&self, name: &str) -> Option<&'a str> {
        self.options.get(name).copied()
    }

    pub(crate) fn seconds(&self, name: &str, default: u64) -> Duration {
        self.option(name).map_or(Duration::from_secs(default), seconds)
    }

    pub(crate) fn number<N: std::str::FromStr>(&self, name: &str, default: N) -> N {
        self.option(name)
            .map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{name}={number}")))
    }
}

pub(crate) fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text:?} is no time")))
}
