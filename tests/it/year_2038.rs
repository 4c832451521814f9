//! A device in a cupboard lives longer than 32 bits of seconds, which end on 19 January 2038. The whole test, its control plane
//! and the agent under qemu are started again with a clock that stands in the year 2040.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::architectures::lives;
use crate::scene::said;

/// The first day of 2040.
const FAR: u64 = 2_208_988_800;

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Runs the test of this name once more, in 2040; there it calls this again, and goes on with the story.
fn in_2040(test: &str, emulator: &[&str], target: &str) {
    if seconds() >= FAR {
        let (_testbed, _setup, agent) = lives(emulator, target);
        // What the agent says of itself is dated in that year, too.
        assert!(agent.log().contains("2040-"), "{}", agent.log());
        return;
    }
    let again = std::env::current_exe().unwrap();
    let mut faked = Command::new("faketime");
    // Only what tells the date is faked: pauses are as long as ever.
    faked.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").args(["-f", "@2040-06-01 12:00:00"]).arg(again);
    faked.args(["--exact", test, "--include-ignored", "--nocapture"]);
    let output = faked.output().expect("faketime is installed");
    let (code, text) = said(&output);
    assert!(code == 0 && text.contains("1 passed"), "{text}");
}

/// Not the static qemu: faketime gets between a program and its C library.
#[test]
#[ignore = "needs faketime and qemu-user, and the four static binaries: cross/build, then PULLET_DIST"]
fn the_binary_for_armv6_lives_in_2040() {
    let test = "year_2038::the_binary_for_armv6_lives_in_2040";
    in_2040(test, &["qemu-arm", "-cpu", "arm1176"], "arm-unknown-linux-musleabihf");
}

#[test]
#[ignore = "needs faketime and qemu-user, and the four static binaries: cross/build, then PULLET_DIST"]
fn the_binary_for_armv7_lives_in_2040() {
    let test = "year_2038::the_binary_for_armv7_lives_in_2040";
    in_2040(test, &["qemu-arm", "-cpu", "cortex-a7"], "armv7-unknown-linux-musleabihf");
}

/// The standard library asks a C library that has 32 bits for seconds; `clock::system` asks the kernel.
#[test]
fn nothing_of_the_agent_asks_the_standard_library_what_time_it_is() {
    let mut directories = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for call in ["SystemTime::now", "Timestamp::now", "UnixTime::now", "Zoned::now", ".modified()"] {
                    assert!(!line.contains(call), "{}: {line}", path.display());
                }
            }
        }
    }
    assert!(files > 100, "{files} files were read");
}
