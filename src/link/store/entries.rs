//! A credential as the entries of a Secret: the names and texts that the field knows, and a few of ours (decision 0023).
//!
//! | entry | |
//! |---|---|
//! | `control-plane-base-url`, `cluster-id`, `token` | the bearer in use, whose it is and for where |
//! | `keypair` | the keys that were made on the node |
//! | `mac-key` | the key for MACs that the server gave with the bearer |
//! | `keyring` | the pinned keyring, a compact JWS |
//! | `agent-state` | what none of these says: the bearer before, times, the machine, the one-time token's mark |
//! | `keypair-pending` | the keys of a registration that has no answer yet |
//! | `keyring-ledger` | there was a trust state for the keyring |
//!
//! Who puts a `token` there by hand takes `agent-state` away, or it speaks of another one: it holds the mark of the bearer
//! that it belongs to.

use zeroize::Zeroizing;

use super::{KeyTexts, Stored, StoredBearer, StoredKeys, StoredMachine, VERSION, written};
use crate::link::credential::{Credential, StoreError};
use crate::link::pinned::Pin;
use crate::link::secret_file::observed_token;
use crate::trust::identity::NodeKeys;

/// A name, and the text that stands there; none = nothing does.
pub type Entry = (&'static str, Option<Zeroizing<String>>);

const ENDPOINT: &str = "control-plane-base-url";
const CLUSTER_ID: &str = "cluster-id";
const TOKEN: &str = "token";
const KEYPAIR: &str = "keypair";
const MAC_KEY: &str = "mac-key";
const STATE: &str = "agent-state";
const PENDING: &str = "keypair-pending";
const KEYRING: &str = "keyring";
const LEDGER: &str = "keyring-ledger";

/// The entries of a credential.
pub const CREDENTIAL: [&str; 6] = [ENDPOINT, CLUSTER_ID, TOKEN, KEYPAIR, MAC_KEY, STATE];

/// What goes with a Cluster: all that is written here, or that the field keeps beside it, but for the pinned keyring.
pub const OF_A_CLUSTER: [&str; 10] =
    [ENDPOINT, CLUSTER_ID, TOKEN, KEYPAIR, MAC_KEY, STATE, PENDING, "ca.crt", "tls.crt", "tls.key"];

/// Reads an entry.
pub type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Zeroizing<String>>, StoreError>;

/// A credential, and that its keys do not wait for an answer any more.
#[must_use]
pub fn of_credential(credential: &Credential) -> Vec<Entry> {
    let open = |text: &str| Some(Zeroizing::new(text.to_owned()));
    let keys = credential.keys.as_deref().and_then(keypair);
    let previous = credential.previous.as_ref().and_then(|bearer| bearer.mac_key.as_ref()).map(|key| key.to_text());
    let mark = observed_token(&credential.current.token);
    let mac_keys = [None, previous];
    let mut state = Stored::of(credential, None, &mac_keys);
    // What has an entry of its own stands there alone. In the place of the bearer is its mark.
    (state.cluster_id, state.endpoint, state.current.token) = ("", "", &mark);
    vec![
        (ENDPOINT, open(&credential.endpoint)),
        (CLUSTER_ID, open(credential.cluster_id.as_str())),
        (TOKEN, open(credential.current.token.expose())),
        (KEYPAIR, keys),
        (MAC_KEY, credential.current.mac_key.as_ref().map(|key| key.to_text())),
        (STATE, text(written(&state))),
        (PENDING, None),
    ]
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
    let token = token.trim();
    let mark = observed_token(&crate::secret::Secret::new("bearer", token.to_owned()));
    if stored.current.token == mark {
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
    stored.into_credential().map(Some).map_err(|error| error.unwrap_or_else(malformed))
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
    use super::super::tests::credential;
    use super::{CREDENTIAL, OF_A_CLUSTER, of_credential, of_pending, of_pin, to_credential, to_pending, to_pin};
    use crate::link::credential::StoreError;
    use crate::link::pinned::Pin;
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

    fn load(secret: &Secret) -> Result<Option<crate::link::Credential>, StoreError> {
        to_credential(&|name| Ok(secret.get(name).cloned().map(Zeroizing::new)), malformed)
    }

    #[test]
    fn a_credential_comes_back_whole_and_each_secret_stands_in_one_place() {
        let before = credential(BEARER);
        let secret = secret(of_credential(&before));
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
    }

    #[test]
    fn a_bearer_that_was_put_there_by_hand_is_used_and_nothing_is_said_of_it_that_was_another_ones() {
        let mut secret = secret(of_credential(&credential(BEARER)));
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
        let whole = secret(of_credential(&credential(BEARER)));
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
