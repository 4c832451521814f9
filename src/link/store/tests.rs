#![cfg(test)]

use super::{Bearer, Credential, CredentialStore, StateDirectory, StoreError};
use crate::limits;
use crate::link::machine::Binding;
use crate::link::seal::Seal;
use crate::link::{Certificates, ClientCertificate};
use crate::protocol::{ClusterId, Timestamp};
use crate::trust::base64url;
use crate::trust::client_key::ClientKey;
use crate::trust::identity::NodeKeys;
use crate::trust::mac::MacKey;
use ring::rand::SystemRandom;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

const TOKEN: &str = "abcdefghijklmnopqrstuv";

pub(super) fn credential(token: &str) -> Credential {
    Credential {
        cluster_id: ClusterId::parse("c1").unwrap(),
        endpoint: "https://a/base".into(),
        generation: 3,
        current: Bearer {
            rotate_after: Some(Timestamp::from_unix_seconds(8)),
            issued_at: Some(Timestamp::from_unix_seconds(7)),
            mac_key: MacKey::given(&base64url::encode(&[5; 32])).map(Arc::new),
            ..Bearer::new(token, Some(Timestamp::from_unix_seconds(9))).unwrap()
        },
        previous: Some(Bearer::new(TOKEN, None).unwrap()),
        observed_token: "0011223344556677".into(),
        keys: Some(Arc::new(
            NodeKeys::parse(&base64url::encode(&[1; 32]), &base64url::encode(&[2; 32]), None).unwrap(),
        )),
        machine: Some(Binding { id: Some("m".into()), serial: None }),
        certificates: Certificates::default(),
        registered_at: Some(Timestamp::from_unix_seconds(6)),
    }
}

pub(super) fn certificate(length: usize) -> Arc<ClientCertificate> {
    let key = ClientKey::generate(&SystemRandom::new()).unwrap();
    // What would be escaped takes no more room.
    Arc::new(ClientCertificate { key, chain: "\u{1}".repeat(length) })
}

/// The longest of everything fits, sealed or not; a byte more in a certificate does not come from us and is refused.
#[test]
fn client_certificates_are_kept_beside_the_credential() {
    let directory = tempfile::tempdir().unwrap();
    for (name, seal) in [("open", None), ("sealed", Seal::new(&[7; 32]))] {
        let path = directory.path().join(name);
        let store = StateDirectory::open_sealed(&path, seal).unwrap();
        let whole = |length| Credential {
            certificates: Certificates { current: Some(certificate(length)), next: Some(certificate(length)) },
            previous: Some(Bearer::new(&"p".repeat(limits::BEARER_MAX), None).unwrap()),
            ..credential(&"x".repeat(limits::BEARER_MAX))
        };
        let stored = whole(limits::ISSUED_CHAIN_BYTES);
        store.save(&stored).unwrap();
        let loaded = store.load().unwrap().unwrap().certificates;
        for (stored, loaded) in [(stored.certificates.current, loaded.current), (stored.certificates.next, loaded.next)]
        {
            let (stored, loaded) = (stored.unwrap(), loaded.unwrap());
            assert_eq!((loaded.key.pkcs8(), &loaded.chain), (stored.key.pkcs8(), &stored.chain));
        }
        let longer = Some(certificate(limits::ISSUED_CHAIN_BYTES + 1));
        let certificates = Certificates { current: longer, next: None };
        store.save(&Credential { certificates, ..credential(TOKEN) }).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Malformed(_))));
        store.save(&credential(TOKEN)).unwrap();
        let none = store.load().unwrap().unwrap().certificates;
        assert!(none.current.is_none() && none.next.is_none(), "as before there were any");
    }
}

#[test]
fn a_certificate_without_a_key_of_its_kind_is_no_credential() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    let certificates = Certificates { current: Some(certificate(100)), next: None };
    store.save(&Credential { certificates, ..credential(TOKEN) }).unwrap();
    let path = directory.path().join("credential.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let text = certificates_text(&whole);
    for wrong in ["", "AAAA.AAAA", &text[2..], &text[..60]] {
        std::fs::write(&path, whole.replace(text, wrong)).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Malformed(_))), "{wrong}");
    }
}

fn certificates_text(whole: &str) -> &str {
    let rest = whole.split_once("\"certificate\":\"").unwrap().1;
    rest.split_once('"').unwrap().0
}

/// A power cut leaves the old authorities or the new ones, never half of them; and nobody else may read or write them.
#[test]
fn given_authorities_take_the_place_of_those_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    for text in ["first", "second, and longer", "3"] {
        store.keep_authorities(text.as_bytes()).unwrap();
        let path = directory.path().join("ca.pem");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(names(directory.path()), ["ca.pem"], "nothing was left over");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_was_saved_is_loaded_and_is_closed_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/state");
    let store = StateDirectory::open(&path).unwrap();
    assert!(store.load().unwrap().is_none());
    store.save(&credential("1234567890123456789012")).unwrap();
    let loaded = store.load().unwrap().unwrap();
    assert_eq!(loaded.current.token.expose(), "1234567890123456789012");
    assert_eq!(loaded.current.expires_at, Some(Timestamp::from_unix_seconds(9)));
    assert_eq!(loaded.current.rotate_after, Some(Timestamp::from_unix_seconds(8)));
    assert_eq!(loaded.current.issued_at, Some(Timestamp::from_unix_seconds(7)));
    assert_eq!(loaded.current.mac_key.unwrap().to_text().as_str(), base64url::encode(&[5; 32]));
    assert_eq!(loaded.registered_at, Some(Timestamp::from_unix_seconds(6)));
    assert_eq!(loaded.machine, Some(Binding { id: Some("m".into()), serial: None }));
    assert_eq!(*loaded.keys.unwrap().payload().present.to_bytes(), [2; 32]);
    let previous = loaded.previous.unwrap();
    assert_eq!((previous.token.expose(), previous.mac_key.is_none()), (TOKEN, true));
    assert_eq!((loaded.generation, loaded.endpoint.as_str()), (3, "https://a/base"));
    let mode = std::fs::metadata(path.join("credential.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn one_agent_acts_on_one_state_directory() {
    let directory = tempfile::tempdir().unwrap();
    let first = StateDirectory::open(directory.path()).unwrap();
    assert!(
        matches!(StateDirectory::open(directory.path()), Err(StoreError::Unsafe(_, fault)) if fault.contains("another"))
    );
    drop(first);
    assert!(StateDirectory::open(directory.path()).is_ok());
}

#[test]
fn a_truncated_a_foreign_and_a_newer_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    store.save(&credential(TOKEN)).unwrap();
    let path = directory.path().join("credential.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    for text in [
        "",
        "{}",
        "[1]",
        "null",
        &whole[..whole.len() - 1],
        &whole.replace("\"version\":1", "\"version\":2"),
        &whole.replace("\"generation\":3", "\"generation\":\"3\""),
        &whole.replace("\"c1\"", "\"c 1\""),
        &whole.replace(&base64url::encode(&[5; 32]), &base64url::encode(&[5; 31])),
        &whole.replace(&base64url::encode(&[1; 32]), "no key"),
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Malformed(_))), "{text}");
    }
    std::fs::write(&path, whole.replace(TOKEN, "short")).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Token(_))));
}

#[test]
fn open_files_links_and_large_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    store.save(&credential(TOKEN)).unwrap();
    let path = directory.path().join("credential.json");
    set_mode(&path, 0o640);
    assert!(matches!(store.load(), Err(StoreError::Unsafe(_, fault)) if fault.contains("chmod 600")));
    set_mode(&path, 0o600);
    std::fs::write(&path, vec![b' '; usize::try_from(limits::SECRET_FILE_BYTES).unwrap() + 1]).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Unsafe(_, fault)) if fault.contains("larger")));
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Unsafe(_, "it is a link"))));
}

#[test]
fn a_state_directory_that_others_may_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o777);
    assert!(matches!(StateDirectory::open(directory.path()), Err(StoreError::Unsafe(..))));
}

#[test]
fn what_is_no_directory_or_a_link_to_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    std::fs::write(&file, "").unwrap();
    symlink(directory.path(), &link).unwrap();
    let fault = |path: &Path| match StateDirectory::open(path) {
        Err(StoreError::Unsafe(_, fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&file), "it is not a directory");
    assert_eq!(fault(&file.join("below")), "it is not a directory");
    assert!(fault(&link).starts_with("it is a link"));
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn of_those_who_write_at_once_one_is_the_last_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    std::thread::scope(|scope| {
        for letter in *b"abcd" {
            let store = &store;
            scope.spawn(move || (0..20).for_each(|_| store.replace("holder", &[letter; 10_000]).unwrap()));
        }
    });
    let text = store.read("holder").unwrap().unwrap();
    assert_eq!(text.len(), 10_000);
    assert!(text.bytes().all(|byte| text.starts_with(char::from(byte))), "it is the text of one of them");
    assert_eq!(names(directory.path()), ["holder"]);
}

#[test]
fn what_cannot_be_put_in_its_place_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    std::fs::create_dir(directory.path().join("credential.json")).unwrap();
    assert!(
        matches!(store.save(&credential(TOKEN)), Err(StoreError::Io(path, _)) if path.ends_with("credential.json"))
    );
    store.rehearse().unwrap();
    assert_eq!(names(directory.path()), ["credential.json"]);
}

#[test]
fn what_a_power_cut_left_beside_goes_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let stale = [".credential.json.new", ".credential.json.0123456789abcdef.new", ".traffic.json.new", ".journal.new"];
    let kept = [".hidden", "clock.json.new", "traffic.json"];
    for name in stale.into_iter().chain(kept) {
        std::fs::write(directory.path().join(name), TOKEN).unwrap();
    }
    std::fs::create_dir(directory.path().join(".directory.new")).unwrap();
    let first = StateDirectory::open(directory.path()).unwrap();
    let left = [".directory.new", ".hidden", "clock.json.new", "traffic.json"];
    assert_eq!(names(directory.path()), left);
    // Another one that only looks, or finds the lock taken, touches nothing of what is being written.
    std::fs::write(directory.path().join(stale[1]), TOKEN).unwrap();
    assert!(StateDirectory::open(directory.path()).is_err() && StateDirectory::look_at(directory.path(), None).is_ok());
    assert!(directory.path().join(stale[1]).exists());
    drop(first);
    StateDirectory::open(directory.path()).unwrap();
    assert_eq!(names(directory.path()), left);
}

#[test]
fn pending_keys_wait_for_their_credential() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    assert!(store.pending_keys().unwrap().is_none());
    let keys = NodeKeys::generate(&SystemRandom::new()).unwrap();
    store.keep_keys(&keys).unwrap();
    assert_eq!(store.pending_keys().unwrap().unwrap().identity(), keys.identity());
    store.save(&Credential { keys: Some(Arc::new(keys)), ..credential(TOKEN) }).unwrap();
    assert!(store.pending_keys().unwrap().is_none(), "they are in the credential now");
    std::fs::write(directory.path().join("keys.json"), "{\"version\":1,\"keys\":{}}").unwrap();
    set_mode(&directory.path().join("keys.json"), 0o600);
    assert!(matches!(store.pending_keys(), Err(StoreError::Malformed(_))));
}

/// It is kept as long as what was encrypted to it may still be on its way, and then it is nowhere any more.
#[test]
fn the_payload_key_of_before_a_registration_goes_with_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    let registered = |ago: u64| {
        let random = SystemRandom::new();
        let keys = NodeKeys::generate(&random).unwrap().after(&NodeKeys::generate(&random).unwrap());
        let at = Timestamp::from_unix_seconds(crate::clock::unix_seconds() - ago);
        Credential { keys: Some(Arc::new(keys)), registered_at: Some(at), ..credential(TOKEN) }
    };
    let life = limits::PAYLOAD_KEY_KEPT.as_secs();
    for (ago, is_kept) in [(life - 100, true), (life + 100, false)] {
        let before = registered(ago);
        store.save(&before).unwrap();
        let (identity, present) =
            before.keys.as_ref().map(|keys| (keys.identity().clone(), keys.payload().present.to_bytes())).unwrap();
        let aged = before.aged(&store).keys.unwrap();
        let stored = store.load().unwrap().unwrap().keys.unwrap();
        for keys in [aged, stored] {
            assert_eq!(keys.payload().previous.is_some(), is_kept, "{ago}");
            assert_eq!((keys.identity(), keys.payload().present.to_bytes()), (&identity, present.clone()));
        }
    }
}

#[test]
fn what_is_sealed_opens_with_its_key_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = |key: Option<u8>| {
        let seal = key.map(|byte| Seal::new(&[byte; 32]).unwrap());
        StateDirectory::open_sealed(directory.path(), seal).unwrap()
    };
    store(None).save(&credential("1234567890123456789012")).unwrap();
    let sealed = store(Some(1));
    assert_eq!(sealed.load().unwrap().unwrap().generation, 3, "one of before is read");
    sealed.seal_what_is_open().unwrap();
    sealed.seal_what_is_open().unwrap();
    assert_eq!(sealed.load().unwrap().unwrap().current.token.expose(), "1234567890123456789012");
    let text = std::fs::read_to_string(directory.path().join("credential.json")).unwrap();
    assert!(!text.contains("1234567890123456789012") && !text.contains("clusterId"), "{text}");
    drop(sealed);
    for key in [None, Some(2)] {
        assert!(matches!(store(key).load(), Err(StoreError::Sealed(_))), "{key:?}");
    }
}

#[test]
fn a_copy_can_be_put_back_or_forgotten_whatever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(directory.path()).unwrap();
    let path = directory.path().join("credential.json");
    store.keep_copy().unwrap();
    store.put_back().unwrap();
    assert!(store.load().unwrap().is_none());
    store.save(&credential(TOKEN)).unwrap();
    store.keep_copy().unwrap();
    store.save(&credential("1234567890123456789012")).unwrap();
    store.put_back().unwrap();
    assert_eq!(store.load().unwrap().unwrap().current.token.expose(), TOKEN);
    std::fs::write(&path, "rubbish").unwrap();
    set_mode(&path, 0o644);
    store.keep_copy().unwrap();
    assert!(store.load().unwrap().is_none());
    store.save(&credential(TOKEN)).unwrap();
    store.forget_copy().unwrap();
    assert!(!directory.path().join("credential.before.json").exists());
}
