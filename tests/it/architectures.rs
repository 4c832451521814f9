//! Each of the four static binaries, under qemu where this machine is of another kind: registration, a job that is signed
//! and encrypted, a line that is cut, a power cut, a restart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::agent::{Agent, CLUSTER, Setup};
use crate::node::pinned;
use crate::scene::{LATER, broken_by_the_living, said, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::{Owner, payload_key};
use crate::testbed::{Call, Fault, Job, Testbed};

/// Where `cross/build` puts them.
pub(crate) fn binary(target: &str) -> PathBuf {
    let dist = std::env::var_os("PULLET_DIST").expect("PULLET_DIST names the directory of the binaries (cross/build)");
    Path::new(&dist).join(format!("pullet-{target}"))
}

/// A program in the directory of this setup that runs the binary by this emulator: a process of the same number, so that
/// signals reach it.
pub(crate) fn emulated(setup: Setup, emulator: &[&str], target: &str) -> Setup {
    let binary = binary(target);
    assert!(binary.exists(), "{} is not there: cross/build {target}", binary.display());
    let program = setup.home().join("pullet");
    let line = format!("#!/bin/sh\nexec {} {} \"$@\"\n", emulator.join(" "), binary.display());
    fs::write(&program, line).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    setup.binary(program)
}

/// The story of this file. Returns the setup, to go on with.
pub(crate) fn lives(emulator: &[&str], target: &str) -> (Testbed, Setup, Agent) {
    let (mut testbed, owner) = (Testbed::start(), Owner::new());
    let setup = emulated(pinned(&testbed, &[owner.keyring(1)]), emulator, target);
    let mut agent = setup.spawn();
    testbed.held_poll(LATER);

    let key = payload_key(&testbed);
    let signed = |name: &str| owner.seal(CLUSTER, Job::apply(config_map("clinic", name, "x")), &key);
    let first = testbed.enqueue(CLUSTER, signed("first"));
    succeeds(&testbed, &first, LATER);

    // The server goes amid a job, which is done meanwhile, and comes back.
    testbed.fault_until_cleared(Call::Result, Fault::CutBeforeHead);
    let cut = testbed.enqueue(CLUSTER, signed("cut"));
    testbed.ack_of(&cut, LATER);
    testbed.wait_for("a result that is lost", LATER, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Result) && seen.fault.is_some()).then_some(())
    });
    testbed.down();
    agent.wait_for_log("not connected", LATER);
    testbed.clear_faults();
    testbed.up();
    succeeds(&testbed, &cut, LATER);

    // The power goes between the ack and the deed.
    testbed.fault_until_cleared(Call::Ack, Fault::LostAnswer);
    let open = testbed.enqueue(CLUSTER, signed("open"));
    testbed.ack_of(&open, LATER);
    agent.kill();
    testbed.clear_faults();
    let mut agent = setup.spawn();
    succeeds(&testbed, &open, LATER);

    // A restart; what was registered is kept, and what was signed before is not done again.
    assert!(agent.stop().status.success(), "{}", agent.log());
    let agent = setup.spawn();
    let last = testbed.enqueue(CLUSTER, signed("last"));
    succeeds(&testbed, &last, LATER);
    let replayed =
        testbed.enqueue(CLUSTER, owner.sign_with_seq(CLUSTER, Job::apply(config_map("clinic", "old", "x")), 1));
    let refused = testbed.result_of(&replayed, LATER);
    assert!(refused["error"].as_str().is_some_and(|error| error.starts_with("Replayed: ")), "{refused}");

    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(broken_by_the_living(&testbed), Vec::<String>::new());
    let files = fs::read_dir(setup.directory()).unwrap().count();
    assert_eq!(files, 4, "each job has its object, and the refused one none");
    (testbed, setup, agent)
}

#[test]
#[ignore = "needs the four static binaries: cross/build, then PULLET_DIST"]
fn the_binary_for_x86_64_lives_through_a_cut_line_and_a_power_cut() {
    let emulator: &[&str] = if cfg!(target_arch = "x86_64") { &[] } else { &["qemu-x86_64-static"] };
    lives(emulator, "x86_64-unknown-linux-musl");
}

#[test]
#[ignore = "needs the four static binaries: cross/build, then PULLET_DIST; and qemu"]
fn the_binary_for_arm64_lives_through_a_cut_line_and_a_power_cut() {
    let emulator: &[&str] = if cfg!(target_arch = "aarch64") { &[] } else { &["qemu-aarch64-static"] };
    lives(emulator, "aarch64-unknown-linux-musl");
}

/// Another directory, another home, nothing built before: tests/device/reproducible has the list.
#[test]
#[ignore = "needs another build of the static binary, which takes minutes"]
fn each_static_binary_is_the_same_bytes_wherever_it_is_built() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/reproducible");
    let (code, text) = said(&Command::new(script).stdin(Stdio::null()).output().unwrap());
    assert!(code == 0 && text.matches(", in both directories").count() == 4, "{text}");
}

/// What a Raspberry Pi 2 has; a Pi 3 or 4 in 32 bits has more.
#[test]
#[ignore = "needs the four static binaries: cross/build, then PULLET_DIST; and qemu"]
fn the_binary_for_armv7_lives_through_a_cut_line_and_a_power_cut() {
    lives(&["qemu-arm-static", "-cpu", "cortex-a7"], "armv7-unknown-linux-musleabihf");
}

/// What a Raspberry Pi Zero has.
#[test]
#[ignore = "needs the four static binaries: cross/build, then PULLET_DIST; and qemu"]
fn the_binary_for_armv6_lives_through_a_cut_line_and_a_power_cut() {
    lives(&["qemu-arm-static", "-cpu", "arm1176"], "arm-unknown-linux-musleabihf");
}
