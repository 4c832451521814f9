//! A credential as the entries of a Secret: the names and texts that the field knows, and a few of ours (decision 0023).
//!
//! | entry | |
//! |---|---|
//! | `control-plane-base-url`, `cluster-id`, `token` | the bearer in use, whose it is and for where |
//! | `keypair` | the keys that were made on the node |
//! | `mac-key` | the key for MACs that the server gave with the bearer |
//! | `keyring` | the pinned keyring, a compact JWS |
//! | `tls.crt`, `tls.key` | the client certificate in use: one that was issued here, or the owner's |
//! | `ca.crt` | authorities that the control plane gave, or the owner |
//! | `agent-state` | what none of these says: the bearer before, times, the machine, the one-time token's mark |
//! | `keypair-pending` | the keys of a registration that has no answer yet |
//! | `keyring-ledger` | there was a trust state for the keyring |
//!
//! Who puts a `token` there by hand takes `agent-state` away, or it speaks of another one: it holds the mark of the bearer
//! that it belongs to. It holds the mark of the client certificate that was issued here, too: another one is the owner's, who
//! renews it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{KeyTexts, Stored, StoredBearer, StoredKeys, StoredMachine, VERSION, written};
use crate::link::certificate::ClientCertificate;
use crate::link::credential::{Credential, StoreError};
use crate::link::pinned::Pin;
use crate::link::secret_file::mark;
use crate::trust::identity::NodeKeys;

/// A name, and the text that stands there; none = nothing does.
pub type Entry = (&'static str, Option<Zeroizing<String>>);

const ENDPOINT: &str = "control-plane-base-url";
const CLUSTER_ID: &str = "cluster-id";
const TOKEN: &str = "token";
const KEYPAIR: &str = "keypair";
const MAC_KEY: &str = "mac-key";
const STATE: &str = "agent-state";
const CHAIN: &str = "tls.crt";
const CHAIN_KEY: &str = "tls.key";
const PENDING: &str = "keypair-pending";
const KEYRING: &str = "keyring";
const LEDGER: &str = "keyring-ledger";

/// Authorities beside those of the system, in PEM.
pub const AUTHORITIES: &str = "ca.crt";

/// The entries of a credential.
pub const CREDENTIAL: [&str; 8] = [ENDPOINT, CLUSTER_ID, TOKEN, KEYPAIR, MAC_KEY, STATE, CHAIN, CHAIN_KEY];

/// What goes with a Cluster: all that is written here, or that the field keeps beside it, but for the pinned keyring.
pub const OF_A_CLUSTER: [&str; 10] =
    [ENDPOINT, CLUSTER_ID, TOKEN, KEYPAIR, MAC_KEY, STATE, PENDING, AUTHORITIES, CHAIN, CHAIN_KEY];

/// Reads an entry.
pub type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Zeroizing<String>>, StoreError>;

/// A client certificate that the owner put there, and its key, both in PEM.
pub type Provided = (Zeroizing<String>, Zeroizing<String>);

/// The owner's client certificate; none where there is none, or one that was issued here.
///
/// # Errors
/// As `read`'s.
pub fn provided(read: Read<'_>) -> Result<Option<Provided>, StoreError> {
    let Some(chain) = read(CHAIN)? else { return Ok(None) };
    let state = read(STATE)?;
    let state = state.as_deref().and_then(|state| serde_json::from_str::<Stored<'_>>(state).ok());
    if state.is_some_and(|state| state.certificate == Some(&mark(&chain))) {
        return Ok(None);
    }
    // Without its key it is the owner's all the same, and no use.
    Ok(Some((chain, read(CHAIN_KEY)?.unwrap_or_default())))
}

/// A credential, and that its keys do not wait for an answer any more. The owner's client certificate stays where it is.
#[must_use]
pub fn of_credential(credential: &Credential, has_provided: bool) -> Vec<Entry> {
    let open = |text: &str| Some(Zeroizing::new(text.to_owned()));
    let keys = credential.keys.as_deref().and_then(keypair);
    let previous = credential.previous.as_ref().and_then(|bearer| bearer.mac_key.as_ref()).map(|key| key.to_text());
    let bearer = mark(credential.current.token.expose());
    let mac_keys = [None, previous];
    let mut state = Stored::of(credential, None, &mac_keys);
    // What has an entry of its own stands there alone. In the place of the bearer is its mark, as in that of the certificate.
    (state.cluster_id, state.endpoint, state.current.token) = ("", "", &bearer);
    let issued = credential.certificates.current.as_deref();
    let issued_mark = issued.map(|issued| mark(&issued.chain));
    let next = credential.certificates.next.as_ref().map(|next| next.to_text());
    state.certificate = issued_mark.as_deref();
    state.next_certificate = next.as_deref().map(String::as_str);
    let mut entries = vec![
        (ENDPOINT, open(&credential.endpoint)),
        (CLUSTER_ID, open(credential.cluster_id.as_str())),
        (TOKEN, open(credential.current.token.expose())),
        (KEYPAIR, keys),
        (MAC_KEY, credential.current.mac_key.as_ref().map(|key| key.to_text())),
        (STATE, text(written(&state))),
        (PENDING, None),
    ];
    if !has_provided {
        entries.push((CHAIN, issued.and_then(|issued| open(&issued.chain))));
        entries.push((CHAIN_KEY, issued.map(|issued| issued.key.to_pem())));
    }
    entries
}

/// The credential that entries make; none where there is no bearer.
///
/// # Errors
/// As `read`'s; `malformed` where they make none.
pub fn to_credential(read: Read<'_>, malformed: impl Fn() -> StoreError) -> Result<Option<Credential>, StoreError> {
    let (Some(token), Some(endpoint), Some(cluster_id)) = (read(TOKEN)?, read(ENDPOINT)?, read(CLUSTER_ID)?) else {
        return Ok(None);
    };
    let (keys, mac_key, state) = (read(KEYPAIR)?, read(MAC_KEY)?, read(STATE)?);
    let mut stored = match &state {
        Some(state) => serde_json::from_str(state).map_err(|_| malformed())?,
        None => Stored {
            version: VERSION,
            cluster_id: "",
            endpoint: "",
            generation: 0,
            current: BARE,
            previous: None,
            observed_token: "",
            keys: None,
            machine: None::<StoredMachine>,
            certificate: None,
            next_certificate: None,
            registered_at: None,
            keyring_version: 0,
        },
    };
    if stored.version != VERSION {
        return Err(malformed());
    }
    // One that is damaged is none, and another one is asked for.
    let issued = match (stored.certificate.take(), read(CHAIN)?, read(CHAIN_KEY)?) {
        (Some(issued), Some(chain), Some(key)) if issued == mark(&chain) => ClientCertificate::from_pem(&chain, &key),
        _ => None,
    };
    let token = token.trim();
    if stored.current.token == mark(token) {
        stored.current.mac_key = mac_key.as_deref().map(String::as_str);
    } else {
        // Endpoint and cluster may be others as well: the bearer before it belongs to those of before.
        (stored.current, stored.previous) = (BARE, None);
    }
    stored.current.token = token;
    (stored.endpoint, stored.cluster_id) = (endpoint.trim(), cluster_id.trim());
    if let Some(keys) = &keys {
        stored.keys = Some(serde_json::from_str::<StoredKeys<'_>>(keys).map_err(|_| malformed())?);
    }
    let mut credential = stored.into_credential().map_err(|error| error.unwrap_or_else(malformed))?;
    credential.certificates.current = issued.map(Arc::new);
    Ok(Some(credential))
}

/// A bearer of which nothing else is known.
const BARE: StoredBearer<'static> =
    StoredBearer { token: "", expires_at: None, rotate_after: None, issued_at: None, mac_key: None };

/// The keys of a registration that is about to be asked for.
#[must_use]
pub fn of_pending(keys: &NodeKeys) -> Entry {
    (PENDING, keypair(keys))
}

/// The keys of a registration that has no answer yet.
///
/// # Errors
/// As `read`'s; `malformed` where they are none.
pub fn to_pending(read: Read<'_>, malformed: impl Fn() -> StoreError) -> Result<Option<NodeKeys>, StoreError> {
    let Some(text) = read(PENDING)? else { return Ok(None) };
    let keys = serde_json::from_str::<StoredKeys<'_>>(&text).ok().and_then(|stored| stored.parse());
    keys.map(Some).ok_or_else(malformed)
}

/// A pinned keyring.
#[must_use]
pub fn of_pin(pin: &Pin) -> [Entry; 2] {
    let open = |text: &str| Zeroizing::new(text.to_owned());
    [(KEYRING, Some(open(&pin.keyring))), (LEDGER, pin.has_ledger.then(|| open("true")))]
}

/// The pinned keyring.
///
/// # Errors
/// As `read`'s.
pub fn to_pin(read: Read<'_>) -> Result<Option<Pin>, StoreError> {
    let Some(keyring) = read(KEYRING)? else { return Ok(None) };
    Ok(Some(Pin { keyring: keyring.trim().to_owned(), has_ledger: read(LEDGER)?.is_some() }))
}

fn keypair(keys: &NodeKeys) -> Option<Zeroizing<String>> {
    text(written(&KeyTexts::of(keys).stored()))
}

/// JSON is text.
fn text(bytes: Zeroizing<Vec<u8>>) -> Option<Zeroizing<String>> {
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{certificate, credential};
    use super::{
        CREDENTIAL, OF_A_CLUSTER, of_credential, of_pending, of_pin, provided, to_credential, to_pending, to_pin,
    };
    use crate::link::credential::StoreError;
    use crate::link::pinned::Pin;
    use crate::link::{Certificates, Credential};
    use crate::protocol::Timestamp;
    use std::collections::HashMap;
    use std::path::PathBuf;
    use zeroize::Zeroizing;

    const BEARER: &str = "1234567890123456789012";

    type Secret = HashMap<&'static str, String>;

    fn secret(entries: impl IntoIterator<Item = super::Entry>) -> Secret {
        entries.into_iter().filter_map(|(name, text)| Some((name, text?.to_string()))).collect()
    }

    fn malformed() -> StoreError {
        StoreError::Malformed(PathBuf::new())
    }

    fn load(secret: &Secret) -> Result<Option<Credential>, StoreError> {
        to_credential(&|name| Ok(secret.get(name).cloned().map(Zeroizing::new)), malformed)
    }

    #[test]
    fn a_credential_comes_back_whole_and_each_secret_stands_in_one_place() {
        let certificates = Certificates { current: Some(certificate(100)), next: Some(certificate(200)) };
        let before = Credential { certificates, ..credential(BEARER) };
        let secret = secret(of_credential(&before, false));
        let mut names: Vec<&str> = secret.keys().copied().collect();
        names.sort_unstable();
        let mut expected = CREDENTIAL;
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert!(names.iter().all(|name| OF_A_CLUSTER.contains(name)));
        assert_eq!(
            (secret["token"].as_str(), secret["cluster-id"].as_str(), secret["control-plane-base-url"].as_str()),
            (BEARER, "c1", "https://a/base")
        );
        assert!(!secret["agent-state"].contains(BEARER) && !secret["agent-state"].contains(&secret["mac-key"]));
        let after = load(&secret).unwrap().unwrap();
        assert_eq!(after.current.token.expose(), BEARER);
        assert_eq!(after.current.expires_at, Some(Timestamp::from_unix_seconds(9)));
        assert_eq!(after.current.mac_key.unwrap().to_text(), before.current.mac_key.unwrap().to_text());
        assert_eq!(after.previous.unwrap().token.expose(), before.previous.unwrap().token.expose());
        assert_eq!((after.generation, after.endpoint, after.machine), (3, before.endpoint, before.machine));
        assert_eq!(after.keys.unwrap().identity(), before.keys.unwrap().identity());
        let key = &secret["tls.key"];
        assert!(key.lines().filter(|line| line.len() == 64).all(|line| !secret["agent-state"].contains(line)));
        let (before, after) = (before.certificates, after.certificates);
        for (before, after) in [(before.current, after.current), (before.next, after.next)] {
            let (before, after) = (before.unwrap(), after.unwrap());
            assert_eq!((before.key.pkcs8(), &before.chain), (after.key.pkcs8(), &after.chain));
        }
    }

    /// One that was issued here is renewed and taken away here; another one stays where its owner has put it.
    #[test]
    fn the_owners_certificate_is_told_from_an_issued_one() {
        let is_owners = |secret: &Secret| {
            let read = |name: &str| Ok(secret.get(name).cloned().map(Zeroizing::new));
            provided(&read).unwrap().is_some()
        };
        let certificates = Certificates { current: Some(certificate(100)), next: None };
        let issued = Credential { certificates, ..credential(BEARER) };
        let mut secret = secret(of_credential(&issued, false));
        let mut damaged = secret.clone();
        assert!(!is_owners(&secret));
        let none = of_credential(&credential(BEARER), false);
        assert!(none.iter().any(|(name, text)| *name == "tls.crt" && text.is_none()), "it goes with its mark");
        secret.insert("tls.crt", "another".into());
        assert!(is_owners(&secret) && load(&secret).unwrap().unwrap().certificates.current.is_none());
        assert!(of_credential(&issued, true).iter().all(|(name, _)| !name.starts_with("tls")));
        secret.remove("tls.key");
        assert!(is_owners(&secret), "half of one is not for us to mend");
        secret.remove("tls.crt");
        assert!(!is_owners(&secret) && load(&secret).unwrap().is_some());
        // A damaged one is asked for anew.
        damaged.insert("tls.key", "x".into());
        assert!(!is_owners(&damaged) && load(&damaged).unwrap().unwrap().certificates.current.is_none());
    }

    #[test]
    fn a_bearer_that_was_put_there_by_hand_is_used_and_nothing_is_said_of_it_that_was_another_ones() {
        let mut secret = secret(of_credential(&credential(BEARER), false));
        secret.insert("token", "another-one-of-22-chars\n".into());
        let credential = load(&secret).unwrap().unwrap();
        assert_eq!(credential.current.token.expose(), "another-one-of-22-chars");
        assert!(credential.current.expires_at.is_none() && credential.current.mac_key.is_none());
        assert_eq!(credential.generation, 3);
        secret.retain(|name, _| matches!(*name, "token" | "cluster-id" | "control-plane-base-url"));
        let credential = load(&secret).unwrap().unwrap();
        assert!(credential.keys.is_none() && credential.previous.is_none());
    }

    #[test]
    fn what_lacks_the_bearer_is_none_and_what_is_damaged_is_an_error() {
        let whole = secret(of_credential(&credential(BEARER), false));
        for name in ["token", "cluster-id", "control-plane-base-url"] {
            let mut secret = whole.clone();
            secret.remove(name);
            assert!(load(&secret).unwrap().is_none(), "{name}");
        }
        let state = &whole["agent-state"];
        let newer = state.replace("\"version\":1", "\"version\":2");
        for (name, wrong) in [
            ("agent-state", &state[..state.len() - 1]),
            ("agent-state", &newer),
            ("agent-state", "[]"),
            ("keypair", "{}"),
            ("keypair", "x"),
            ("mac-key", "short"),
            ("cluster-id", "a b"),
        ] {
            let mut secret = whole.clone();
            secret.insert(name, wrong.to_owned());
            assert!(matches!(load(&secret), Err(StoreError::Malformed(_))), "{name} {wrong}");
        }
        let mut secret = whole;
        secret.insert("token", "short".into());
        assert!(matches!(load(&secret), Err(StoreError::Token(_))));
    }

    #[test]
    fn keys_that_wait_and_a_pin_come_back() {
        let keys = credential(BEARER).keys.unwrap();
        let pending = secret([of_pending(&keys)]);
        let read = |name: &str| Ok(pending.get(name).cloned().map(Zeroizing::new));
        assert_eq!(to_pending(&read, malformed).unwrap().unwrap().identity(), keys.identity());
        let none = |_: &str| Ok(None);
        assert!(to_pending(&none, malformed).unwrap().is_none() && to_pin(&none).unwrap().is_none());
        let wrong = |_: &str| Ok(Some(Zeroizing::new("{}".to_owned())));
        assert!(matches!(to_pending(&wrong, malformed), Err(StoreError::Malformed(_))));
        for has_ledger in [false, true] {
            let pin = Pin { keyring: "a.b.c".into(), has_ledger };
            let held = secret(of_pin(&pin));
            assert!(held.keys().all(|name| !OF_A_CLUSTER.contains(name)), "it outlives the Cluster");
            assert_eq!(to_pin(&|name| Ok(held.get(name).cloned().map(Zeroizing::new))).unwrap(), Some(pin));
        }
    }
}
