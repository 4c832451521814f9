//! Which call a request is.

use super::answer::Refusal;
use super::check;

/// A call of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `POST /jobs/{id}/ack`
    Ack,
    /// Matches every request where a fault says what it applies to; no request is this call.
    Any,
    /// `POST /events`
    Events,
    /// `GET /jobs`
    Jobs,
    /// `POST /register`
    Register,
    /// `POST /jobs/{id}/result`
    Result,
    /// `POST /credentials/rotate`
    Rotate,
    /// `POST /jobs/{id}/status`
    Status,
}

/// A call with the job it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The call.
    pub(crate) call: Call,
    /// The decoded job id of an ack, a status or a result; empty otherwise.
    pub(crate) job: String,
}

impl Route {
    /// Reads method and path, without the query.
    pub(crate) fn parse(base: &str, method: &str, path: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::new(404, "UnknownPath", format!("there is no {path} here"));
        let path = path.strip_prefix(base).and_then(|path| path.strip_prefix("/api/agent/")).ok_or_else(unknown)?;
        let segments: Vec<&str> = path.split('/').collect();
        let (call, job) = match segments.as_slice() {
            ["register"] => (Call::Register, ""),
            ["jobs"] => (Call::Jobs, ""),
            ["events"] => (Call::Events, ""),
            ["credentials", "rotate"] => (Call::Rotate, ""),
            ["jobs", id, "ack"] => (Call::Ack, *id),
            ["jobs", id, "status"] => (Call::Status, *id),
            ["jobs", id, "result"] => (Call::Result, *id),
            _ => return Err(unknown()),
        };
        let expected = if call == Call::Jobs { "GET" } else { "POST" };
        if method != expected {
            return Err(Refusal::new(405, "MethodNotAllowed", format!("{call:?} is a {expected}, not a {method}")));
        }
        if matches!(call, Call::Ack | Call::Status | Call::Result) && job.is_empty() {
            return Err(Refusal::invalid("the job id is empty"));
        }
        Ok(Self { call, job: check::segment(job)? })
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Route};

    #[test]
    fn a_job_id_is_one_decoded_segment() {
        let route = Route::parse("", "POST", "/api/agent/jobs/a%2Fb%20c/ack").expect("a route");
        assert_eq!(route, Route { call: Call::Ack, job: "a/b c".to_owned() });
        for path in ["/api/agent/jobs/a/b/ack", "/api/agent//ack", "/api/agent/jobs/", "/jobs", "/api/agent/jobs/a"] {
            assert_eq!(Route::parse("", "POST", path).expect_err(path).status, 404, "{path}");
        }
        for path in ["/api/agent/jobs//ack", "/api/agent/jobs/a%2/ack", "/api/agent/jobs/%ff/ack"] {
            assert_eq!(Route::parse("", "POST", path).expect_err(path).status, 400, "{path}");
        }
    }

    #[test]
    fn a_base_path_is_part_of_every_path() {
        assert!(Route::parse("/odoo", "POST", "/odoo/api/agent/events").is_ok());
        assert_eq!(Route::parse("/odoo", "POST", "/api/agent/events").expect_err("no base").status, 404);
        assert_eq!(Route::parse("", "GET", "/api/agent/events").expect_err("a GET").status, 405);
    }
}
