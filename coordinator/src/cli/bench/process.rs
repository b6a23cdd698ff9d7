//! CPU time and memory of a process, as Linux tells them; elsewhere they are left out.

use std::fs;
use std::time::Duration;

/// Ticks of `/proc/PID/stat` in a second: the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    /// In user and kernel mode, on all its threads.
    pub(super) cpu: Duration,
    /// Memory now.
    pub(super) resident_bytes: u64,
    /// Memory at its highest.
    pub(super) resident_bytes_max: u64,
}

impl Usage {
    pub(super) fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    pub(super) fn of(process: u32) -> Option<Self> {
        let read = |file| fs::read_to_string(format!("/proc/{process}/{file}")).ok();
        let status = read("status")?;
        Some(Self {
            cpu: cpu(&read("stat")?)?,
            resident_bytes: kibibytes(&status, "VmRSS:")? * 1_024,
            resident_bytes_max: kibibytes(&status, "VmHWM:")? * 1_024,
        })
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; the name in field 2 may hold spaces and brackets.
pub(super) fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

pub(super) fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
