#![cfg(test)]

use std::path::Path;
use std::sync::Arc;

use super::{Gate, KeySettings, Parts, asked, look};
use crate::journal::open::{Opened, open};
use crate::limits;
use crate::link::authorities::Voice;
use crate::link::{Bearer, Certificates, Credential, CredentialStore as _, StateDirectory, Wanted};
use crate::protocol::ClusterId;
use crate::trust::Signatures;
use crate::trust::keyring::{Key, Use};
use crate::trust::policy::{Policy, Rules};
use crate::trust::sign::SigningKey;

/// What a start finds: a state directory with a credential, and what lies beside it.
struct Place {
    home: tempfile::TempDir,
    store: Arc<StateDirectory>,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Arc::new(StateDirectory::open(home.path()).unwrap());
        let credential = Credential {
            cluster_id: ClusterId::parse("c1").unwrap(),
            endpoint: "https://a".into(),
            generation: 1,
            current: Bearer::new("abcdefghijklmnopqrstuv", None).unwrap(),
            previous: None,
            observed_token: String::new(),
            keys: None,
            machine: None,
            certificates: Certificates::default(),
            registered_at: None,
        };
        store.save(&credential).unwrap();
        Self { home, store }
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn journal(&self) -> Opened {
        open(self.store.handle(), limits::JOURNAL_MIN, 7).unwrap()
    }

    /// A start with this to pin.
    fn gate(&self, pin: Option<Wanted>) -> Gate {
        let journal = self.journal();
        let gate = Gate::open(Parts {
            cluster: "c1".into(),
            policy: Policy::new(Vec::new(), Vec::new()),
            settings: KeySettings { signatures: None, pin },
            keys: None,
            store: Arc::clone(&self.store) as _,
            outbox: &journal.outbox,
            found: journal.restored.kept.trust.as_ref().map(|(_, state)| state.as_slice()),
            quiet_since: None,
        });
        gate.unwrap()
    }

    /// The card has lost what was written in this file; the credential knows that there was a keyring.
    fn lose(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
        let credential = std::fs::read_to_string(self.path().join("credential.json")).unwrap();
        assert!(credential.contains("\"keyringVersion\":2"), "{credential}");
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

/// Two rings: the second one has another root key than the first.
fn chain() -> [String; 2] {
    let keys =
        |root| [(root, Use::Root), (2, Use::Job)].map(|(n, usage)| Key::new(*key(n).public(), usage, None, None));
    [key(1).sign_keyring(1, 1, &keys(1)), key(1).sign_keyring(2, 1, &keys(3))]
}

#[test]
fn who_asks_for_signatures_is_heard_and_nobody_weakens_what_is_asked() {
    use Signatures::{Off, Require, Warn};
    for (demanded, set, was_pinned, expected) in [
        (false, None, false, Warn),
        (false, None, true, Require),
        (false, Some(Off), true, Off),
        (false, Some(Warn), true, Warn),
        (false, Some(Require), false, Require),
        (true, None, false, Require),
        (true, Some(Off), true, Require),
        (true, Some(Warn), false, Require),
    ] {
        let policy = Policy::from(Rules { requires_signatures: demanded, ..Rules::default() });
        let settings = KeySettings { signatures: set, pin: None };
        assert_eq!(asked(&policy, &settings, was_pinned), expected, "{demanded} {set:?} {was_pinned}");
        // What narrows demands nothing less.
        let narrowed = policy.narrowed_by(&Policy::from(Rules::default()));
        assert_eq!(asked(&narrowed, &settings, was_pinned), expected, "{demanded} {set:?} {was_pinned}");
    }
    let policy = Policy::from(Rules::default());
    let settings = |pin| KeySettings { signatures: None, pin: Some(pin) };
    let fingerprint = Wanted::Fingerprint(key(1).kid());
    assert_eq!(asked(&policy, &settings(fingerprint), false), Require, "an owner who has not been heard yet");
    // A keyring that was pinned and is gone, or was replaced by an older one.
    let none = KeySettings::default();
    assert_eq!(look(None, 0, &none, &policy).unwrap(), (Warn, None, false));
    assert_eq!(look(None, 2, &none, &policy).unwrap(), (Require, None, false));
    let given = settings(Wanted::Chain(chain()[..1].to_vec()));
    let (signatures, ring, is_behind) = look(None, 2, &given, &policy).unwrap();
    assert_eq!((signatures, ring.map(|ring| ring.version()), is_behind), (Require, Some(1), true));
}

/// Who is heard, in a word.
fn voice(gate: &Gate) -> &'static str {
    gate.with_voice(|voice| match voice {
        Voice::Anybody => "anybody",
        Voice::Nobody => "nobody",
        Voice::Root(_) => "root",
    })
}

#[test]
fn who_vouches_for_authorities_is_the_pinned_root_key_or_else_the_control_plane() {
    let place = Place::new();
    assert_eq!(voice(&place.gate(None)), "anybody", "nobody was ever pinned");
    assert_eq!(voice(&place.gate(Some(Wanted::Fingerprint(key(1).kid())))), "nobody", "the ring has not come yet");
    assert_eq!(voice(&place.gate(Some(Wanted::Chain(chain().to_vec())))), "root");
    assert_eq!(voice(&place.gate(None)), "root", "it is kept");
}

#[test]
fn without_the_ring_that_was_pinned_nobody_vouches_for_authorities() {
    let place = Place::new();
    place.gate(Some(Wanted::Chain(chain().to_vec())));
    place.lose("keyring.json");
    assert_eq!(voice(&place.gate(None)), "nobody", "the journal and the credential know that there was one");
    place.lose("journal");
    place.lose("checkpoint");
    assert_eq!(voice(&place.gate(None)), "nobody", "the credential alone knows it");
    assert_eq!(voice(&place.gate(Some(Wanted::Chain(chain().to_vec())))), "root", "the owner gives it again");
}

/// The second ring leaves the first root key out: with the first one in its place again, that key would be heard.
#[test]
fn a_ring_that_is_behind_vouches_for_no_authorities() {
    let place = Place::new();
    place.gate(Some(Wanted::Chain(chain()[..1].to_vec())));
    let first = std::fs::read(place.path().join("keyring.json")).unwrap();
    assert_eq!(voice(&place.gate(Some(Wanted::Chain(chain().to_vec())))), "root");
    std::fs::write(place.path().join("keyring.json"), first).unwrap();
    let gate = place.gate(None);
    assert!(gate.standing().is_behind);
    assert_eq!(voice(&gate), "nobody");
    gate.offer(&chain(), &place.journal().outbox);
    assert!(!gate.standing().is_behind);
    assert_eq!(voice(&gate), "root", "it has caught up");
}
