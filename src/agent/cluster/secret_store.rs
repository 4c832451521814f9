//! The credential in the Secret that the manifests made for it (decision 0023).
//!
//! What is written carries the version that was read, so that a write of somebody else in between is not covered. What
//! is read is never kept: a Secret that was changed by hand is seen at the next look.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;
use crate::link::store::entries::{self, Entry, Provided};
use crate::link::{Credential, CredentialStore, Pin, PinStore, StateDirectory, StoreError};
use crate::target::kubernetes::{Own, OwnError, SecretObject, push_encoded, push_text, secret_patch};
use crate::trust::identity::NodeKeys;
use zeroize::Zeroizing;

/// The Secret. It is made empty by the manifests: the agent's account makes none.
pub(crate) const NAME: &str = "vworkspace-agent-credentials";

/// What was replaced by a registration over another credential, entry by entry.
const BEFORE: &str = "before-";

/// How often a write begins anew because somebody else wrote in between.
const TRIES: u32 = 3;

/// The store. It blocks.
pub(super) struct SecretStore {
    own: Own,
    /// Where authorities lie for those who follow files.
    state: Option<Arc<StateDirectory>>,
    /// Name and uid of the Cluster that the credential is for.
    owner: Mutex<(String, String)>,
}

impl SecretStore {
    pub(super) fn new(own: Own, state: Option<Arc<StateDirectory>>) -> Self {
        Self { own, state, owner: Mutex::default() }
    }

    /// The client certificate that the owner put there; none where there is none.
    pub(super) fn provided(&self) -> Result<Option<Provided>, StoreError> {
        provided(&self.secret()?)
    }

    /// Puts the authorities of the Secret into the state directory, for those who follow files, unless they are there. They
    /// are the owner's or were looked at when they came.
    pub(super) fn restore_authorities(&self) -> Result<(), StoreError> {
        let secret = self.secret()?;
        match (&self.state, secret.text(entries::AUTHORITIES).map_err(not_read)?) {
            (Some(state), Some(pem)) if pem.len() <= limits::GIVEN_AUTHORITIES_BYTES => state.hold_authorities(&pem),
            (Some(_), Some(_)) => Err(malformed()),
            _ => Ok(()),
        }
    }

    /// The Secret belongs to this Cluster from the next write on.
    pub(super) fn set_owner(&self, name: &str, uid: &str) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = (name.to_owned(), uid.to_owned());
    }

    /// Takes the credential away, and the owner: the Secret stays for the next Cluster. So does a pinned keyring, since
    /// another Cluster is no reason to trust another owner.
    pub(super) fn erase(&self) -> Result<(), StoreError> {
        self.change(r#","ownerReferences":null"#, |secret, patch| {
            for name in entries::OF_A_CLUSTER {
                if secret.encoded(name).is_some() {
                    push_encoded(patch, name, None);
                }
            }
            for name in entries::CREDENTIAL {
                let before = [BEFORE, name].concat();
                if secret.encoded(&before).is_some() {
                    push_encoded(patch, &before, None);
                }
            }
            Ok(())
        })?;
        self.state.as_ref().map_or(Ok(()), |state| state.drop_authorities())
    }

    fn write(&self, entries: &[Entry]) -> Result<(), StoreError> {
        self.change(&self.owner_reference(), |_, patch| {
            push_all(patch, entries);
            Ok(())
        })
    }

    fn owner_reference(&self) -> String {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, uid) = &*owner;
        if uid.is_empty() {
            return String::new();
        }
        // Both are names of Kubernetes, which need no escapes.
        format!(
            r#","ownerReferences":[{{"apiVersion":"ops.vworkspace.io/v1alpha1","kind":"Cluster","name":"{name}","uid":"{uid}"}}]"#
        )
    }

    /// Reads, and writes what `entries` makes of that; nothing where it makes nothing.
    fn change(
        &self,
        metadata: &str,
        entries: impl Fn(&SecretObject, &mut String) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut tries = TRIES;
        loop {
            let secret = self.own.secret(NAME).map_err(not_read)?;
            let mut patch = secret_patch(&secret.version);
            patch.push_str(metadata);
            patch.push_str(r#"},"data":{"#);
            let bare = patch.len();
            entries(&secret, &mut patch)?;
            if patch.len() == bare {
                return Ok(());
            }
            // The comma behind the last one.
            patch.pop();
            patch.push_str("}}");
            match self.own.patch_secret(NAME, &patch, false) {
                Err(OwnError::Conflict) if tries > 1 => tries -= 1,
                Err(error) => return Err(not_read(error)),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn secret(&self) -> Result<SecretObject, StoreError> {
        self.own.secret(NAME).map_err(not_read)
    }
}

fn push_all(patch: &mut String, entries: &[Entry]) {
    for (name, text) in entries {
        push_text(patch, name, text.as_deref().map(String::as_str));
    }
}

fn provided(secret: &SecretObject) -> Result<Option<Provided>, StoreError> {
    entries::provided(&|name| secret.text(name).map_err(not_read))
}

pub(super) fn place() -> PathBuf {
    PathBuf::from("the Secret vworkspace-system/vworkspace-agent-credentials")
}

fn malformed() -> StoreError {
    StoreError::Malformed(place())
}

fn not_read(error: OwnError) -> StoreError {
    StoreError::Io(place(), io::Error::other(error))
}

impl CredentialStore for SecretStore {
    fn load(&self) -> Result<Option<Credential>, StoreError> {
        let secret = self.secret()?;
        entries::to_credential(&|name| secret.text(name).map_err(not_read), malformed)
    }

    /// A patch that the API server judges and does not carry out.
    fn rehearse(&self) -> Result<(), StoreError> {
        let mut patch = secret_patch(&self.secret()?.version);
        patch.push_str("}}");
        self.own.patch_secret(NAME, &patch, true).map_err(not_read).map(drop)
    }

    fn save(&self, credential: &Credential) -> Result<(), StoreError> {
        self.change(&self.owner_reference(), |secret, patch| {
            push_all(patch, &entries::of_credential(credential, provided(secret)?.is_some()));
            Ok(())
        })
    }

    /// Also in the state directory, beside the files that TLS is made of.
    fn keep_authorities(&self, pem: &[u8]) -> Result<(), StoreError> {
        let text = std::str::from_utf8(pem).map_err(|_| malformed())?;
        self.write(&[(entries::AUTHORITIES, Some(Zeroizing::new(text.to_owned())))])?;
        self.state.as_ref().map_or(Ok(()), |state| state.keep_authorities(pem))
    }

    fn pending_keys(&self) -> Result<Option<NodeKeys>, StoreError> {
        let secret = self.secret()?;
        entries::to_pending(&|name| secret.text(name).map_err(not_read), malformed)
    }

    fn keep_keys(&self, keys: &NodeKeys) -> Result<(), StoreError> {
        self.write(&[entries::of_pending(keys)])
    }

    fn keep_copy(&self) -> Result<(), StoreError> {
        self.change("", |secret, patch| {
            for name in entries::CREDENTIAL {
                if let encoded @ Some(_) = secret.encoded(name) {
                    push_encoded(patch, &[BEFORE, name].concat(), encoded);
                }
            }
            Ok(())
        })
    }

    fn put_back(&self) -> Result<(), StoreError> {
        self.change("", |secret, patch| {
            for name in entries::CREDENTIAL {
                let before = [BEFORE, name].concat();
                push_encoded(patch, name, secret.encoded(&before));
                push_encoded(patch, &before, None);
            }
            Ok(())
        })
    }

    fn forget_copy(&self) -> Result<(), StoreError> {
        self.change("", |secret, patch| {
            for name in entries::CREDENTIAL {
                let before = [BEFORE, name].concat();
                if secret.encoded(&before).is_some() {
                    push_encoded(patch, &before, None);
                }
            }
            Ok(())
        })
    }
}

impl PinStore for SecretStore {
    fn load_pin(&self) -> Result<Option<Pin>, StoreError> {
        let secret = self.secret()?;
        entries::to_pin(&|name| secret.text(name).map_err(not_read))
    }

    fn save_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        self.write(&entries::of_pin(pin))
    }
}
