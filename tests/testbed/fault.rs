//! Faults on demand: every way a network and a server can fail.

use std::time::Duration;

use super::answer::{Answer, Refusal};
use super::job;
use super::route::Call;

/// What goes wrong with one answer.
///
/// The faults of the first group take the place of the answer: what was asked for is not done, and nothing
/// is checked. Those of the second group spoil the answer on its way: what was asked for is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Instead: this answer, whatever it is.
    Answer(Answer),
    /// Instead: the connection is cut before anything is answered.
    CutBeforeHead,
    /// Instead: jobs without an end, each complete and each with an id of its own.
    EndlessJobs,
    /// Instead: `{"jobs":[` and white space without an end.
    EndlessSpace,
    /// Instead: no jobs, at once, whatever `wait` was.
    IgnoredWait,
    /// Instead: bytes that are no HTTP.
    NotHttp,
    /// Instead: the request is read, and nothing is ever answered.
    Silence,

    /// Spoilt: the head says how long the body is, half of it comes, the connection is cut.
    CutInBody,
    /// Spoilt: one byte of the body in each interval.
    Drip(Duration),
    /// Spoilt: it is done, and the connection is cut instead of the answer.
    LostAnswer,
    /// Spoilt: a header of this many bytes.
    LongHead(usize),
    /// Spoilt: half of the body comes, then nothing more; the connection stays open.
    SilenceInBody,
}

/// `Retry-After` of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// As an HTTP date, this long from now (from when the fault is made).
    Date(Duration),
    /// As a number of seconds.
    Seconds(u64),
}

impl Fault {
    /// A status with our media type and a readable error body: the server itself says so.
    pub(crate) fn status(status: u16) -> Self {
        Self::refusal(status, error_name(status))
    }

    /// As [`Fault::status`], with an error name of its own.
    pub(crate) fn refusal(status: u16, error: &'static str) -> Self {
        let message = format!("the testbed was told to answer {status}");
        Self::Answer(Refusal::new(status, error, message).into())
    }

    /// A status with `Retry-After`.
    pub(crate) fn retry_after(status: u16, after: RetryAfter) -> Self {
        let value = match after {
            RetryAfter::Date(from_now) => job::http_date(from_now),
            RetryAfter::Seconds(seconds) => seconds.to_string(),
        };
        match Self::status(status) {
            Self::Answer(answer) => Self::Answer(answer.with("retry-after", value)),
            other => other,
        }
    }

    /// A status with a page of HTML: not the server says so but something in between, a captive portal
    /// (200, 401, 403), a filter (403), a proxy (407, 502).
    pub(crate) fn html(status: u16) -> Self {
        let page = "<!DOCTYPE html><html><body><h1>Welcome to the guest network</h1>\
                    <form><input name=\"room\"></form></body></html>";
        Self::Answer(Answer::of(status, "text/html; charset=utf-8", page))
    }

    /// A redirect.
    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        Self::Answer(Answer { status, headers: vec![("location", to.to_owned())], body: Some(bytes::Bytes::new()) })
    }

    /// Whether the fault takes the answer's place, so that nothing is done.
    pub(crate) fn is_instead(&self) -> bool {
        !matches!(self, Self::CutInBody | Self::Drip(_) | Self::LostAnswer | Self::LongHead(_) | Self::SilenceInBody)
    }
}

fn error_name(status: u16) -> &'static str {
    match status {
        400 => "Invalid",
        401 => "Unauthenticated",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "Unavailable",
        _ => "Fault",
    }
}

/// Faults that wait for their requests, in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Armed>);

#[derive(Debug)]
struct Armed {
    call: Call,
    /// Requests that it still hits; none = all, until cleared.
    left: Option<u32>,
    fault: Fault,
}

impl Faults {
    /// Adds a fault for the next `times` requests of `call`; without a number for all of them.
    pub(crate) fn add(&mut self, call: Call, times: Option<u32>, fault: Fault) {
        self.0.push(Armed { call, left: times, fault });
    }

    /// Takes the fault that hits a request: the oldest that matches. A request for an unknown path is hit
    /// by [`Call::Any`] alone.
    pub(crate) fn take(&mut self, call: Option<Call>) -> Option<Fault> {
        let matches = |armed: &Armed| armed.call == Call::Any || Some(armed.call) == call;
        let at = self.0.iter().position(|armed| matches(armed) && armed.left != Some(0))?;
        let armed = self.0.get_mut(at)?;
        let fault = armed.fault.clone();
        if let Some(left) = &mut armed.left {
            *left -= 1;
            if *left == 0 {
                self.0.remove(at);
            }
        }
        Some(fault)
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many still wait for a request.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
