//! The agent's own objects in the cluster: its Secret, its `Cluster`, its events.
//!
//! A call here blocks and has a line of its own, which is closed behind it: there is one a rotation or a change of
//! the connection, and a kept line would cost more memory than all of them. None of this needs a runtime, since a
//! credential is read before there is one.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::api::{Fault, JSON, Refusal, segment};
use super::client::join;
use super::cluster::Access;
use super::credentials::Credentials;
use super::decode::{Text, member};
use super::message;
use crate::limits;
use crate::net::{Line, Patience};
use crate::protocol::FIELD_MANAGER;
use crate::trust::policy::OWN_NAMESPACE;

/// What becomes of a patch: RFC 7386.
pub(super) const MERGE: &str = "application/merge-patch+json";

/// The way to the agent's own objects.
#[derive(Clone, Debug)]
pub struct Own {
    pub(super) credentials: Arc<Credentials>,
}

/// Why one of the agent's own objects could not be read or written.
#[derive(Debug)]
pub enum OwnError {
    /// It is not there.
    Absent,
    /// Somebody else wrote it since it was read.
    Conflict,
    /// The account may not.
    Forbidden(String),
    /// It cannot be what it should be.
    Refused(String),
    /// No answer, or none that can be used now: the same may work later.
    Unavailable(String),
    /// What came is not what it should be.
    Unusable(&'static str),
}

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "it is not there, and the agent makes none: apply k3s/cluster.yaml",
            Self::Conflict => "somebody else writes it at the same time",
            Self::Forbidden(text) => {
                return write!(f, "the agent's account may not do that (apply k3s/cluster.yaml): {text}");
            }
            Self::Refused(text) | Self::Unavailable(text) => text,
            Self::Unusable(text) => text,
        })
    }
}

impl std::error::Error for OwnError {}

impl From<Fault> for OwnError {
    fn from(fault: Fault) -> Self {
        match &fault {
            Fault::Refused(refusal) => match refusal.code {
                404 => Self::Absent,
                409 => Self::Conflict,
                403 => Self::Forbidden(message::of_forbidden(refusal)),
                429 | 500.. => Self::Unavailable(fault.to_string()),
                _ => Self::Refused(fault.to_string()),
            },
            Fault::TooLong(_) => Self::Unusable("it is larger than it can be"),
            _ => Self::Unavailable(fault.to_string()),
        }
    }
}

/// A Secret as it was read. Wiped when dropped.
pub struct SecretObject {
    /// Its version, for a write that must not cover somebody else's.
    pub version: String,
    text: Zeroizing<String>,
}

#[derive(Deserialize)]
struct RawSecret<'a> {
    #[serde(borrow)]
    metadata: RawMetadata<'a>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawMetadata<'a> {
    #[serde(borrow, default, rename = "resourceVersion")]
    version: Text<'a>,
}

impl SecretObject {
    fn read(text: Zeroizing<Vec<u8>>) -> Result<Self, OwnError> {
        const NONE: OwnError = OwnError::Unusable("the API server's answer is no Secret");
        let text = std::str::from_utf8(&text).map_err(|_| NONE)?;
        let secret: RawSecret<'_> = serde_json::from_str(text).map_err(|_| NONE)?;
        let is_map = secret.data.is_none_or(|data| data.get().starts_with('{') || data.get() == "null");
        let version = secret.metadata.version.cut(limits::CONDITION_TEXT_BYTES);
        if !is_map || version.is_empty() {
            return Err(NONE);
        }
        Ok(Self { version, text: Zeroizing::new(text.to_owned()) })
    }

    /// What stands under a key, in base64; none where there is nothing.
    #[must_use]
    pub fn encoded(&self, key: &str) -> Option<&str> {
        let secret: RawSecret<'_> = serde_json::from_str(&self.text).ok()?;
        let found = member(secret.data?, &[key]).map(RawValue::get);
        // Base64 has nothing that JSON writes in another way.
        found.map(|value| value.trim_matches('"')).filter(|value| !value.is_empty() && *value != "null")
    }

    /// The text under a key; none where there is nothing.
    ///
    /// # Errors
    /// When it is no base64, or no text.
    pub fn text(&self, key: &str) -> Result<Option<Zeroizing<String>>, OwnError> {
        let Some(encoded) = self.encoded(key) else { return Ok(None) };
        let bytes = STANDARD.decode(encoded).map_err(|_| OwnError::Unusable("a value in it is not base64"))?;
        let bytes = Zeroizing::new(bytes);
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
            Err(_) => Err(OwnError::Unusable("a value in it is not text")),
        }
    }
}

/// Begins the patch of a Secret of this version.
#[must_use]
pub fn secret_patch(version: &str) -> Zeroizing<String> {
    let mut patch = Zeroizing::new(String::with_capacity(limits::SECRET_PATCH_BYTES));
    patch.push_str(r#"{"metadata":{"resourceVersion":""#);
    patch.push_str(version);
    patch.push('"');
    patch
}

/// A member of the data of a Secret: base64 as it is; none takes it away.
pub fn push_encoded(patch: &mut String, key: &str, encoded: Option<&str>) {
    patch.push('"');
    patch.push_str(key);
    match encoded {
        Some(encoded) => {
            patch.push_str("\":\"");
            patch.push_str(encoded);
            patch.push_str("\",");
        }
        None => patch.push_str("\":null,"),
    }
}

/// The same for a text.
pub fn push_text(patch: &mut String, key: &str, text: Option<&str>) {
    let encoded = text.map(|text| Zeroizing::new(STANDARD.encode(text)));
    push_encoded(patch, key, encoded.as_deref().map(String::as_str));
}

impl Own {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(access: &Access) -> Self {
        Self { credentials: Arc::clone(&access.credentials) }
    }

    /// Reads a Secret of the agent's namespace. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn secret(&self, name: &str) -> Result<SecretObject, OwnError> {
        let path = secret_path(name)?;
        SecretObject::read(self.call(&Method::GET, &path, "", "", limits::SECRET_OBJECT_BYTES)?)
    }

    /// Patches a Secret of the agent's namespace, and gives what it is then, or would be. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them; [`OwnError::Conflict`] where it has another version by now.
    pub fn patch_secret(&self, name: &str, patch: &str, is_rehearsal: bool) -> Result<SecretObject, OwnError> {
        let dry = if is_rehearsal { "&dryRun=All" } else { "" };
        let path = format!("{}?fieldManager={FIELD_MANAGER}{dry}", secret_path(name)?);
        SecretObject::read(self.call(&Method::PATCH, &path, MERGE, patch, limits::SECRET_OBJECT_BYTES)?)
    }

    /// Runs a call to the end of its answer. Blocks.
    pub(super) fn call(
        &self,
        method: &Method,
        path: &str,
        kind: &'static str,
        body: &str,
        limit: u64,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.call_on(None, method, path, kind, body, limit)
    }

    /// The same on a line that is kept.
    pub(super) fn call_on(
        &self,
        line: Option<&Line>,
        method: &Method,
        path: &str,
        kind: &'static str,
        body: &str,
        limit: u64,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut may_repeat = true;
        loop {
            let current = self.credentials.current();
            let uri = join(self.credentials.server(), &path.parse().map_err(|_| unusable())?)?;
            let request = Request::builder().method(method.clone()).uri(uri).header(header::ACCEPT, JSON);
            let mut request = request.body(body.as_bytes().to_vec()).map_err(|_| unusable())?;
            if !kind.is_empty() {
                request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(authorization) = &current.authorization {
                request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
            }
            let line = line.cloned().unwrap_or_else(|| Line::new(current.profile));
            let answer = line.run(request, Patience::Answer(limits::RESPONSE_TIMEOUT))?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED {
                let is_renewed = self.credentials.renew(current.authorization.as_ref(), current.generation);
                if std::mem::take(&mut may_repeat) && is_renewed {
                    continue;
                }
                return Err(Fault::Credential);
            }
            if status.is_success() {
                return Ok(Zeroizing::new(answer.into_body().with_limit(limit).read_all()?));
            }
            let text = answer.into_body().with_limit(limits::API_ERROR_BYTES).read_all().unwrap_or_default();
            return Err(Fault::Refused(Refusal::read(status.as_u16(), &text)));
        }
    }
}

fn secret_path(name: &str) -> Result<String, OwnError> {
    let name = segment(name).map_err(|_| OwnError::Unusable("its name is none that a Secret can have"))?;
    Ok(format!("/api/v1/namespaces/{OWN_NAMESPACE}/secrets/{name}"))
}

fn unusable() -> Fault {
    Fault::Unusable("a name that no path can hold".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{OwnError, SecretObject, push_text, secret_patch};
    use zeroize::Zeroizing;

    fn read(text: &str) -> Result<SecretObject, OwnError> {
        SecretObject::read(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_secret_gives_its_texts_and_says_what_is_wrong_with_them() {
        let secret = read(
            r#"{"metadata":{"resourceVersion":"7"},"data":{"a":"eA==","n":null,"e":"","b":"*","c":"/w==","d":7,"f":["eA=="]}}"#,
        )
        .unwrap();
        assert_eq!(secret.version, "7");
        assert_eq!(secret.text("a").unwrap().unwrap().as_str(), "x");
        for nothing in ["n", "e", "z"] {
            assert!(secret.text(nothing).unwrap().is_none(), "{nothing}");
        }
        for wrong in ["b", "c", "d", "f"] {
            assert!(matches!(secret.text(wrong), Err(OwnError::Unusable(_))), "{wrong}");
        }
        assert!(read(r#"{"metadata":{"resourceVersion":"7"}}"#).unwrap().text("a").unwrap().is_none());
        assert!(read(r#"{"metadata":{"resourceVersion":"7"},"data":null}"#).unwrap().text("a").unwrap().is_none());
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let good = r#"{"metadata":{"resourceVersion":"7"},"data":{"a":"eA=="}}"#;
        for wrong in ["", "{}", "[]", "7", &good[..good.len() - 1], r#"{"metadata":{"resourceVersion":""}}"#] {
            assert!(matches!(read(wrong), Err(OwnError::Unusable(_))), "{wrong}");
        }
        for wrong in [r#""data":[]"#, r#""data":"x""#, r#""data":7"#] {
            assert!(read(&format!(r#"{{"metadata":{{"resourceVersion":"7"}},{wrong}}}"#)).is_err(), "{wrong}");
        }
        assert!(SecretObject::read(Zeroizing::new(vec![0xff])).is_err());
    }

    #[test]
    fn a_patch_is_json() {
        let mut patch = secret_patch("7");
        patch.push_str(r#"},"data":{"#);
        push_text(&mut patch, "a", Some("x"));
        push_text(&mut patch, "b", None);
        patch.pop();
        patch.push_str("}}");
        let read: serde_json::Value = serde_json::from_str(&patch).unwrap();
        assert_eq!(read, serde_json::json!({"metadata": {"resourceVersion": "7"}, "data": {"a": "eA==", "b": null}}));
    }
}
