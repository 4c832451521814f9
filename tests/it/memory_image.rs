//! What lies in the memory of an agent that has forgotten a secret: nothing of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::{LATER, SOON, quick, succeeds};
use crate::testbed::Testbed;

/// The regions of an agent's memory in which a text lies. The kernel gives the image of a process that we may trace:
/// the same bytes that a core file would have.
fn places(agent: &Agent, wanted: &[u8]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", agent.pid())).expect("the agent runs");
    let memory = File::open(format!("/proc/{}/mem", agent.pid())).expect("its memory can be read");
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains("rw")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let from = u64::from_str_radix(from, 16).expect("an address");
        let to = u64::from_str_radix(to, 16).expect("an address");
        let mut bytes = vec![0; usize::try_from(to - from).expect("it fits")];
        // A region can go away between the two reads.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        for at in bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted).map(|(at, _)| at) {
            let around = &bytes[at.saturating_sub(48)..bytes.len().min(at + wanted.len() + 16)];
            found.push(format!("{line} +{at:x}: {}", String::from_utf8_lossy(around).replace('\0', "·")));
        }
    }
    found
}

fn bearer_of(setup: &Setup, which: &str) -> String {
    let text = fs::read_to_string(setup.state_dir().join("credential.json")).expect("there is a credential");
    let stored: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    stored[which]["token"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_image_of_an_agent_shows_its_bearer() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let bearer = bearer_of(&setup, "current");
    assert!(!places(&agent, bearer.as_bytes()).is_empty(), "what is in use is there, or this looks at the wrong place");
}

#[test]
fn a_bearer_that_was_replaced_twice_is_not_in_memory() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let first = bearer_of(&setup, "current");
    for _ in 0..2 {
        let job = testbed.intent(CLUSTER, "rotate-operator-credentials", serde_json::Value::Null);
        succeeds(&testbed, &job, LATER);
    }
    // The connections that carried it are used again, or closed.
    testbed.polls(testbed.counts().polls + 3, LATER);
    assert_eq!(places(&agent, first.as_bytes()), Vec::<String>::new());
}
