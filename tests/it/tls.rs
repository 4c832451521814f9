//! Whom the agent believes, and what it says when it does not.

use std::fs;
use std::process::Output;

use crate::scene::{SOON, goes_on, quick, said, says};
use crate::testbed::{Certificate, Options, Testbed};

#[test]
fn a_certificate_that_is_not_right_is_refused_with_what_to_check() {
    for (certificate, words) in [
        (Certificate::OtherAuthority, ["an authority that is not trusted here", "check the CA file"]),
        (Certificate::OtherName, ["for another name", "check the address"]),
        (Certificate::Expired, ["has expired", "clock"]),
        (Certificate::NotYetValid, ["not valid yet", "clock"]),
    ] {
        let testbed = Testbed::with(Options { certificate, ..Options::default() });
        let setup = quick(&testbed);
        says(&setup.run_to_end("register"), 1, &["TLS was refused", words[0], words[1]]);
        let mut agent = setup.spawn();
        agent.wait_for_log(words[0], SOON);
        agent.wait_for_log("it is tried again", SOON);
        assert_eq!(agent.stop().status.code(), Some(0));
        assert_eq!(testbed.requests().len(), 0, "{certificate:?}: nothing was said to a stranger");
    }
}

#[test]
fn a_name_in_the_endpoint_is_checked_as_a_name() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).flag("--endpoint", testbed.endpoint_by_name());
    let _agent = setup.spawn();
    goes_on(&testbed);
}

#[test]
fn an_authority_is_believed_by_flag_or_by_the_system_and_by_nothing_else() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).without("--ca-file");
    says(&setup.run_to_end("register"), 1, &["an authority that is not trusted here"]);
    let elsewhere = Testbed::start();
    let other = setup.clone().env("SSL_CERT_FILE", elsewhere.ca_file());
    says(&other.run_to_end("register"), 1, &["an authority that is not trusted here"]);
    let system = setup.clone().env("SSL_CERT_FILE", testbed.ca_file());
    says(&system.run_to_end("register"), 0, &["registered as c1"]);
    let _agent = system.spawn();
    goes_on(&testbed);
}

#[test]
fn a_ca_file_adds_to_the_system_and_a_bundle_is_read_whole() {
    let (first, second) = (Testbed::start(), Testbed::start());
    let bundle = first.directory().join("bundle.pem");
    fs::write(&bundle, format!("# two\n{}\n{}", first.ca_pem(), second.ca_pem())).unwrap();
    for testbed in [&first, &second] {
        says(&quick(testbed).flag("--ca-file", &bundle).run_to_end("register"), 0, &["registered as c1"]);
    }
    let third = Testbed::start();
    let setup = quick(&third).flag("--ca-file", first.ca_file()).env("SSL_CERT_FILE", third.ca_file());
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
}

#[test]
fn a_ca_file_that_cannot_be_used_is_wrong_usage() {
    let testbed = Testbed::start();
    let file = testbed.directory().join("bad.pem");
    let cases: [(Option<&[u8]>, &str); 5] = [
        (None, "cannot be read"),
        (Some(b""), "holds no PEM certificate"),
        (Some(b"not PEM at all\n"), "holds no PEM certificate"),
        (Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "is not PEM, or what it holds"),
        (Some(&testbed.ca_pem().as_bytes()[..200]), "is not PEM, or what it holds"),
    ];
    for (content, words) in cases {
        match content {
            Some(content) => fs::write(&file, content).unwrap(),
            None => drop(fs::remove_file(&file)),
        }
        let setup = quick(&testbed).flag("--ca-file", &file);
        for command in ["register", "run"] {
            says(&setup.run_to_end(command), 2, &["bad.pem", words]);
        }
    }
    assert_eq!(testbed.counts().connections, 0);
}

#[test]
fn servers_of_tls_1_2_alone_and_of_tls_1_3_alone_are_talked_to() {
    static OLD: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    static NEW: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    for tls_versions in [OLD, NEW] {
        let testbed = Testbed::with(Options { tls_versions, ..Options::default() });
        let _agent = quick(&testbed).spawn();
        goes_on(&testbed);
    }
}

#[test]
fn a_server_without_tls_is_said_to_be_one() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let setup = quick(&testbed).flag("--endpoint", testbed.endpoint().replace("http://", "https://"));
    says(&setup.run_to_end("register"), 1, &["TLS was refused", "speaks no TLS"]);
}

#[test]
fn plain_http_is_for_this_machine_and_by_the_switch_alone() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let setup = quick(&testbed);
    for command in ["register", "run"] {
        let output: Output = setup.run_to_end(command);
        says(&output, 2, &["endpoint", "plain http", "allow_plain_http_loopback"]);
    }
    let other = setup.clone().flag("--endpoint", "http://control.example").switch("--allow-plain-http-loopback");
    for command in ["register", "run"] {
        says(&other.run_to_end(command), 2, &["plain http to another machine is refused", "use https"]);
    }
    assert_eq!(testbed.counts().connections, 0);
    let allowed = setup.clone().switch("--allow-plain-http-loopback");
    let mut agent = allowed.spawn();
    goes_on(&testbed);
    assert!(agent.stop().status.success());
    // The credential alone names the endpoint now; the switch is still needed.
    let output = setup.without("--endpoint").run_to_end("run");
    let (code, text) = said(&output);
    assert!(code == 2 && text.contains("allow_plain_http_loopback"), "{code}: {text}");
}
