//! A node that does not know the time.

use std::fs;
use std::process::Output;
use std::sync::Arc;

use crate::agent::{CLUSTER, Setup, run_to_end, write_secret};
use crate::scene::{LATER, SOON, quick, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Certificate, Clients, Job, Options, Testbed};

/// In the year 2046.
const FAR: u64 = 2_424_643_200;

fn without_expiry(testbed: &Testbed, name: &str) -> String {
    testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", name, "x")).without("expiresAt"))
}

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
    succeeds(&testbed, &without_expiry(&testbed, "first"), LATER);
    let waiting = testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "waits", "x")).expires_in(3_600));
    agent.wait_for_log("a job with an expiry waits", SOON);
    succeeds(&testbed, &without_expiry(&testbed, "behind"), LATER);
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

/// By its certificate the server lives in the year 2100, and nobody says yet that it does not.
#[test]
fn a_server_whose_certificate_is_not_valid_yet_is_asked_for_the_time_and_does_no_job() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed).flag("--ca-file", testbed.directory().join("both.pem"));
    fs::write(testbed.directory().join("both.pem"), testbed.ca_pem()).unwrap();
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let next = testbed.change_certificate(Certificate::NotYetValid);
    fs::write(testbed.directory().join("both.pem"), next).unwrap();
    let job = testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "too-early", "x")).without("expiresAt"));
    let agent = setup.spawn();
    agent.wait_for_log("is not valid yet", SOON);
    if !std::path::Path::new("/run/systemd/timesync/synchronized").exists() {
        agent.wait_for_log("was asked for the time", SOON);
        // Today does not lie in the validity of a certificate of 2100: such a date is no witness.
        assert!(!setup.state_dir().join("clock.json").exists());
    }
    assert_eq!(testbed.acks(&job), 0);
    assert!(testbed.result(&job).is_none());
}
