//! What a server does with credentials beyond the bearer: MACs, proofs, the keys that nodes register. Written out by hand
//! and with nothing of the agent's own.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::HeaderMap;
use http::request::Parts;
use ring::signature::{ED25519, UnparsedPublicKey};
use ring::{digest, hkdf, hmac};
use serde_json::{Map, Value};

use super::answer::Refusal;
use super::check::single;

/// How far the clock of a client may be from ours, in seconds.
const SKEW: u64 = 300;

/// Which MACs a server wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MacRule {
    /// One that is there must be right; it may be missing, as from an agent with a client certificate.
    #[default]
    IfThere,
    /// Each post has one, with a key that follows from the bearer.
    V1,
    /// Each post has one, with a key that was given with the bearer, once.
    V2,
}

/// What a server does with a proof of possession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proofs {
    /// It looks at none: a bearer that has ended has ended.
    #[default]
    Ignored,
    /// With a good one a bearer that has ended is rotated.
    Taken,
}

/// MACs and proofs that were seen: none is taken twice.
#[derive(Debug, Default)]
pub(crate) struct Once {
    counters: BTreeSet<(String, u64)>,
    nonces: BTreeSet<String>,
}

/// A post as it came, and what its MAC should be made with.
pub(crate) struct Post<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) body: &'a [u8],
    pub(crate) bearer: &'a str,
    pub(crate) cluster: &'a str,
    /// The key that was given with the bearer.
    pub(crate) mac_key: Option<[u8; 32]>,
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new(401, "InvalidMac", message)
}

impl Post<'_> {
    /// Checks `X-VWorkspace-MAC`.
    pub(crate) fn check_mac(&self, rule: MacRule, once: &mut Once) -> Result<(), Refusal> {
        let Some(value) = single(&self.head.headers, "x-vworkspace-mac")? else {
            return if rule == MacRule::IfThere { Ok(()) } else { Err(wrong("this post has no MAC")) };
        };
        let parts: Vec<&str> = value.split(';').collect();
        let [version, kid, at, n, mac] = parts.as_slice() else { return Err(wrong("the MAC has not five parts")) };
        let named = |part: &str, name: &str| part.strip_prefix(name).map(str::to_owned);
        let (Some(kid), Some(at), Some(n), Some(mac)) =
            (named(kid, "kid="), named(at, "at="), named(n, "n="), named(mac, "mac="))
        else {
            return Err(wrong("the parts of the MAC are not kid, at, n, mac"));
        };
        let key = match (*version, self.mac_key) {
            ("v2", Some(key)) => key,
            ("v1", None) => derived(self.cluster, self.bearer),
            ("v1", Some(_)) => return Err(wrong("v1, although a key was given")),
            _ => return Err(wrong(format!("MAC {version} without a key for it"))),
        };
        if rule == MacRule::V2 && *version != "v2" {
            return Err(wrong("the MAC is not v2"));
        }
        let hash = digest::digest(&digest::SHA256, &key);
        if kid != hex(&hash.as_ref()[..4]) {
            return Err(wrong("kid is not that of the key"));
        }
        let number = |text: &str| {
            let is_plain = text == "0" || !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
            is_plain.then(|| text.parse::<u64>().ok()).flatten().ok_or_else(|| wrong(format!("{text} is no number")))
        };
        let (seconds, counter) = (number(&at)?, number(&n)?);
        if super::job::now().abs_diff(seconds) > SKEW {
            return Err(wrong(format!("at={at} is too far from now")));
        }
        let path = self.head.uri.path_and_query().map_or("", |path| path.as_str());
        let body = encode(digest::digest(&digest::SHA256, self.body).as_ref());
        let message = [*version, self.head.method.as_str(), path, &at, &n, &body].join("\n");
        if mac != encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message.as_bytes()).as_ref()) {
            return Err(wrong("the MAC is not that of this post"));
        }
        if !once.counters.insert((kid, counter)) {
            return Err(wrong(format!("n={n} was there before")));
        }
        Ok(())
    }
}

/// Checks `X-VWorkspace-Proof` of a post whose bearer may have ended. `identity` is the key that the node registered.
pub(crate) fn check_proof(post: &Post<'_>, identity: Option<&str>, once: &mut Once) -> Result<(), Refusal> {
    let refuse = |why: &str| Refusal::new(401, "InvalidProof", why.to_owned());
    let value = single(&post.head.headers, "x-vworkspace-proof")?.ok_or_else(|| refuse("there is no proof"))?;
    let identity = identity.and_then(decode).ok_or_else(|| refuse("this node has registered no identity key"))?;
    let parts: Vec<&str> = value.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { return Err(refuse("it is no compact JWS")) };
    let signed = format!("{header}.{payload}");
    let signature = decode(signature).ok_or_else(|| refuse("its signature is no base64url"))?;
    UnparsedPublicKey::new(&ED25519, &identity)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| refuse("its signature is not by the node's identity key"))?;
    let read = |part: &str| serde_json::from_slice::<Map<String, Value>>(&decode(part)?).ok();
    let header = read(header).ok_or_else(|| refuse("its header is no object"))?;
    if header.len() != 2 || header["alg"] != "Ed25519" || header["typ"] != "edge-proof+jws" {
        return Err(refuse("its header is not alg Ed25519 and typ edge-proof+jws"));
    }
    let payload = read(payload).ok_or_else(|| refuse("its payload is no object"))?;
    let text = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default();
    let token_hash = encode(digest::digest(&digest::SHA256, post.bearer.as_bytes()).as_ref());
    let path = post.head.uri.path_and_query().map_or("", |path| path.as_str());
    for (name, expected) in [
        ("method", post.head.method.as_str()),
        ("path", path),
        ("cluster", post.cluster),
        ("tokenSha256", token_hash.as_str()),
    ] {
        if text(name) != expected {
            return Err(refuse(&format!("{name} is {:?} and not {expected:?}", text(name))));
        }
    }
    let is_now = payload.get("iat").and_then(Value::as_u64).is_some_and(|iat| super::job::now().abs_diff(iat) <= SKEW);
    if payload.len() != 6 || !is_now {
        return Err(refuse("iat is too far from now, or there are other members"));
    }
    if text("nonce").len() < 16 || !once.nonces.insert(text("nonce").to_owned()) {
        return Err(refuse("nonce is short or was there before"));
    }
    Ok(())
}

/// The public key of a JWK of this curve, in base64url: four members and no other, named by its thumbprint (RFC 7638).
pub(crate) fn public_key(value: &Value, curve: &str) -> Result<String, Refusal> {
    let x = value.get("x").and_then(Value::as_str).unwrap_or_default();
    let canonical = format!(r#"{{"crv":"{curve}","kty":"OKP","x":"{x}"}}"#);
    let is_key = value.as_object().is_some_and(|members| members.len() == 4)
        && value["kty"] == "OKP"
        && value["crv"] == curve
        && value["kid"] == encode(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
        && decode(x).is_some_and(|bytes| bytes.len() == 32);
    is_key.then(|| x.to_owned()).ok_or_else(|| Refusal::invalid(format!("{value} is no JWK of {curve}")))
}

/// Checks the member `agent` of a registration.
pub(crate) fn agent(value: &Value) -> Result<(), Refusal> {
    let is_text = |name: &str| value[name].as_str().is_some_and(|text| !text.is_empty());
    let modes = value["modes"].as_array().is_some_and(|modes| !modes.is_empty() && modes.iter().all(Value::is_string));
    let limits = ["jobBytes", "jobNodes", "jobDepth"].iter().all(|name| value["limits"][name].is_u64());
    if is_text("version") && is_text("arch") && modes && limits {
        return Ok(());
    }
    Err(Refusal::invalid(format!("/agent is not version, arch, modes and limits: {value}")))
}

/// The key of MACs of a server that gave none.
fn derived(cluster: &str, bearer: &str) -> [u8; 32] {
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, cluster.as_bytes())
        .extract(bearer.as_bytes())
        .expand(&[b"vworkspace-agent/v1/body-mac"], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("HKDF gives 32 bytes");
    key
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

/// A header of the agent's, for tests that look at it.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
