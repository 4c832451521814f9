//! The part of a status that says whom this node believes: keys, credential, clock.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::job::gate::Standing;
use crate::protocol::Timestamp;
use crate::trust::Signatures;
use crate::trust::replay::UNDATED;

/// Whose jobs are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustStatus {
    /// What is asked of signatures: `require`, `warn` or `off`.
    pub signatures: String,
    /// Thumbprints of the root keys that are pinned, with blanks between them; empty = none is.
    pub fingerprint: String,
    /// Version of the pinned keyring; 0 = none is.
    pub keyring_version: u32,
    /// Its epoch.
    pub epoch: u64,
    /// `ok`, or in a word why jobs that the owner signed may be refused: `KeyringBehind`, `LedgerLost`, `NoKeyring`.
    pub state: String,
    /// When what was known of earlier jobs was lost; none also where the clock is in doubt since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
}

/// The credential that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// When this node was registered; none where that was not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
    /// When the credential ends; none = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// When it is to be rotated; none = when somebody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_at: Option<Timestamp>,
}

impl TrustStatus {
    pub(super) fn of(standing: Standing) -> Self {
        let (keyring_version, epoch) = standing.keyring.unwrap_or_default();
        let mut fingerprint = String::new();
        for kid in standing.fingerprints {
            fingerprint.push_str(if fingerprint.is_empty() { "" } else { " " });
            fingerprint.push_str(&kid.to_string());
        }
        let (signatures, state) = match standing.signatures {
            Signatures::Off => ("off", "ok"),
            Signatures::Warn => ("warn", "ok"),
            Signatures::Require if standing.is_behind => ("require", "KeyringBehind"),
            Signatures::Require if keyring_version == 0 => ("require", "NoKeyring"),
            Signatures::Require if standing.lost_at.is_some() => ("require", "LedgerLost"),
            Signatures::Require => ("require", "ok"),
        };
        let lost_since = standing
            .lost_at
            .filter(|at| *at != UNDATED)
            .and_then(|at| u64::try_from(at).ok())
            .map(Timestamp::from_unix_seconds);
        Self {
            signatures: signatures.to_owned(),
            fingerprint,
            keyring_version,
            epoch,
            state: state.to_owned(),
            lost_since,
        }
    }

    /// What is wrong, and what to do about it.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        match self.state.as_str() {
            "KeyringBehind" => Some(
                "no jobs: the pinned keyring is older than one that this node had before; give the owner's newest chain with \
                 --keyring, or let the control plane send it",
            ),
            "LedgerLost" => Some(
                "only jobs signed since the loss are done: what was known of earlier jobs is lost (LedgerLost); the owner signs \
                 a keyring of a new epoch, or pullet doctor --reset-ledger",
            ),
            "NoKeyring" => {
                Some("no jobs: signatures are required and no key is pinned; give the owner's with --keyring")
            }
            _ => None,
        }
    }

    /// For a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = match self.signatures.as_str() {
            "require" => "only jobs that the owner signed",
            "warn" => "jobs need no signature: no key is pinned",
            _ => "signatures are not looked at",
        }
        .to_owned();
        if self.keyring_version > 0 {
            let _ = write!(
                text,
                "; keyring {} of epoch {}, fingerprint {}",
                self.keyring_version, self.epoch, self.fingerprint
            );
        }
        if let Some(at) = self.lost_since {
            let _ = write!(text, "; ledger lost at {at}");
        }
        text
    }
}

impl CredentialStatus {
    pub(super) fn of([registered_at, ends_at, rotate_at]: [Option<Timestamp>; 3]) -> Self {
        Self { registered_at, ends_at, rotate_at }
    }

    /// For a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let or = |at: Option<Timestamp>, otherwise: &str| at.map_or_else(|| otherwise.to_owned(), |at| at.to_string());
        format!(
            "registered {}, ends {}, to be rotated {}",
            or(self.registered_at, "at an unknown time"),
            or(self.ends_at, "never"),
            or(self.rotate_at, "when asked for")
        )
    }
}

/// What is known of the clock, in a word.
pub(super) fn clock_state() -> &'static str {
    match clock::standing() {
        standing if standing.is_confirmed() => "confirmed",
        standing if standing.may_judge() => "unconfirmed",
        _ => "doubtful",
    }
}

/// The same for a person.
#[must_use]
pub fn describe_clock(state: &str) -> &str {
    match state {
        "confirmed" => "confirmed",
        "doubtful" => "IN DOUBT: jobs with an expiry wait until the time is confirmed",
        _ => "not confirmed yet, and nothing speaks against it",
    }
}
