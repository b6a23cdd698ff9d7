//! Who may know whom: the invariants of the house, mostly about what is absent.

use std::collections::BTreeSet;

use super::{File, assert_none, lines, tree};

/// Rooms of the coordinator, which never name each other. `crate::store` itself is the port; its engines
/// are `crate::store::<engine>`.
const ROOMS: [&str; 3] = ["api", "sink", "store"];
/// The composition root: the only file that names engines, doors and sinks.
const SERVER: &str = "coordinator/src/server.rs";
/// Whoever may use the port, besides the composition root.
const PORT_USERS: [&str; 2] = ["coordinator/src/service", "coordinator/src/checker"];
/// Commands that work on one engine with no server around: they mend its files, or measure it by itself.
const SERVERLESS: [&str; 2] = ["coordinator/src/cli/repair.rs", "coordinator/src/cli/bench/"];

fn manifest<'a>(tree: &'a [File], path: &str) -> &'a str {
    let file = tree.iter().find(|file| file.path == path);
    &file.unwrap_or_else(|| panic!("{path} is missing")).text
}

/// Names in the tables of a manifest whose header ends like this.
fn dependencies(manifest: &str, table: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            let header = line.trim_matches(|bracket| bracket == '[' || bracket == ']');
            inside = header == table || header.ends_with(&format!(".{table}"));
            names.extend(header.strip_prefix(&format!("{table}.")).map(str::to_owned));
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default().trim_matches('"');
            names.extend((!name.is_empty()).then(|| name.to_owned()));
        }
    }
    names
}

fn all_dependencies(manifest: &str) -> BTreeSet<String> {
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables.iter().flat_map(|table| dependencies(manifest, table)).collect()
}

#[test]
fn manifests_are_read_right() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { version = \"1\" }\n# c = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nd = \"1\"\n[dependencies.e]\nversion = \"1\"\n\
                    [dev-dependencies]\nf = \"1\"\n";
    let names: Vec<_> = dependencies(manifest, "dependencies").into_iter().collect();
    assert_eq!(names, ["a", "b", "d", "e"]);
    assert!(all_dependencies(manifest).contains("f"));
}

#[test]
fn rules_need_no_runtime() {
    let tree = tree();
    let names = dependencies(manifest(&tree, "coordinator/core/Cargo.toml"), "dependencies");
    let expected = ["bytes", "thiserror", "uuid"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected), "core has no runtime, IO, clock or randomness");
    let io = ["std::fs", "std::net", "std::io", "std::thread", "std::env", "std::process"];
    let core = tree.iter().filter(|file| file.is_rust() && file.path.starts_with("coordinator/core/src/"));
    let found = lines(core, |file, line| {
        file.production().contains(line) && io.iter().any(|module| line.contains(module))
    });
    assert_none("core does no IO", &found);
}

#[test]
fn crates_know_only_what_lies_below() {
    let tree = tree();
    let forbidden = [
        ("client/Cargo.toml", vec!["halfmq-coordinator", "halfmq-core"]),
        ("proto/Cargo.toml", vec!["halfmq-coordinator", "halfmq-core", "halfmq-client"]),
        ("coordinator/core/Cargo.toml", vec!["halfmq-proto", "halfmq-coordinator", "halfmq-client"]),
        ("tests/Cargo.toml", vec!["halfmq-coordinator", "halfmq-core"]),
    ];
    for (path, forbidden) in forbidden {
        let names = all_dependencies(manifest(&tree, path));
        let found: Vec<_> = forbidden.into_iter().filter(|name| names.contains(*name)).collect();
        assert!(found.is_empty(), "{path} must not name {found:?}");
    }
}

/// The room a file of the coordinator belongs to.
fn room(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix("coordinator/src/")?;
    ROOMS
        .into_iter()
        .find(|room| rest.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')))
}

/// Rooms that a line of code names by `crate::`, and the item it names there.
fn named(line: &str) -> Vec<(&'static str, &str)> {
    let code = line.split("//").next().unwrap_or_default();
    let mut named = Vec::new();
    for room in ROOMS {
        for (at, path) in code.match_indices(&format!("crate::{room}")) {
            let rest = &code[at + path.len()..];
            if !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_') {
                named.push((room, rest.strip_prefix("::").unwrap_or_default()));
            }
        }
    }
    named
}

/// Engines are modules of the store, and modules are written small.
fn is_engine(item: &str) -> bool {
    let name: String = item.chars().take_while(|next| next.is_alphanumeric() || *next == '_').collect();
    matches!(name.as_str(), "embedded" | "postgres")
}

fn breaks_an_arrow(path: &str, line: &str) -> bool {
    let own = room(path);
    named(line).into_iter().any(|(other, item)| match (own, other) {
        _ if path == SERVER || own == Some(other) => false,
        (Some(_), _) => true,
        (None, "store") => {
            let may_use_the_port = PORT_USERS.iter().any(|user| path.starts_with(user));
            let serverless = SERVERLESS.iter().any(|command| path.starts_with(command));
            !serverless && (is_engine(item) || !may_use_the_port)
        }
        (None, "sink") => true,
        (None, _) => false,
    })
}

#[test]
fn arrows_are_recognised() {
    for (path, line, broken) in [
        ("coordinator/src/api/grpc.rs", "use crate::store::Store;", true),
        ("coordinator/src/api/grpc.rs", "use crate::service::Service;", false),
        ("coordinator/src/api/grpc.rs", "use crate::api::wire;", false),
        ("coordinator/src/store/embedded/journal.rs", "let x = crate::sink::Sink;", true),
        ("coordinator/src/store.rs", "use crate::api::http;", true),
        ("coordinator/src/service.rs", "use crate::store::{Store, Batch};", false),
        ("coordinator/src/service.rs", "use crate::store::embedded::Embedded;", true),
        ("coordinator/src/service/produce.rs", "use crate::storefront::Window;", false),
        ("coordinator/src/checker/routes.rs", "use crate::store::Store;", false),
        ("coordinator/src/cli/send.rs", "use crate::store::Store;", true),
        ("coordinator/src/cli/repair.rs", "use crate::store::embedded::repair;", false),
        ("coordinator/src/cli/bench/engine.rs", "use crate::store::embedded::Embedded;", false),
        ("coordinator/src/server.rs", "use crate::{store::embedded::Embedded};", false),
        ("coordinator/src/server.rs", "use crate::store::embedded::Embedded;", false),
        ("coordinator/src/api/grpc.rs", "// not through crate::store: the service decides", false),
    ] {
        assert_eq!(breaks_an_arrow(path, line), broken, "{path}: {line}");
    }
}

/// `use crate::{a, store::b}` on however many lines, as `use crate::a; use crate::store::b;`.
fn flattened(text: &str) -> String {
    let mut flat = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("crate::{") {
        flat.push_str(&rest[..at]);
        rest = &rest[at + "crate::{".len()..];
        let mut depth = 0;
        flat.push_str("crate::");
        for (at, next) in rest.char_indices() {
            match next {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    rest = &rest[at..];
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    flat.push_str(", crate::");
                    continue;
                }
                _ => {}
            }
            if !(depth == 0 && next.is_whitespace()) {
                flat.push(next);
            }
        }
    }
    flat + rest
}

#[test]
fn nested_imports_are_seen_through() {
    let flat = flattened("use crate::{\n    api::http,\n    store::{Store, embedded},\n};\nfn f() {}");
    let rooms: Vec<_> = named(&flat).into_iter().map(|(room, item)| (room, is_engine(item))).collect();
    assert_eq!(rooms, [("api", false), ("store", false)], "{flat}");
}

#[test]
fn rooms_of_the_coordinator_do_not_know_each_other() {
    let tree = tree();
    let coordinator = tree.iter().filter(|file| file.is_rust() && file.path.starts_with("coordinator/src/"));
    let flat: Vec<File> = coordinator
        .map(|file| File { path: file.path.clone(), text: flattened(file.production()) })
        .collect();
    let found = lines(&flat, |file, line| breaks_an_arrow(&file.path, line));
    assert_none("api, sink and store meet in server.rs only", &found);
}
