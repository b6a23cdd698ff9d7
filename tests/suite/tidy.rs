//! Style as a test: what a reviewer would otherwise have to remark again and again.
//!
//! Words that must not stand in the tree are put together from halves here, so that this file passes.

mod arrows;
mod guarantees;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a Rust file, at most.
const LINES_MAX: usize = 500;
/// Folders that a walk without git leaves out.
const NOT_OURS: [&str; 5] = [".git", "target", ".venv", "__pycache__", "halfmq-data"];

/// A file of the tree; its path is relative to the root.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Text before its unit tests: what runs in production. Nothing of `tests.rs`.
    fn production(&self) -> &str {
        let end = if self.path.ends_with("/tests.rs") { 0 } else { self.text.len() };
        self.text[..end].split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// All tracked text files, or, in a tree without git, all that lie there.
fn tree() -> Vec<File> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    let paths: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(str::to_owned).collect()
        }
        Ok(_) | Err(_) => walk(&root()),
    };
    // A file may be tracked and deleted; one that is not text has no style.
    let read = |path: String| Some(File { text: fs::read_to_string(root().join(&path)).ok()?, path });
    let files: Vec<File> = paths.into_iter().filter_map(read).collect();
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "the tree was not found at {:?}", root());
    files
}

fn walk(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths = Vec::new();
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let path = entry.path();
        if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if path.is_dir() {
            paths.extend(walk(&path));
        } else if let Ok(path) = path.strip_prefix(root()) {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    paths
}

/// Every line of `files` that `is_wrong`, as `path:line: text`.
fn lines<'a>(
    files: impl IntoIterator<Item = &'a File>,
    is_wrong: impl Fn(&File, &str) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            if is_wrong(file, line) {
                found.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    found
}

fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

#[test]
fn files_stay_short() {
    let tree = tree();
    let long = tree.iter().filter(|file| file.is_rust()).filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    assert_none("split by meaning what is longer than 500 lines", &long.collect::<Vec<_>>());
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let tree = tree();
    let name = concat!("mod", ".rs");
    let found = tree.iter().filter(|file| file.path.rsplit('/').next() == Some(name));
    let found: Vec<_> = found.map(|file| file.path.clone()).collect();
    assert_none("foo.rs beside foo/", &found);
}

#[test]
fn nothing_is_left_unfinished() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("#[ig", "nore"),
        concat!("unimple", "mented!"),
        concat!("to", "do!("),
    ];
    let is_word = |line: &str, word: &str| {
        let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        line.match_indices(word).any(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| line.as_bytes().get(at));
            let inside = word.bytes().all(|byte| byte.is_ascii_uppercase());
            !inside || (!letter(before) && !letter(line.as_bytes().get(at + word.len())))
        })
    };
    let tree = tree();
    let found = lines(&tree, |_, line| words.iter().any(|word| is_word(line, word)));
    assert_none("finish it, or leave it out", &found);
}

#[test]
fn tree_knows_no_machine() {
    let paths =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/fa", "rm/"), concat!("/bash", "_jobs")];
    let names_one = |line: &str| {
        paths.iter().any(|path| {
            line.match_indices(path).any(|(at, _)| {
                let before = at.checked_sub(1).and_then(|at| line.as_bytes().get(at));
                !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
            })
        })
    };
    let tree = tree();
    assert_none("no paths of one machine", &lines(&tree, |_, line| names_one(line)));
}

/// Whoever reads the machine's clock decides with it: that must be one place, so that tests can move time.
/// The runtime's clock, which tests pause, may be used to wait.
#[test]
fn clock_is_read_in_one_place() {
    let (system, instant) = (concat!("SystemTime::", "now"), concat!("Instant::", "now"));
    let reads = |file: &File, line: &str| {
        let runtime = line.contains("tokio::time::") || file.text.contains("use tokio::time::Instant;");
        line.contains(system) || (line.contains(instant) && !runtime)
    };
    let tree = tree();
    let of = |folder: &'static str| {
        tree.iter().filter(move |file| file.is_rust() && file.path.starts_with(folder))
    };
    let coordinator = of("coordinator/").filter(|file| file.path != "coordinator/src/clock.rs");
    assert_none("only coordinator/src/clock.rs reads the clock", &lines(coordinator, reads));
    assert_none("tests wait for events and need no clock", &lines(of("tests/"), reads));
    let sdk = lines(of("client/"), reads);
    let files: BTreeSet<_> = sdk.iter().filter_map(|line| line.split(':').next()).collect();
    assert!(files.len() <= 1, "the SDK reads the clock in one file at most: {sdk:?}");
}

#[test]
fn metric_names_stand_in_one_file() {
    let tree = tree();
    let macros = ["counter", "gauge", "histogram"].map(|kind| format!("{kind}!("));
    let elsewhere = tree.iter().filter(|file| {
        file.is_rust()
            && file.path.starts_with("coordinator/src/")
            && !file.path.starts_with("coordinator/src/telemetry")
    });
    let found = lines(elsewhere, |_, line| macros.iter().any(|call| line.contains(call)));
    assert_none("coordinator/src/telemetry.rs names all metrics", &found);
}
