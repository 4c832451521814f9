//! `pullet doctor` and the files of this node: the keyring, the one-time token, the journal.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use pullet::limits;

use crate::agent::write_secret;
use crate::doctor::{at_rest, doctor, with_manifests};
use crate::scene::{SOON, quick, says};
use crate::testbed::Testbed;
use crate::testbed::owner::Owner;

#[test]
fn a_keyring_that_is_no_use_is_seen_and_is_a_setting_that_is_wrong() {
    let (_testbed, setup) = at_rest();
    doctor(&setup).tells("keyring", "skipped", &["no key is pinned"]);
    // Some are found when the journal has been begun, of which nothing was told yet.
    let broken = ["keyring", "agent", "journal"];
    let file = setup.home().join("keyring");
    let with = setup.clone().flag("--keyring", &file);
    let large = usize::try_from(limits::KEYRING_FILE_BYTES).unwrap() + 1;
    for (text, words) in [
        ("junk".to_owned(), "neither a keyring nor a fingerprint"),
        (String::new(), "it is empty"),
        ("x".repeat(large), "larger than a chain of keyrings"),
        ("a.b.c".to_owned(), "keyring of the configuration cannot be used"),
        (Owner::new().keyring(1)[..40].to_owned() + ".", "keyring of the configuration cannot be used"),
    ] {
        write_secret(&file, &text);
        let seen = doctor(&with);
        seen.tells("keyring", "failed", &[words, "mend the file of keyring"]).nothing_beside(&broken);
        says(&with.run_to_end("run"), 2, &[words]);
    }
    // A disk that is not there yet is no setting: a start may help.
    let absent = setup.clone().flag("--keyring", "/nonexistent/keyring");
    doctor(&absent).tells("keyring", "failed", &["/nonexistent/keyring"]).nothing_beside(&broken);
    says(&absent.run_to_end("run"), 1, &["/nonexistent/keyring"]);
    write_secret(&file, &Owner::new().keyring(1));
    doctor(&with).tells("keyring", "ok", &["a key of the owner is pinned"]).nothing_beside(&["agent", "journal"]);
    // What is pinned and damaged is no fault of the credential.
    write_secret(&setup.state_dir().join("keyring.json"), "{}");
    let seen = doctor(&setup);
    seen.tells("keyring", "failed", &["keyring.json", "from a backup"]).tells("credential", "ok", &["of c1"]);
    seen.nothing_beside(&broken);
}

#[test]
fn a_one_time_token_that_is_no_use_is_seen() {
    let testbed = Testbed::start();
    let setup = with_manifests(quick(&testbed));
    let token = setup.home().join("token");
    doctor(&setup).tells("credential", "warning", &["a one-time token waits"]);
    let wide: Vec<u8> = "\u{feff}abcdefghijklmnopqrstuv\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in
        [&wide[..], &[0xff; 500], b"abcdefghijklmnopqrstuv\nabcdefghijklmnopqrstuv\n", b"", &vec![b'x'; 65_537]]
    {
        fs::write(&token, bytes).unwrap();
        let seen = doctor(&setup);
        seen.tells("credential", "failed", &["the one-time token is no use", "plain text"]);
        seen.nothing_beside(&["credential", "agent"]);
    }
    write_secret(&token, "abcdefghijklmnopqrstuv");
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    doctor(&setup).tells("credential", "failed", &["open to group or others"]);
}

#[test]
fn a_journal_that_was_cut_is_mended_by_a_start() {
    let (testbed, setup) = at_rest();
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    agent.stop();
    let file = setup.state_dir().join("journal");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..1_000]).unwrap();
    doctor(&setup).tells("journal", "failed", &["start the agent"]).nothing_beside(&["journal", "agent"]);
    let polls = testbed.counts().polls;
    let mut agent = setup.spawn();
    testbed.polls(polls + 1, SOON);
    setup.close(&mut agent);
    doctor(&setup).tells("journal", "ok", &["whole"]);
}

#[test]
fn without_tls_a_server_that_says_nothing_has_no_fault_of_tls() {
    let (_testbed, setup) = at_rest();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let plain = setup.clone().switch("--allow-plain-http-loopback").flag("--endpoint", endpoint);
    let seen = doctor(&plain.flag("--state-dir", setup.home().join("new")));
    seen.tells("tls", "note", &["plain http"]).tells("protocol", "failed", &["connected, but there is no answer"]);
}
