//! The data folder of the embedded engine: one owner, damage reported, torn tails cut (P10).

use std::fs;
use std::path::{Path, PathBuf};

use halfmq_tests::{Coordinator, Driver, bodies, message};

async fn send_each(driver: &Driver, texts: &[&str]) {
    for text in texts {
        driver.send([message("orders", text)]).await;
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let folder = data.join("journal");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut segments: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    assert!(!segments.is_empty(), "no segments in {}", folder.display());
    segments
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder is writable");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[tokio::test]
async fn data_folder_has_one_owner() {
    let mut coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let said = coordinator.refused_start().await;
    let folder = coordinator.data().display().to_string();
    assert!(said.contains(&folder), "it says which folder is taken:\n{said}");
    send_each(&driver, &["the owner goes on"]).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["the owner goes on"]);
}

#[tokio::test]
async fn damage_with_valid_records_after_it_stops_the_start() {
    let mut coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    send_each(&driver, &["before", "the damaged one", "after", "long after"]).await;
    coordinator.kill9().await;

    let find = |path: &PathBuf| {
        let bytes = fs::read(path).expect("a readable segment");
        position(&bytes, b"the damaged one").map(|at| (path.clone(), bytes, at))
    };
    let found = segments(&coordinator.data()).iter().find_map(find);
    let (segment, intact, at) = found.expect("the body stands in the journal");
    let mut damaged = intact.clone();
    damaged[at] ^= 0x01;
    fs::write(&segment, &damaged).expect("a writable segment");

    let said = coordinator.refused_start().await;
    let name = segment.file_name().expect("a segment has a name").to_string_lossy().into_owned();
    assert!(said.contains(&name), "it says which file is damaged:\n{said}");
    assert!(said.contains("halfmq repair"), "it says how to go on:\n{said}");
    assert_eq!(fs::read(&segment).expect("a readable segment"), damaged, "a refused start changes nothing");

    fs::write(&segment, &intact).expect("a writable segment");
    coordinator.restart().await;
    let expected = ["before", "the damaged one", "after", "long after"];
    assert_eq!(bodies(&driver.receive("orders", "billing", 4).await), expected, "the mended file is whole");
}

#[tokio::test]
async fn torn_tail_is_cut_and_told() {
    let mut coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    send_each(&driver, &["first", "second"]).await;

    // As if the machine had died in the middle of the next write, which nobody was told about.
    let (data, before) = (coordinator.data(), coordinator.data().with_file_name("before"));
    copy_folder(&data, &before);
    send_each(&driver, &["torn".repeat(1_000).as_str()]).await;
    coordinator.kill9().await;
    let mut torn = 0;
    for (new, old) in segments(&data).iter().zip(segments(&before)) {
        let (new, old_bytes) = (fs::read(new).expect("a segment"), fs::read(&old).expect("a segment"));
        let differs = |at: &usize| new[*at] != old_bytes[*at];
        let length = new.len().min(old_bytes.len());
        let Some(start) = (0..length).find(differs) else { continue };
        let end = (start..length).rev().find(differs).expect("it differs at its start");
        let middle = start + (end - start) / 2;
        fs::write(&old, [&new[..middle], &old_bytes[middle..]].concat()).expect("a writable segment");
        torn += 1;
    }
    assert_eq!(torn, 1, "the last send went to one segment");
    fs::remove_dir_all(&data).expect("a writable folder");
    fs::rename(&before, &data).expect("a writable folder");

    coordinator.restart().await;
    let log = coordinator.log().to_lowercase();
    assert!(log.contains("torn") || log.contains("cut"), "a cut tail is told:\n{log}");
    driver.send([message("orders", "third")]).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 3).await), ["first", "second", "third"]);
}
