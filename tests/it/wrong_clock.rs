//! A node that does not know the time.

use std::fs;
use std::process::Output;
use std::sync::Arc;

use crate::agent::{CLUSTER, Setup, run_to_end, write_secret};
use crate::scene::{LATER, SOON, apply, goes_on, quick, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Clients, Job, Options, Testbed};

/// In the year 2046.
const FAR: u64 = 2_424_643_200;

fn reset_clock(setup: &Setup) -> Output {
    let mut doctor = setup.prepare("doctor");
    doctor.arg("--reset-clock");
    run_to_end(doctor)
}

/// A floor that lies far ahead makes every clock one that stands in the past.
#[test]
fn a_job_with_an_expiry_waits_while_the_clock_is_in_doubt_and_others_do_not_until_a_person_says_so() {
    let clients = Arc::new(Clients::new());
    let testbed = Testbed::with(Options { clients: Some(Arc::clone(&clients)), ..Options::default() });
    let (certificate, key) = (testbed.directory().join("tls.crt"), testbed.directory().join("tls.key"));
    let (chain, secret) = clients.issue();
    write_secret(&certificate, &chain);
    write_secret(&key, &secret);
    let setup = quick(&testbed).flag("--client-cert", &certificate).flag("--client-key", &key);
    let kept = setup.state_dir().join("clock.json");
    fs::write(&kept, format!(r#"{{"version":1,"confirmed":{FAR}}}"#)).unwrap();
    let mut agent = setup.spawn();
    goes_on(&testbed);
    let waiting = testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "waits", "x")).expires_in(3_600));
    agent.wait_for_log("a job with an expiry waits", SOON);
    let behind = apply(&testbed, "behind");
    succeeds(&testbed, &behind, LATER);
    assert_eq!(testbed.acks(&waiting), 0);
    testbed.event("what is wrong with the clock", LATER, |event| event.to_string().contains("ClockUnconfirmed"));
    // The agent would write the time again.
    says(&reset_clock(&setup), 1, &["another pullet is using it"]);
    assert!(agent.stop().status.success());
    says(&reset_clock(&setup), 0, &["is forgotten"]);
    says(&reset_clock(&setup), 0, &["nothing was changed"]);
    let _agent = setup.spawn();
    succeeds(&testbed, &waiting, LATER);
    let kept = fs::read_to_string(kept).unwrap();
    assert!(kept.contains("confirmed") && !kept.contains(&FAR.to_string()), "{kept}");
    // A certificate shows who posts, and no MAC has to.
    for post in testbed.requests().iter().filter(|seen| seen.call != Some(Call::Jobs)) {
        assert!(!post.headers.iter().any(|(name, _)| name == "x-vworkspace-mac"), "{post:?}");
    }
}
