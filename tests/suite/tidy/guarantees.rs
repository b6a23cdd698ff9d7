//! The README promises only what a test proves.

use super::{File, tree};

/// Names in backticks in the last cells of the tables under a heading that speaks of guarantees: each row
/// names at least one test.
fn promised(readme: &str) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in readme.lines().map(str::trim) {
        if line.starts_with('#') {
            inside = line.to_lowercase().contains("guarantee");
        }
        let is_row = inside && line.starts_with('|') && line.contains('`');
        if is_row {
            let quoted = line.split('`').skip(1).step_by(2);
            let tests = quoted.map(|name| name.rsplit("::").next().unwrap_or(name));
            let tests =
                tests.filter(|name| name.contains('_') && name.chars().all(is_name)).map(str::to_owned);
            rows.push((line.to_owned(), tests.collect()));
        } else if inside && line.starts_with('|') && !is_ruler(line) && !rows.is_empty() {
            rows.push((line.to_owned(), Vec::new()));
        }
    }
    rows
}

fn is_name(next: char) -> bool {
    next.is_ascii_lowercase() || next.is_ascii_digit() || next == '_'
}

fn is_ruler(line: &str) -> bool {
    line.chars().all(|next| matches!(next, '|' | '-' | ':' | ' '))
}

/// Promises without a test, and tests that do not exist.
fn unproven(readme: &str, tree: &[File]) -> Vec<String> {
    let exists = |test: &String| {
        tree.iter().any(|file| {
            let heads = [format!("fn {test}("), format!("fn {test}<"), format!("def {test}(")];
            heads.iter().any(|head| file.text.contains(head))
        })
    };
    let mut findings = Vec::new();
    for (row, tests) in promised(readme) {
        if tests.is_empty() {
            findings.push(format!("names no test: {row}"));
        }
        findings
            .extend(tests.iter().filter(|test| !exists(test)).map(|test| format!("no such test: {test}")));
    }
    findings
}

#[test]
fn guarantees_are_read_right() {
    let readme = "# HalfMQ\n| a | `not_here` |\n## Guarantees\n| promise | test |\n|---|---|\n\
                  | durable | `flow::it_is_there`, `it_is_not` |\n| fast | no test |\n## Else\n| x | `nor_here` |\n";
    let tree = [File { path: "a.rs".into(), text: concat!("fn it_is", "_there() {}").into() }];
    assert_eq!(unproven(readme, &tree), ["no such test: it_is_not", "names no test: | fast | no test |"]);
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let tree = tree();
    let readme = tree.iter().find(|file| file.path == "README.md").expect("there is a README.md");
    assert!(!promised(&readme.text).is_empty(), "README.md has no table of guarantees with their tests");
    let findings = unproven(&readme.text, &tree);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
