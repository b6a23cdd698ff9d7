//! Finding the binary under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary to test: `HALFMQ_BIN` if it is set, else the workspace's own, built once in the profile and
/// target folder of the running test.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| env::var_os("HALFMQ_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    // target/<profile>/deps/suite-<hash>
    let test = env::current_exe().expect("a test knows its own file");
    let outputs = test.ancestors().nth(2).expect("cargo puts tests into <target>/<profile>/deps");
    let target = outputs.parent().expect("a profile's folder lies in the target folder");
    let profile = match outputs.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test of its own package makes build scripts believe that theirs has changed.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|told| name.to_string_lossy().starts_with(told)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "-p", "halfmq-coordinator", "--bin", "halfmq", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started, since it started this test");
    assert!(built.status.success(), "building halfmq failed:\n{}", String::from_utf8_lossy(&built.stderr));
    outputs.join("halfmq")
}
