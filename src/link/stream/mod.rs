//! Jobs out of an answer, one at a time, while it is still being read.
//!
//! The answer is `{"jobs":[…]}` of any length by anybody. What is held of it is the text of complete
//! jobs, within [`limits::ANSWER_BYTES`]; a job over a limit is skipped byte by byte and only its id is
//! kept. Whether a job is good JSON is not judged here but when it is read; this finds its end.

mod sink;
mod tokens;

use std::fmt;

use crate::limits;
use crate::net::{Body, NetError};
use crate::protocol::JobId;

/// What an answer brought.
#[derive(Debug)]
pub struct Answer {
    /// Complete jobs in their order.
    pub jobs: Vec<Arrival>,
    /// How the answer ended.
    pub end: End,
}

/// One job of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Its text.
    Job(Box<str>),
    /// It was over a limit and was skipped. Without an id nobody can answer it.
    Skipped {
        /// The job's id, where it could be read.
        id: Option<JobId>,
        /// Which limit.
        limit: Limit,
    },
}

/// The limits of one job, by the names that a result carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`limits::JOB_BYTES`]
    Bytes,
    /// [`limits::JOB_DEPTH`]
    Depth,
    /// It is no UTF-8.
    Encoding,
    /// [`limits::JOB_NODES`]
    Nodes,
}

impl Limit {
    /// The name in a result.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "job_bytes",
            Self::Depth => "job_depth",
            Self::Encoding => "job_encoding",
            Self::Nodes => "job_nodes",
        }
    }

    /// The limit of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Bytes, Self::Depth, Self::Encoding, Self::Nodes].into_iter().find(|limit| limit.name() == name)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => write!(f, "the job is longer than {} bytes", limits::JOB_BYTES),
            Self::Depth => write!(f, "the job is nested deeper than {} levels", limits::JOB_DEPTH),
            Self::Encoding => f.write_str("the job is not UTF-8"),
            Self::Nodes => write!(f, "the job has more than {} JSON values", limits::JOB_NODES),
        }
    }
}

/// How an answer ended.
#[derive(Debug)]
pub enum End {
    /// It broke off, or went on as no answer may; the jobs before that are complete.
    Broken(StreamError),
    /// All of it was read.
    Complete,
    /// It had more jobs than are held at once; those come again.
    Rest,
}

/// Why an answer could not be read to its end.
#[derive(Debug)]
pub enum StreamError {
    /// It is no JSON object with a list of jobs: somebody else answered.
    NotJobs,
    /// The network, or a bound of the body.
    Net(NetError),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJobs => f.write_str("the answer is no list of jobs (a captive portal, a filter, another server?)"),
            Self::Net(_) => f.write_str("the answer broke off"),
        }
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Net(source) => Some(source),
            Self::NotJobs => None,
        }
    }
}

/// Where bytes come from: a body, or a slice in a test.
pub trait Source {
    /// Reads some bytes; 0 is the end.
    ///
    /// # Errors
    /// As [`Body::read_some`].
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, NetError>;
}

impl Source for Body {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, NetError> {
        Body::read_some(self, buffer)
    }
}

impl Source for &[u8] {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, NetError> {
        let count = self.len().min(buffer.len()).min(7);
        let (head, tail) = self.split_at(count);
        buffer[..count].copy_from_slice(head);
        *self = tail;
        Ok(count)
    }
}

/// Reads an answer: P1.4 allows unknown members, and `null` for an empty list.
pub fn read(source: impl Source) -> Answer {
    let mut jobs = Vec::new();
    let end = match tokens::Reader::new(source).read_answer(&mut jobs) {
        Ok(true) => End::Complete,
        Ok(false) => End::Rest,
        Err(error) => End::Broken(error),
    };
    Answer { jobs, end }
}

/// Reads one job and nothing beside it, as from a file, by the bounds of one that arrives; none when it is no JSON value,
/// or when something follows it.
pub fn read_one(source: impl Source) -> Option<Arrival> {
    tokens::Reader::new(source).read_one().ok()
}

#[cfg(test)]
mod tests {
    use super::{Answer, Arrival, End, Limit, StreamError, read};
    use crate::limits;
    use proptest::prelude::*;

    fn texts(answer: &Answer) -> Vec<&str> {
        answer
            .jobs
            .iter()
            .map(|job| match job {
                Arrival::Job(text) => &**text,
                Arrival::Skipped { limit, .. } => limit.name(),
            })
            .collect()
    }

    fn complete(text: &str) -> Vec<String> {
        let answer = read(text.as_bytes());
        assert!(matches!(answer.end, End::Complete), "{text}: {:?}", answer.end);
        texts(&answer).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn jobs_are_taken_out_without_the_space_between_their_tokens() {
        assert_eq!(
            complete(
                r#" { "x" : [1,{"jobs":[7]}], "jobs" : [ {"id" : "a b"} , {"id":"b","p":[1, "}"]} ] , "y" : "\"" } "#
            ),
            [r#"{"id":"a b"}"#, r#"{"id":"b","p":[1,"}"]}"#]
        );
    }

    #[test]
    fn null_and_an_empty_list_are_no_jobs() {
        assert!(complete(r#"{"jobs":null}"#).is_empty());
        assert!(complete(r#"{"jobs":[]}"#).is_empty());
        assert!(complete(r#"{"jobs" : [ ] }"#).is_empty());
    }

    #[test]
    fn what_is_no_list_of_jobs_is_told() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "<html>",
            r#"{"job":[]}"#,
            r#"{"jobs":7}"#,
            r#"{"jobs":{}}"#,
            r#"{"jobs":[]"#,
            r#"{"jobs":[{}"#,
            r#"{"jobs":[}]}"#,
            r#"{"jobs":[]}x"#,
            r#"{"jobs":[,]}"#,
            r#"{"jobs":[],"jobs":[]}"#,
        ] {
            let answer = read(text.as_bytes());
            assert!(matches!(answer.end, End::Broken(StreamError::NotJobs)), "{text}: {:?}", answer.end);
        }
    }

    #[test]
    fn the_complete_jobs_before_a_cut_are_kept() {
        let answer = read(r#"{"jobs":[{"id":"a"},{"id":"b"#.as_bytes());
        assert_eq!(texts(&answer), [r#"{"id":"a"}"#]);
        assert!(matches!(answer.end, End::Broken(_)));
    }

    #[test]
    fn a_job_over_its_limit_can_be_answered_although_it_never_ends() {
        let endless = job_of(limits::JOB_BYTES + 10);
        let answer = read(format!(r#"{{"jobs":[{}"#, &endless[..endless.len() - 3]).as_bytes());
        assert!(matches!(&answer.jobs[..], [Arrival::Skipped { id: Some(_), limit: Limit::Bytes }]));
        assert!(matches!(answer.end, End::Broken(_)));
    }

    fn job_of(length: usize) -> String {
        let head = r#"{"id":"big","x":""#;
        format!(r#"{head}{}"}}"#, "x".repeat(length - head.len() - 2))
    }

    #[test]
    fn a_job_of_just_the_limit_is_read_and_one_byte_more_is_skipped() {
        let answer = read(format!(r#"{{"jobs":[{}]}}"#, job_of(limits::JOB_BYTES)).as_bytes());
        assert!(matches!(&answer.jobs[..], [Arrival::Job(text)] if text.len() == limits::JOB_BYTES));
        let answer = read(format!(r#"{{"jobs":[{},{{"id":"c"}}]}}"#, job_of(limits::JOB_BYTES + 1)).as_bytes());
        assert!(
            matches!(&answer.jobs[0], Arrival::Skipped { id: Some(id), limit: Limit::Bytes } if id.as_str() == "big")
        );
        assert_eq!(texts(&answer)[1], r#"{"id":"c"}"#);
    }

    #[test]
    fn a_job_of_just_the_nodes_is_read_and_one_more_is_skipped() {
        // The job, its list and its id are three nodes.
        let job = |values: usize| format!(r#"{{"jobs":[{{"x":[{}],"id":"n"}}]}}"#, vec!["1"; values].join(","));
        assert!(matches!(read(job(limits::JOB_NODES - 3).as_bytes()).jobs[..], [Arrival::Job(_)]));
        let answer = read(job(limits::JOB_NODES - 2).as_bytes());
        assert!(
            matches!(&answer.jobs[..], [Arrival::Skipped { id: Some(id), limit: Limit::Nodes }] if id.as_str() == "n")
        );
    }

    #[test]
    fn a_job_of_just_the_depth_is_read_and_one_level_more_is_skipped() {
        let job = |depth: usize| {
            let levels = depth - 1;
            format!(r#"{{"jobs":[{{"x":{}{},"id":"d"}}]}}"#, "[".repeat(levels), "]".repeat(levels))
        };
        assert!(matches!(read(job(limits::JOB_DEPTH).as_bytes()).jobs[..], [Arrival::Job(_)]));
        for depth in [limits::JOB_DEPTH + 1, 63, 64, 65, 100_000] {
            let answer = read(job(depth).as_bytes());
            assert!(
                matches!(&answer.jobs[..], [Arrival::Skipped { id: Some(id), limit: Limit::Depth }] if id.as_str() == "d"),
                "{depth}: {:?}",
                answer.jobs
            );
        }
    }

    #[test]
    fn what_is_no_utf_8_is_skipped_with_its_id() {
        let answer = read(&b"{\"jobs\":[{\"id\":\"e\",\"x\":\"\xff\"}]}"[..]);
        assert!(matches!(&answer.jobs[..], [Arrival::Skipped { id: Some(_), limit: Limit::Encoding }]));
    }

    #[test]
    fn no_more_is_held_than_the_limit_of_an_answer() {
        let jobs = vec![job_of(limits::JOB_BYTES); 5].join(",");
        let answer = read(format!(r#"{{"jobs":[{jobs}]}}"#).as_bytes());
        assert!(matches!(answer.end, End::Rest));
        assert_eq!(answer.jobs.len(), 1);
        let tiny = vec!["{}"; limits::ANSWER_BYTES].join(",");
        let answer = read(format!(r#"{{"jobs":[{tiny}]}}"#).as_bytes());
        assert!(matches!(answer.end, End::Rest));
        assert!(answer.jobs.len() <= limits::ANSWER_BYTES / limits::JOB_OVERHEAD);
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes: Vec<u8>) {
            read(&bytes[..]);
        }

        #[test]
        fn any_structure_ends_without_a_panic(text in r#"\{"jobs":[\[\]{}",:a0\\ ]{0,60}"#) {
            read(text.as_bytes());
        }

        #[test]
        fn what_serde_reads_comes_out_the_same(jobs in prop::collection::vec(any_json(), 0..5)) {
            let text = serde_json::to_string_pretty(&serde_json::json!({"a": 1, "jobs": jobs, "z": [{}]})).unwrap();
            let answer = read(text.as_bytes());
            prop_assert!(matches!(answer.end, End::Complete));
            let read: Vec<serde_json::Value> =
                texts(&answer).into_iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(read, jobs);
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
