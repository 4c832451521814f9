//! What `pullet setup` leaves in the state directory, and of a one-time token.

use std::fs;
use std::os::unix::fs::chown;

use super::machine::Machine;
use crate::agent::write_secret;
use crate::scene::says;
use crate::testbed::{Call, Testbed};

/// Of the user of the unit.
const USER: u32 = 65_533;

#[test]
#[ignore = "needs root, for a user of its own"]
fn what_setup_leaves_is_the_agents_and_a_token_that_is_not_needed_does_not_stay() {
    let testbed = Testbed::start();
    let machine = Machine::bare();
    fs::create_dir_all(machine.path("run/systemd/system")).unwrap();
    fs::create_dir(machine.path("applied")).unwrap();
    chown(machine.path("applied"), Some(USER), Some(USER)).unwrap();
    for (file, line) in
        [("etc/passwd", format!("pullet:x:{USER}:{USER}::/:\n")), ("etc/group", format!("pullet:x:{USER}:\n"))]
    {
        let text = machine.read(file) + &line;
        fs::write(machine.path(file), text).unwrap();
    }
    let flags = machine.flags(&testbed, "c1");
    let directory = machine.path("applied").display().to_string();
    let target = ["--target", "directory", "--directory", &directory];
    let setup: Vec<&str> = ["setup"].into_iter().chain(flags.iter().map(String::as_str)).chain(target).collect();
    let token = machine.path("token");
    let good = machine.read("token");

    write_secret(&token, "not-a-token-0123456789abcdef");
    says(&machine.run(&setup), 1, &["does not accept the one-time token"]);
    assert_eq!(machine.mode("var/lib/pullet"), "0700 pullet:pullet");
    assert_eq!(machine.mode("var/lib/pullet/keys.json"), "0600 pullet:pullet");
    // By now the directory is the agent's, and so is what the next try finds and makes there.
    write_secret(&token, &good);
    says(&machine.run(&setup), 0, &["registered as c1", "it works"]);
    assert_eq!(machine.mode("var/lib/pullet/credential.json"), "0600 pullet:pullet");
    assert!(!machine.path("etc/pullet/credentials/pullet.token").exists());

    // What is root's there is handed over, and another token is of no use.
    chown(machine.path("var/lib/pullet/credential.json"), Some(0), Some(0)).unwrap();
    write_secret(&token, &testbed.issue_token(Some("c1")));
    let words =
        ["registered already", "the one-time token was not used", "removed /etc/pullet/credentials/pullet.token"];
    says(&machine.run(&setup), 0, &[&words[..], &["it works"]].concat());
    assert_eq!(machine.mode("var/lib/pullet/credential.json"), "0600 pullet:pullet");
    assert!(!machine.path("etc/pullet/credentials/pullet.token").exists());
    says(&machine.run(&[&setup[..], &["--no-start"]].concat()), 0, &["the one-time token was not used"]);
    assert!(!machine.path("etc/pullet/credentials/pullet.token").exists());
    assert_eq!(testbed.requests_of(Call::Register).len(), 2);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}
