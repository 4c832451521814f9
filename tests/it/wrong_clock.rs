//! A node that does not know the time.

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::{CLUSTER, Setup, run_to_end, write_secret};
use crate::scene::{LATER, SOON, quick, said, says, succeeds};
use crate::testbed::job::{self, config_map};
use crate::testbed::{Call, Certificate, Clients, Fault, Job, Options, Testbed};

/// Says that the process lives in a later time.
const AHEAD: &str = "PULLET_TEST_LIVES_AHEAD";

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

/// After a failure what waits is posted before there is a poll; here that fails for as long as nobody has the time.
#[test]
fn what_waits_to_be_posted_does_not_keep_the_node_from_asking_for_the_time() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed).flag("--ca-file", testbed.directory().join("both.pem"));
    fs::write(testbed.directory().join("both.pem"), testbed.ca_pem()).unwrap();
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    testbed.fault_until_cleared(Call::Result, Fault::LostAnswer);
    let done = without_expiry(&testbed, "done");
    testbed.result_of(&done, LATER);
    agent.kill();
    testbed.clear_faults();
    let next = testbed.change_certificate(Certificate::NotYetValid);
    fs::write(testbed.directory().join("both.pem"), next).unwrap();
    let agent = setup.spawn();
    let asked = || agent.log().matches("was asked for the time").count();
    let deadline = Instant::now() + LATER;
    while asked() < 3 {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The control plane lives two days later than the node, with a certificate of yesterday: by the node's clock of tomorrow. Two
/// answers ten minutes apart set the clock, though neither does a job; then the certificate is valid, and the jobs are done.
#[test]
#[ignore = "needs minutes and faketime"]
fn a_node_that_is_behind_its_server_s_certificate_gets_the_time_from_it_and_then_its_jobs() {
    if std::env::var_os(AHEAD).is_none() {
        let mut later = Command::new("faketime");
        // Only what tells the date is faked: pauses are as long as ever.
        later.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env(AHEAD, "1").args(["-f", "+2d"]);
        later.arg(std::env::current_exe().unwrap()).args(["--exact", "--include-ignored", "--nocapture"]);
        later
            .arg("wrong_clock::a_node_that_is_behind_its_server_s_certificate_gets_the_time_from_it_and_then_its_jobs");
        let (code, text) = said(&later.output().expect("faketime is installed"));
        assert!(code == 0 && text.contains("1 passed"), "{text}");
        return;
    }
    let mut testbed = Testbed::start();
    // The agent has the clock of this machine.
    let setup = quick(&testbed).env("LD_PRELOAD", "").flag("--ca-file", testbed.directory().join("both.pem"));
    fs::write(testbed.directory().join("both.pem"), testbed.ca_pem()).unwrap();
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let next = testbed.change_certificate(Certificate::Young);
    fs::write(testbed.directory().join("both.pem"), next).unwrap();
    let dated = testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "dated", "x")).expires_in(3_600));
    let begin = Instant::now();
    let agent = setup.spawn();
    agent.wait_for_log("was asked for the time", SOON);
    assert_eq!(testbed.acks(&dated), 0);
    testbed.result_of(&dated, Duration::from_secs(30 * 60));
    assert!(begin.elapsed() >= pullet::limits::CLOCK_WITNESSES_APART, "a single date was enough");
    succeeds(&testbed, &without_expiry(&testbed, "undated"), LATER);
    let kept = fs::read_to_string(setup.state_dir().join("clock.json")).unwrap();
    let confirmed: String = kept.split("confirmed").nth(1).unwrap().chars().filter(char::is_ascii_digit).collect();
    assert!(confirmed.parse::<u64>().unwrap().abs_diff(job::now()) < 30 * 60, "{kept}");
    assert!(agent.log().contains("two answers of the server say the same time"), "{}", agent.log());
}

/// A job that was taken before the clock went wrong goes on when it is right again, and holds up nothing meanwhile.
#[test]
fn a_job_that_was_open_at_the_end_waits_for_the_time_too() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    testbed.fault_until_cleared(Call::Ack, Fault::LostAnswer);
    let open = testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "open", "x")).expires_in(3_600));
    testbed.ack_of(&open, LATER);
    agent.kill();
    testbed.clear_faults();
    let kept = setup.state_dir().join("clock.json");
    fs::write(&kept, format!(r#"{{"version":1,"confirmed":{FAR}}}"#)).unwrap();
    // By this clock a MAC would be twenty years old: what is posted waits, and polls have none.
    let mut agent = setup.spawn();
    agent.wait_for_log("the job goes on when the time is confirmed", SOON);
    let behind = without_expiry(&testbed, "behind");
    testbed.wait_for("a try of an ack", LATER, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Ack) && seen.path.contains(&behind)).then_some(())
    });
    let applied = |name: &str| {
        let files = fs::read_dir(setup.directory()).unwrap().filter_map(Result::ok);
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).any(|text| text.contains(name))
    };
    assert!(!applied("\"open\""), "it waits");
    agent.stop();
    says(&reset_clock(&setup), 0, &["is forgotten"]);
    let _agent = setup.spawn();
    succeeds(&testbed, &open, LATER);
    succeeds(&testbed, &behind, LATER);
    assert!(applied("\"open\""));
}
