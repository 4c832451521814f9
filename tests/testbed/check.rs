//! What a strict server checks: headers, queries, bodies, by hand and with nothing of the agent's own.

use http::HeaderMap;
use serde_json::{Map, Value};

use super::answer::{MEDIA_TYPE, Refusal};
use super::credential;
use super::route::Call;

/// Longest `wait` of a poll, in seconds.
const WAIT_MAX: u64 = 300;

/// `wait` of a poll that names none, in seconds.
const WAIT_DEFAULT: u64 = 30;

/// Events in one batch.
const EVENTS_MAX: usize = 100;

const OUTCOMES: [&str; 4] = ["succeeded", "failed", "noop", "conflict"];

const EVENT_KINDS: [&str; 10] = [
    "ConditionTransition",
    "ClusterHeartbeat",
    "CredentialRotated",
    "OperationAccepted",
    "OperationBlocked",
    "OperationRunning",
    "OperationSucceeded",
    "OperationFailed",
    "JobPayloadSignatureInvalid",
    "JobPayloadDecryptionFailed",
];

/// Members of a registration that a server may know beyond the fixed contract.
pub(crate) const REGISTER_ADDITIONS: [&str; 4] = ["publicKey", "identityKey", "certificateRequest", "agent"];

/// Checks the headers of a call and gives the bearer.
///
/// A missing or malformed bearer is a 401 like one that nobody issued; everything else is a 400.
pub(crate) fn headers(call: Call, headers: &HeaderMap, has_body: bool) -> Result<String, Refusal> {
    let authorization = single(headers, "authorization")?
        .ok_or_else(|| Refusal::new(401, "Unauthenticated", "there is no Authorization header"))?;
    let bearer = authorization
        .strip_prefix("Bearer ")
        .filter(|bearer| !bearer.is_empty() && bearer.bytes().all(is_token_byte))
        .ok_or_else(|| Refusal::new(401, "Unauthenticated", "the Authorization header is not `Bearer <token>`"))?;
    if single(headers, "accept")? != Some(MEDIA_TYPE) {
        return Err(Refusal::invalid(format!("Accept is not {MEDIA_TYPE}")));
    }
    let content_type = single(headers, "content-type")?;
    let length = single(headers, "content-length")?;
    let expects_body = matches!(call, Call::Register | Call::Status | Call::Result | Call::Events | Call::Rotate);
    match (expects_body, has_body) {
        (true, true) if content_type != Some(MEDIA_TYPE) => {
            Err(Refusal::invalid(format!("Content-Type is not {MEDIA_TYPE}")))
        }
        (true, false) => Err(Refusal::invalid("the body is missing")),
        (false, true) => Err(Refusal::invalid("this call has no body")),
        (false, false) if content_type.is_some() => Err(Refusal::invalid("Content-Type without a body")),
        (false, false) if call == Call::Ack && length != Some("0") => {
            Err(Refusal::invalid("a POST without a body has Content-Length: 0"))
        }
        _ => Ok(bearer.to_owned()),
    }
}

/// A poll's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PollQuery {
    /// `cluster`.
    pub(crate) cluster: String,
    /// `wait` in seconds.
    pub(crate) wait: u64,
}

/// Reads the query of a poll: `cluster` once, `wait` at most once, nothing else.
pub(crate) fn poll_query(query: Option<&str>) -> Result<PollQuery, Refusal> {
    let (mut cluster, mut wait) = (None, None);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form(name)?, form(value)?);
        let slot = match name.as_str() {
            "cluster" => &mut cluster,
            "wait" => &mut wait,
            _ => return Err(Refusal::invalid(format!("unknown query parameter {name}"))),
        };
        if slot.replace(value).is_some() {
            return Err(Refusal::invalid(format!("query parameter {name} is there twice")));
        }
    }
    let cluster = cluster
        .filter(|cluster| !cluster.is_empty())
        .ok_or_else(|| Refusal::invalid("query parameter cluster is missing"))?;
    let wait = match wait {
        None => WAIT_DEFAULT,
        Some(text) => whole_number(&text)
            .filter(|wait| *wait <= WAIT_MAX)
            .ok_or_else(|| Refusal::invalid("wait is no whole number from 0 to 300"))?,
    };
    Ok(PollQuery { cluster, wait })
}

/// Refuses a query where none belongs.
pub(crate) fn no_query(query: Option<&str>) -> Result<(), Refusal> {
    query.map_or(Ok(()), |_| Err(Refusal::invalid("this call has no query")))
}

/// Decodes one percent-encoded path segment (RFC 3986, 3.3).
pub(crate) fn segment(text: &str) -> Result<String, Refusal> {
    decode(text, b"-._~!$&'()*+,;=:@", false)
}

/// What a registration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// The one-time token of the body.
    pub(crate) token: String,
    /// The cluster id that the agent wishes.
    pub(crate) cluster: Option<String>,
    /// What a person reads.
    pub(crate) display_name: Option<String>,
    /// The node's public identity key, in base64url.
    pub(crate) identity: Option<String>,
    /// The node's public payload key, in base64url.
    pub(crate) payload_key: Option<String>,
    /// A request for a client certificate, in PEM.
    pub(crate) certificate_request: Option<String>,
}

/// Reads a `RegisterRequest`; `additions` lets the members of chapter 2 pass.
pub(crate) fn registration(body: &[u8], additions: bool) -> Result<Registration, Refusal> {
    let body = parse(body)?;
    let mut members = Members::of(&body, "")?;
    let mut registration = Registration {
        token: members.text("registrationToken")?,
        cluster: members.optional_text("clusterId")?,
        display_name: members.optional_text("displayName")?,
        identity: None,
        payload_key: None,
        certificate_request: None,
    };
    if additions {
        let mut key =
            |name: &str, curve: &str| members.take(name).map(|key| credential::public_key(&key, curve)).transpose();
        registration.identity = key("identityKey", "Ed25519")?;
        registration.payload_key = key("publicKey", "X25519")?;
        if let Some(agent) = members.take("agent") {
            credential::agent(&agent)?;
        }
        registration.certificate_request = members.optional_text("certificateRequest")?;
    }
    members.end()?;
    Ok(registration)
}

/// Reads the body of a rotation: `{}`, or with a request for a client certificate where the additions are known.
pub(crate) fn rotation(body: &[u8], additions: bool) -> Result<Option<String>, Refusal> {
    let body = parse(body)?;
    let mut members = Members::of(&body, "")?;
    let request = if additions { members.optional_text("certificateRequest")? } else { None };
    members.end()?;
    Ok(request)
}

/// Reads a `StatusUpdate`.
pub(crate) fn status(body: &[u8]) -> Result<Value, Refusal> {
    let body = parse(body)?;
    let mut members = Members::of(&body, "")?;
    members.text("phase")?;
    members.optional_list("conditions", condition)?;
    members.optional_text("message")?;
    members.timestamp("timestamp")?;
    members.end()?;
    Ok(body)
}

/// Reads a `JobResult`.
pub(crate) fn result(body: &[u8]) -> Result<Value, Refusal> {
    let body = parse(body)?;
    let mut members = Members::of(&body, "")?;
    let outcome = members.text("outcome")?;
    if !OUTCOMES.contains(&outcome.as_str()) {
        return Err(Refusal::invalid(format!("unknown outcome {outcome}")));
    }
    let error = members.optional_text("error")?;
    if outcome == "failed" && error.is_none() {
        return Err(Refusal::invalid("failed without an error"));
    }
    if let Some(reference) = members.take("appliedRef") {
        object_ref(&reference, "/appliedRef")?;
    }
    members.timestamp("timestamp")?;
    members.end()?;
    Ok(body)
}

/// Reads a batch of events, all of them or none.
pub(crate) fn events(body: &[u8], cluster: &str) -> Result<Vec<Value>, Refusal> {
    let body = parse(body)?;
    let mut members = Members::of(&body, "")?;
    let Some(Value::Array(events)) = members.take("events") else {
        return Err(Refusal::invalid("/events is no array"));
    };
    members.end()?;
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(Refusal::invalid(format!("a batch of {} events", events.len())));
    }
    for (at, value) in events.iter().enumerate() {
        event(value, &format!("/events/{at}"), cluster)?;
    }
    Ok(events)
}

fn event(value: &Value, at: &str, cluster: &str) -> Result<(), Refusal> {
    let mut members = Members::of(value, at)?;
    members.optional_text("eventKey")?;
    let kind = members.text("kind")?;
    if !EVENT_KINDS.contains(&kind.as_str()) {
        return Err(Refusal::invalid(format!("unknown kind of event {kind} at {at}")));
    }
    let reference = members.take("resourceRef").ok_or_else(|| missing(at, "resourceRef"))?;
    object_ref(&reference, &format!("{at}/resourceRef"))?;
    if matches!(kind.as_str(), "ClusterHeartbeat" | "CredentialRotated")
        && (reference.get("kind").and_then(Value::as_str) != Some("Cluster")
            || reference.get("name").and_then(Value::as_str) != Some(cluster))
    {
        return Err(Refusal::invalid(format!("a {kind} is about the Cluster {cluster} ({at})")));
    }
    members.optional_list("conditions", condition)?;
    members.optional_list("endpoints", endpoint)?;
    if kind == "CredentialRotated" && !value["conditions"].as_array().is_some_and(|list| list.iter().any(is_rotated)) {
        return Err(Refusal::invalid(format!("{at} has no condition Authenticated=True/CredentialRotated")));
    }
    members.timestamp("timestamp")?;
    members.end()
}

fn is_rotated(condition: &Value) -> bool {
    condition["type"] == "Authenticated" && condition["status"] == "True" && condition["reason"] == "CredentialRotated"
}

fn object_ref(value: &Value, at: &str) -> Result<(), Refusal> {
    let mut members = Members::of(value, at)?;
    for name in ["apiVersion", "kind", "name"] {
        members.text(name)?;
    }
    members.any_text("namespace")?;
    members.optional_text("uid")?;
    members.optional_whole_number("generation", 1)?;
    members.end()
}

fn condition(value: &Value, at: &str) -> Result<(), Refusal> {
    let mut members = Members::of(value, at)?;
    members.text("type")?;
    let status = members.text("status")?;
    if !["True", "False", "Unknown"].contains(&status.as_str()) {
        return Err(Refusal::invalid(format!("{at}/status is neither True, False nor Unknown")));
    }
    members.optional_whole_number("observedGeneration", 0)?;
    members.timestamp("lastTransitionTime")?;
    members.any_text("reason")?;
    members.any_text("message")?;
    members.end()
}

fn endpoint(value: &Value, at: &str) -> Result<(), Refusal> {
    let mut members = Members::of(value, at)?;
    members.any_text("name")?;
    members.any_text("url")?;
    members.optional_text("type")?;
    members.optional_text("notes")?;
    members.end()
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("the body is no JSON: {error}")))
}

/// The members of an object that are not read yet, and where it is.
struct Members<'a>(Map<String, Value>, &'a str);

impl<'a> Members<'a> {
    fn of(value: &Value, at: &'a str) -> Result<Self, Refusal> {
        let map = value.as_object().ok_or_else(|| Refusal::invalid(format!("{at}/ is no object")))?;
        Ok(Self(map.clone(), at))
    }

    /// Takes a member of any type.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// A text that is there and not empty.
    fn text(&mut self, name: &str) -> Result<String, Refusal> {
        let text = self.any_text(name)?;
        if text.is_empty() {
            return Err(Refusal::invalid(format!("{}/{name} is empty", self.1)));
        }
        Ok(text)
    }

    /// A text that is there and may be empty.
    fn any_text(&mut self, name: &str) -> Result<String, Refusal> {
        match self.0.remove(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Refusal::invalid(format!("{}/{name} is no text", self.1))),
            None => Err(missing(self.1, name)),
        }
    }

    /// A text that is left out when empty.
    fn optional_text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        if self.0.contains_key(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    /// A whole number that is left out when there is none.
    fn optional_whole_number(&mut self, name: &str, least: i64) -> Result<(), Refusal> {
        match self.0.remove(name) {
            Some(value) if value.as_i64().is_none_or(|number| number < least) => {
                Err(Refusal::invalid(format!("{}/{name} is no whole number from {least} on", self.1)))
            }
            _ => Ok(()),
        }
    }

    /// A list that is left out when empty, each of its items checked.
    fn optional_list(&mut self, name: &str, check: fn(&Value, &str) -> Result<(), Refusal>) -> Result<(), Refusal> {
        match self.0.remove(name) {
            None => Ok(()),
            Some(Value::Array(list)) if !list.is_empty() => {
                list.iter().enumerate().try_for_each(|(at, item)| check(item, &format!("{}/{name}/{at}", self.1)))
            }
            Some(_) => Err(Refusal::invalid(format!("{}/{name} is no list, or an empty one", self.1))),
        }
    }

    /// An RFC 3339 timestamp that is there.
    fn timestamp(&mut self, name: &str) -> Result<(), Refusal> {
        let text = self.any_text(name)?;
        if is_timestamp(&text) {
            Ok(())
        } else {
            Err(Refusal::invalid(format!("{}/{name} is no RFC 3339 timestamp", self.1)))
        }
    }

    /// Nothing else may be there.
    fn end(self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            Some(name) => Err(Refusal::unknown_field(format!("unknown member {}/{name}", self.1))),
            None => Ok(()),
        }
    }
}

fn missing(at: &str, name: &str) -> Refusal {
    Refusal::invalid(format!("{at}/{name} is missing"))
}

/// A header that is there once, or not at all.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.to_str().map_err(|_| Refusal::invalid(format!("{name} is no text"))));
    if values.next().is_some() {
        return Err(Refusal::invalid(format!("{name} is there twice")));
    }
    first.transpose()
}

/// Bytes of a `b64token` (RFC 6750, 2.1).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Decodes a name or a value of a form-encoded query.
fn form(text: &str) -> Result<String, Refusal> {
    decode(text, b"-._~*", true)
}

fn decode(text: &str, plain: &[u8], plus_is_space: bool) -> Result<String, Refusal> {
    let malformed = || Refusal::invalid(format!("{text} is not percent-encoded as it should be"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low).ok_or_else(malformed)?;
                bytes.push(u8::try_from(value).map_err(|_| malformed())?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            _ if byte.is_ascii_alphanumeric() || plain.contains(&byte) => bytes.push(byte),
            _ => return Err(malformed()),
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// `2026-01-31T12:00:00[.fraction](Z|±hh:mm)`, each number in its range.
fn is_timestamp(text: &str) -> bool {
    let Some((date, time)) = text.split_once('T') else { return false };
    let Some(zone) = time.find(['Z', '+', '-']) else { return false };
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').map_or((time, None), |(time, fraction)| (time, Some(fraction)));
    let in_range = |text: &str, length: usize, range: std::ops::RangeInclusive<u64>| {
        text.len() == length && whole_number(text).is_some_and(|number| range.contains(&number))
    };
    let date: Vec<&str> = date.split('-').collect();
    let time: Vec<&str> = time.split(':').collect();
    let zone_fits = zone == "Z"
        || zone[1..]
            .split_once(':')
            .is_some_and(|(hours, minutes)| in_range(hours, 2, 0..=23) && in_range(minutes, 2, 0..=59));
    matches!(date.as_slice(), [year, month, day]
        if in_range(year, 4, 1..=9999) && in_range(month, 2, 1..=12) && in_range(day, 2, 1..=31))
        && matches!(time.as_slice(), [hour, minute, second]
            if in_range(hour, 2, 0..=23) && in_range(minute, 2, 0..=59) && in_range(second, 2, 0..=60))
        && fraction.is_none_or(|digits| (1..=9).contains(&digits.len()) && whole_number(digits).is_some())
        && zone_fits
}

#[cfg(test)]
mod tests {
    use super::{form, is_timestamp, poll_query, segment};

    #[test]
    fn a_timestamp_is_rfc_3339_to_the_letter() {
        for text in ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456789+01:00", "0001-01-01T00:00:00Z"] {
            assert!(is_timestamp(text), "{text}");
        }
        for text in [
            "",
            "T",
            "TZ",
            "T+",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-1-31T12:00:00Z",
            "2026-13-31T12:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00Zx",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T24:00:00Z",
            "äT+ä",
        ] {
            assert!(!is_timestamp(text), "{text}");
        }
    }

    #[test]
    fn what_should_be_encoded_must_be() {
        assert_eq!(segment("a%2fb+c").expect("a segment"), "a/b+c");
        assert_eq!(form("a%2fb+c").expect("a form"), "a/b c");
        for text in ["a b", "ä", "%", "%1", "%zz", "%c3", "a/b", "a?b", "\"", "<"] {
            assert!(segment(text).is_err(), "{text}");
            assert!(form(text).is_err(), "{text}");
        }
        assert!(form("a@b").is_err());
    }

    #[test]
    fn a_poll_names_its_cluster_and_waits_five_minutes_at_most() {
        assert_eq!(poll_query(Some("cluster=c+1")).expect("a query").wait, 30);
        assert_eq!(poll_query(Some("wait=300&cluster=c")).expect("a query").wait, 300);
        for query in [
            "",
            "wait=1",
            "cluster=",
            "cluster=c&cluster=c",
            "cluster=c&wait=301",
            "cluster=c&wait=-1",
            "cluster=c&wait=+1",
            "cluster=c&wait=1.5",
            "cluster=c&wait=",
            "cluster=c&wait=1s",
            "cluster=c&wait=99999999999999999999",
            "cluster=c&x=1",
        ] {
            assert_eq!(poll_query(Some(query)).expect_err(query).status, 400, "{query}");
        }
        assert!(poll_query(None).is_err());
    }
}
